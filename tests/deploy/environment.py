"""What the deployment files and their tests agree on."""

WORKER_VARIABLES = {f"PROSCALE_{name}" for name in ("CHECKPOINT", "DEVICE", "PRECISION", "THREADS", "WARMUP", "MAX_BATCH_PIXELS")}
"""What the worker inside Triton reads from its environment."""
