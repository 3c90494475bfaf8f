"""One real server for the tests of a folder: starting it takes seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.deploy.triton.server import TritonServer
from tests.service.collector import Collector


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the server's spans go; it makes some only of requests that carry a trace."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path, collector: Collector) -> Iterator[TritonServer]:
    """A running server with the small model. A test that breaks the server starts another one."""
    # As many threads as here: sums in another order have other last bits.
    environment = {
        "PROSCALE_CHECKPOINT": str(small_checkpoint),
        "PROSCALE_THREADS": str(torch.get_num_threads()),
        "PROSCALE_OTLP_ENDPOINT": collector.url,
    }
    server = TritonServer(tmp_path_factory.mktemp("triton"), environment)
    server.start()
    yield server
    server.kill()
