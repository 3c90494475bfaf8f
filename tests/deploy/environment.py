"""What the deployment files and their tests agree on."""

from proscale.runtime import DESCRIPTIONS

WORKER_VARIABLES = {f"PROSCALE_{name.upper()}" for name in (*DESCRIPTIONS, "log_format", "log_level", "otlp_endpoint")}
"""What the worker inside Triton reads from its environment; the number of pictures in a batch is Triton's to say."""
