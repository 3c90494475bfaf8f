"""What the deployment files and their tests agree on."""

from dataclasses import fields

from proscale.triton_worker import WorkerConfig

WORKER_VARIABLES = {f"PROSCALE_{field.name.upper()}" for field in fields(WorkerConfig)} - {"PROSCALE_MAX_BATCH_SIZE"}
"""What the worker inside Triton reads from its environment; the number of pictures in a batch is Triton's to say."""
