"""The Triton worker, which knows nothing of the service, reads the same variables from its environment and understands them alike."""

from pathlib import Path

import pytest

from proscale.triton_worker import read_config
from proscale_service.settings import Settings

VALUES = {
    "PROSCALE_CHECKPOINT": ("/models/mine", ""),
    "PROSCALE_DEVICE": ("cpu", "cuda", "cuda:1"),
    "PROSCALE_PRECISION": ("float32", "bfloat16", ""),
    "PROSCALE_CUDA_GRAPHS": ("1", "True", "yes", "on", "0", "false", "no", "off"),
    "PROSCALE_COMPILE": ("1", "off"),
    "PROSCALE_THREADS": ("3",),
    "PROSCALE_WARMUP": ("48x64, 64x48", ""),
    "PROSCALE_MAX_BATCH_PIXELS": ("1000000",),
    "PROSCALE_FEATURE_CACHE_BYTES": ("1000000", "0"),
}


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize(("name", "value"), [("PROSCALE_DEVICE", "cpu"), *((name, value) for name in VALUES for value in VALUES[name])])
def test_a_variable_means_to_the_worker_what_it_means_to_the_server(
    name: str, value: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"PROSCALE_DEVICE": device} | {name: value}
    if name == "PROSCALE_COMPILE":
        environment["PROSCALE_WARMUP"] = "48x64"
    for variable, text in environment.items():
        monkeypatch.setenv(variable, text)
    server = Settings()
    worker = read_config(dict.fromkeys(("checkpoint", "device", "cuda_graphs", "warmup"), ""), "CPU", "0", environment)
    assert worker == server.runtime


def test_a_parameter_of_the_model_wins_over_the_environment() -> None:
    environment = {"PROSCALE_CUDA_GRAPHS": "1", "PROSCALE_WARMUP": "48x64", "PROSCALE_CHECKPOINT": str(Path("/a"))}
    config = read_config({"cuda_graphs": "false", "warmup": "64x48", "checkpoint": "/b"}, "GPU", "0", environment)
    assert (config.cuda_graphs, config.warmup, config.checkpoint) == (False, ((64, 48),), Path("/b"))
