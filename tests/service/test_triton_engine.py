"""What the Triton engine decides without a server: what a refusal means, whom to send a picture to, when to send it again."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG
from tritonclient.grpc import InferInput

from proscale import wire
from proscale.errors import ImageError, ParameterError
from proscale.geometry import resize_picture
from proscale.planning import plan_picture
from proscale.results import ModelInfo, Prediction, SegmentationOptions
from proscale_service.engines.base import Picture, Surroundings
from proscale_service.engines.triton import TritonEngine, tensors_of
from proscale_service.engines.triton_connection import TritonConnection
from proscale_service.engines.triton_errors import ModelChanged, ProcessDied, ServerGone, WorkerFailure, to_exception
from proscale_service.engines.triton_server import Served, TritonServer
from proscale_service.errors import DeadlineExceeded, Overloaded, Unavailable
from proscale_service.metrics import Metrics
from proscale_service.settings import Settings

from .serving import process

INFO = ModelInfo("small", "proscale", (1, 1, 1), "resnet", SMALL_CATEGORIES, "memory")
PICTURE = np.zeros((60, 80, 3), np.uint8)
READ = Picture(
    resize_picture(PICTURE, SMALL_CONFIG.preprocess), SegmentationOptions(), plan_picture(SMALL_CONFIG, 60, 80), 0.1, lambda: PICTURE
)
ANSWER = wire.prediction_to_json(Prediction({}, plan_picture(SMALL_CONFIG, 60, 80), {"infer": 0.5}), 3, "first").encode()


@pytest.mark.parametrize(
    ("message", "status", "expected", "text"),
    [
        ("[request id: <id_unknown>] Exceeds maximum queue size", "UNAVAILABLE", Overloaded, "full"),
        ("[request id: 7] Request timeout expired", "UNAVAILABLE", DeadlineExceeded, "deadline"),
        ("Deadline Exceeded", "DEADLINE_EXCEEDED", DeadlineExceeded, "deadline"),
        ("failed to connect to all addresses", "UNAVAILABLE", ServerGone, "connect"),
        ("Stream removed (Socket closed)", "UNAVAILABLE", ServerGone, "Socket"),
        ("Request for unknown model: 'proscale' is not found", "NOT_FOUND", ServerGone, "unknown"),
        ("Stub process 'proscale_0_0' is not healthy.", "INTERNAL", ProcessDied, "healthy"),
        ("ParameterError: the model has no label x: y", "INVALID_ARGUMENT", ParameterError, "^the model has no label x: y$"),
        ("ImageError: too small", "INVALID_ARGUMENT", ImageError, "^too small$"),
        ("ModelChangedError: other sizes", "INVALID_ARGUMENT", ModelChanged, "^other sizes$"),
        ("the worker failed: RuntimeError: ImageError: out of memory", "INTERNAL", WorkerFailure, "out of memory"),
    ],
)
def test_what_a_refusal_means(message: str, status: str, expected: type[Exception], text: str) -> None:
    with pytest.raises(expected, match=text):
        raise to_exception(message, f"StatusCode.{status}")


class Scripted(TritonServer):
    """A server that does what the test says; one that is there can be had in tests/deploy."""

    def __init__(self, *outcomes: Exception | bytes, up: bool = True) -> None:
        super().__init__(TritonConnection("nowhere:1", "proscale"))
        self.outcomes, self.up, self.asked, self.described = list(outcomes), up, 0, 0
        self.served = Served(INFO, SMALL_CONFIG, "first")

    async def infer(self, inputs: Sequence[InferInput], seconds: float, request_id: str = "") -> bytes:
        self.asked += 1
        await asyncio.sleep(0.01)
        outcome = self.outcomes.pop(0) if self.outcomes else ANSWER
        if isinstance(outcome, Exception):
            self.up = not isinstance(outcome, ServerGone)
            raise outcome
        return outcome

    async def describe_anew(self, known: Served) -> None:
        self.described += 1
        if self.described == 1:
            self.served = Served(INFO, SMALL_CONFIG, "second")


def engine_of(*servers: TritonServer) -> TritonEngine:
    return TritonEngine(Surroundings(Settings(engine="triton"), Metrics(), ThreadPoolExecutor(2)), servers)


async def segment(*servers: TritonServer, times: int = 1) -> list[object]:
    engine = engine_of(*servers)
    deadline = asyncio.get_running_loop().time() + 60
    asked = [engine.send(READ, deadline) for _ in range(times)]
    return list(await asyncio.gather(*asked, return_exceptions=True))


def kinds(results: list[object]) -> list[str]:
    return [type(result).__name__ for result in results]


async def test_the_least_loaded_of_those_that_are_up_is_asked() -> None:
    servers = [Scripted(), Scripted(), Scripted(up=False)]
    servers[0].in_flight = 2
    assert kinds(await segment(*servers, times=4)) == ["Computed"] * 4
    # With two more in flight the first gets its share only when the second has as many.
    assert [server.asked for server in servers] == [1, 3, 0]
    assert [server.in_flight for server in servers] == [2, 0, 0]


async def test_equally_loaded_servers_take_turns() -> None:
    servers = [Scripted(), Scripted()]
    engine = engine_of(*servers)
    for _ in range(6):
        await engine.send(READ, asyncio.get_running_loop().time() + 60)
    assert [server.asked for server in servers] == [3, 3]


async def test_a_picture_that_was_lost_with_its_server_is_sent_once_more() -> None:
    servers = [Scripted(ServerGone("gone")), Scripted(), Scripted()]
    assert kinds(await segment(*servers)) == ["Computed"]
    assert sum(server.asked for server in servers) == 2
    lost = [Scripted(ServerGone("gone")) for _ in range(3)]
    assert kinds(await segment(*lost)) == ["Unavailable"]
    assert sum(server.asked for server in lost) == 2


async def test_nobody_there_is_unavailable_at_once() -> None:
    (error,) = await segment(Scripted(up=False))
    assert isinstance(error, Unavailable)
    assert error.retry_after
    assert kinds(await segment(Scripted(ServerGone("gone")))) == ["Unavailable"]
    with pytest.raises(Unavailable):
        engine_of(Scripted(up=False)).plan(60, 80, ("panoptic",))


@pytest.mark.parametrize("error", [Overloaded("full"), DeadlineExceeded("late"), ParameterError("no"), WorkerFailure("out of memory")])
async def test_other_failures_are_not_sent_again(error: Exception) -> None:
    servers = [Scripted(error), Scripted(error)]
    assert await segment(*servers) == [error]
    assert sum(server.asked for server in servers) == 1


async def test_a_changed_model_is_described_and_asked_again() -> None:
    server = Scripted(ModelChanged("other sizes"))
    assert kinds(await segment(server)) == ["Computed"]
    assert (server.asked, server.described) == (2, 1)
    stubborn = Scripted(*[ModelChanged("other sizes") for _ in range(9)])
    assert kinds(await segment(stubborn)) == ["ModelChanged"]
    assert (stubborn.asked, stubborn.described) == (2, 2)


async def test_an_answer_carries_plan_batch_and_times() -> None:
    (answer,) = await segment(Scripted())
    assert answer.prediction.plan == plan_picture(SMALL_CONFIG, 60, 80)  # type: ignore[attr-defined]
    assert (answer.batch_size, answer.info) == (3, INFO)  # type: ignore[attr-defined]
    assert answer.prediction.timings["infer"] == 0.5  # type: ignore[attr-defined]


def test_only_pixels_that_the_network_sees_are_sent() -> None:
    picture = resize_picture(np.full((600, 800, 3), 9, np.uint8), SMALL_CONFIG.preprocess)
    inputs = tensors_of(picture, SegmentationOptions(), Served(INFO, SMALL_CONFIG, "first"))
    assert {tensor.name(): tensor.shape() for tensor in inputs} == {"PICTURE": [1, 96, 128, 3], "SIZES": [1, 4], "OPTIONS": [1, 1]}


@pytest.mark.slow
def test_without_torch_and_without_a_server_it_starts_and_says_so() -> None:
    block = "import sys; sys.modules['torch'] = None"
    with process(first=block, PROSCALE_ENGINE="triton", PROSCALE_TRITON_URL="127.0.0.1:9") as (url, _):
        assert httpx.get(f"{url}/health/startup").status_code == 200
        assert httpx.get(f"{url}/health/ready").status_code == 503


def test_torch_is_never_imported() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import proscale.flops, proscale.config, proscale.planning, proscale.wire\n"
        "import proscale_service.app, proscale_service.engines.triton, proscale_service.client\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
