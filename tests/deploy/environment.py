"""What the deployment files and their tests agree on."""

WORKER_VARIABLES = {"PROSCALE_CHECKPOINT", "PROSCALE_DEVICE", "PROSCALE_THREADS", "PROSCALE_WARMUP"}
"""What the worker inside Triton reads from its environment."""
