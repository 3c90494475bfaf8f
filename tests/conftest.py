"""Fixtures that every test may ask for, and the rule that nothing is skipped unseen."""

import os
from collections.abc import Generator
from pathlib import Path

import certifi
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network

from proscale.checkpoints.model_folder import save_folder
from proscale.predictor import Predictor

# Hypothesis times examples and gives up on slow ones; on a busy machine that says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With NO_SKIPS=1 a skipped test fails: where all tools are, nothing may go unseen. Those that need CUDA, containers or another
    processor are excused."""
    report = yield
    excused = any(item.get_closest_marker(name) for name in ("gpu", "nvcc", "docker", "processor"))
    if os.environ.get("NO_SKIPS") == "1" and report.skipped and not excused:
        report.outcome, report.longrepr = "failed", f"skipped although NO_SKIPS=1: {report.longrepr}"
    return report


LONGEST = (
    "tests/model/test_compiled.py",
    "tests/deploy/triton/",
    "tests/model/bulk/test_on_ray.py",
    "tests/service/chaos/",
    "tests/model/ops/",
    "tests/service/annotation/",
    "tests/service/test_cli.py",
    "tests/model/training/",
    "tests/model/checkpoints/",
    "tests/packaging/",
)
"""Files and folders that take longest. A file runs in one process, so these start first, and short ones fill the gaps at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of LONGEST first, else as they were found."""

    def rank(item: pytest.Item) -> int:
        return next((i for i, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every function and client of httpx reads the certificates of all authorities, which takes longer than a request. No test needs
    them, so there is one."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(first + end)
    os.environ["SSL_CERT_FILE"] = str(path)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights: quick, and different for every query."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    save_folder(folder, SMALL_CONFIG, SMALL_CATEGORIES, small_network().state_dict())
    return folder


@pytest.fixture(scope="session")
def small_predictor(small_checkpoint: Path) -> Predictor:
    """A predictor of `small_checkpoint`."""
    return Predictor.load(small_checkpoint)


@pytest.fixture
def picture() -> np.ndarray:
    """(60, 80, 3) uint8: a smooth picture with a little noise."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:60, :80]
    smooth = np.stack([x * 3, y * 4, 255 - x - y], -1)
    return (smooth + rng.integers(0, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
