"""Fixtures of the service's tests."""

import os
from collections.abc import Iterator

import pytest

from .predictors import ThresholdPredictor
from .serving import Running, serving


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PROSCALE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def engine() -> ThresholdPredictor:
    """The engine behind `server`."""
    return ThresholdPredictor()


@pytest.fixture(scope="module")
def server(engine: ThresholdPredictor) -> Iterator[Running]:
    """A server shared by a file's tests."""
    with serving(engine, max_upload_bytes=2_000_000, max_items=4) as running:
        yield running
