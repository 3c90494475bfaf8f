"""What one server's canary concludes, for faults that a real server does not show on demand; the others are in tests/deploy."""

import asyncio
import json
import logging
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from proscale import wire
from proscale.config_json import config_to_json
from proscale.results import ModelInfo
from proscale_service.engines.triton_connection import TritonConnection
from proscale_service.engines.triton_errors import ServerGone
from proscale_service.engines.triton_server import TritonServer
from proscale_service.errors import DeadlineExceeded

INFO = ModelInfo("small", "proscale", (1, 1, 1), "resnet", SMALL_CATEGORIES, "memory")
LATE = InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")
DEAD = InferenceServerException("Stub process 'proscale_0_0' is not healthy.", "StatusCode.INTERNAL")
AWAY = InferenceServerException("failed to connect to all addresses", "StatusCode.UNAVAILABLE")
FORBIDDEN = InferenceServerException("explicit model load / unload is not allowed if polling is enabled", "StatusCode.UNAVAILABLE")


class Client:
    """Stands for tritonclient's: answers canaries with `answer`, and writes down what it is told to do."""

    def __init__(self) -> None:
        self.answer: str | Exception = wire.description_to_json(INFO, config_to_json(SMALL_CONFIG), "print")
        self.live = True
        self.loadable: Exception | None = None
        self.told: list[tuple[Any, ...]] = []
        self.loaded = True

    async def infer(self, model: str, inputs: object, **_: object) -> "Client":
        if isinstance(self.answer, Exception):
            raise self.answer
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        return np.array([[str(self.answer).encode()]], np.object_)

    async def is_server_live(self, client_timeout: float) -> bool:
        return self.live

    async def is_model_ready(self, model: str, client_timeout: float) -> bool:
        return self.loaded

    async def get_model_config(self, model: str, as_json: bool, client_timeout: float) -> dict[str, Any]:
        return {"config": {"name": model, "parameters": "as loaded"}}

    async def unload_model(self, model: str, client_timeout: float) -> None:
        if self.loadable:
            raise self.loadable
        self.loaded = False
        self.told.append(("unload", model))

    async def load_model(self, model: str, config: str | None, client_timeout: float) -> None:
        self.told.append(("load", model, config and json.loads(config)))
        if self.loadable:
            raise self.loadable
        self.loaded = True
        self.answer = Client().answer


@pytest.fixture
def client() -> Client:
    return Client()


@pytest_asyncio.fixture
async def server(client: Client) -> TritonServer:
    """A server that `client` has found up."""
    server = TritonServer(TritonConnection("nowhere:1", "proscale"))
    server.connection._client = client
    await server.probe()
    assert server.up
    return server


HEALED = [("unload", "proscale"), ("load", "proscale", {"name": "proscale", "parameters": "as loaded"})]


async def test_a_dead_model_is_loaded_again_as_it_was(server: TritonServer, client: Client) -> None:
    changes: list[bool] = []
    server.on_change = lambda: changes.append(server.up)
    client.answer = DEAD
    await server.probe()
    assert (server.up, client.told) == (False, [])
    await server.probe()
    assert (server.up, client.told) == (True, HEALED)
    assert changes == [False, True]


async def test_a_busy_server_stays_and_a_silent_one_is_healed(server: TritonServer, client: Client) -> None:
    client.answer = LATE
    for _ in range(5):
        await server.probe()
    assert (server.up, client.told) == (True, [])
    server._last_answer -= 61
    await server.probe()
    assert (server.up, client.told) == (False, [])
    await server.probe()
    assert (server.up, client.told) == (True, HEALED)


async def test_a_busy_server_is_not_healed_by_a_gateway_that_just_started() -> None:
    server, client = TritonServer(TritonConnection("nowhere:1", "proscale")), Client()
    server.connection._client, client.answer = client, LATE
    for _ in range(5):
        await server.probe()
    assert (server.up, client.told) == (False, [])


async def test_a_server_that_hangs_is_down_at_once(server: TritonServer, client: Client) -> None:
    client.answer, client.live = LATE, False
    for _ in range(3):
        await server.probe()
        assert (server.up, client.told) == (False, [])


async def test_a_server_that_is_gone_or_whose_model_was_unloaded_is_left_alone(server: TritonServer, client: Client) -> None:
    client.answer, client.live = AWAY, False
    for _ in range(3):
        await server.probe()
    client.live, client.loaded = True, False
    for _ in range(3):
        await server.probe()
    assert (server.up, client.told) == (False, [])


async def test_a_worker_of_another_version_is_down_but_not_dead(server: TritonServer, client: Client) -> None:
    client.answer = wire.description_to_json(INFO, config_to_json(SMALL_CONFIG) | {"name": "x", "backbone": {"type": "new"}}, "p2")
    for _ in range(5):
        await server.probe()
    assert (server.up, client.told) == (False, [])


async def test_when_models_may_not_be_loaded_the_log_says_what_to_do(
    server: TritonServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.answer, client.loadable = DEAD, FORBIDDEN
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            await server.probe()
    assert (server.up, client.told) == (False, [])
    (record,) = caplog.records  # once per backoff, not once per canary
    assert record.fields["remedy"] == "start it with --model-control-mode=explicit"  # type: ignore[attr-defined]


async def test_a_model_that_cannot_be_loaded_as_it_was_is_loaded_as_the_repository_has_it(server: TritonServer, client: Client) -> None:
    server._heal_backoff = 0.0

    async def broken(*_: object, **__: object) -> None:
        client.loadable = InferenceServerException("no such checkpoint", "StatusCode.INTERNAL")

    unload = client.unload_model

    async def unload_then_break(model: str, client_timeout: float) -> None:
        await unload(model, client_timeout)
        await broken()

    client.answer, client.unload_model = DEAD, unload_then_break  # type: ignore[method-assign]
    for _ in range(2):
        await server.probe()
    client.loadable = None
    await server.probe()
    assert (server.up, client.told) == (True, [*HEALED, ("load", "proscale", None)])


async def test_nothing_is_sent_after_the_deadline(server: TritonServer, client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        await server.infer([], 0.0)


@pytest.mark.parametrize("fate", ["hangs", "dies", "is healed by another gateway"])
async def test_pictures_that_are_lost_are_given_up_and_those_of_a_busy_server_are_not(
    server: TritonServer, client: Client, fate: str
) -> None:
    forever = asyncio.Event()
    canary, client.answer = client.infer, LATE
    cancelled: list[str] = []

    async def hang(model: str, inputs: list[InferInput], priority: int, **_: object) -> Client:
        if priority == 1:
            return await canary(model, inputs)
        try:
            await forever.wait()
        except asyncio.CancelledError:
            cancelled.append(model)
            raise
        return client

    client.infer = hang  # type: ignore[assignment, method-assign]
    calls = [asyncio.create_task(server.infer([], 60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    await server.probe()
    assert (server.up, sum(call.done() for call in calls)) == (True, 0)
    # A client that leaves cancels its own picture, and no other.
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    assert calls[0].cancelled()
    assert len(cancelled) == 1
    if fate == "hangs":
        client.live = False
    elif fate == "dies":
        client.answer = DEAD
    else:
        client.answer = InferenceServerException("Request for unknown model: 'proscale'", "StatusCode.NOT_FOUND")
        await server.probe()
        assert (server.up, sum(call.done() for call in calls)) == (False, 1)  # it may have been unloaded after they are done
        client.answer = Client().answer
    await server.probe()
    results = await asyncio.gather(*calls[1:], return_exceptions=True)
    assert [type(result) for result in results] == [ServerGone] * 2
    assert (server.up, len(cancelled), server.connection._calls) == (False, 3, set())
