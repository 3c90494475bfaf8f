"""A predictor from a runtime configuration: what the server and the Triton worker both do when they start."""

import torch

from proscale.predictor import Predictor
from proscale.processors import choose_threads, processors
from proscale.runtime import RuntimeConfig


def load_predictor(config: RuntimeConfig) -> Predictor:
    """Load the model; call it on the thread that will compute, because torch counts threads per thread.

    Raises:
        CheckpointError: model, device or configuration cannot be used; the text names the remedy.
    """
    if config.threads is not None:
        torch.set_num_threads(choose_threads(config.threads, processors()))
    return Predictor.load(
        config.checkpoint,
        device=config.device,
        precision=config.precision,
        cuda_graphs=config.cuda_graphs,
        compile_for=config.warmup if config.compile else (),
        feature_cache_bytes=config.feature_cache_bytes,
    )
