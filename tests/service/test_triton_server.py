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
from proscale_service.engines import triton_server
from proscale_service.engines.triton_connection import TritonConnection, generation, next_generation
from proscale_service.engines.triton_errors import ServerGone
from proscale_service.engines.triton_server import TritonServer
from proscale_service.errors import DeadlineExceeded

INFO = ModelInfo("small", "proscale", (1, 1, 1), "resnet", SMALL_CATEGORIES, "memory")
LATE = InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")
DEAD = InferenceServerException("Stub process 'proscale_0_0' is not healthy.", "StatusCode.INTERNAL")
AWAY = InferenceServerException("failed to connect to all addresses", "StatusCode.UNAVAILABLE")
FORBIDDEN = InferenceServerException("explicit model load / unload is not allowed if polling is enabled", "StatusCode.UNAVAILABLE")


UNLOADED = {"state": "UNAVAILABLE", "reason": "unloaded"}
FAILED = {"state": "UNAVAILABLE", "reason": "Internal: CheckpointError: no model folder at /swapped"}


class Client:
    """Stands for tritonclient's: answers canaries with `answer`, and writes down what it is told to do."""

    def __init__(self) -> None:
        self.answer: str | Exception = wire.description_to_json(INFO, config_to_json(SMALL_CONFIG), "print")
        self.live = True
        self.config: dict[str, Any] = {"name": "proscale", "parameters": {"checkpoint": {"string_value": "/swapped"}}}
        self.loadable: Exception | None = None
        self.told: list[tuple[Any, ...]] = []
        self.state = {"state": "READY"}

    async def infer(self, model: str, inputs: object, **_: object) -> "Client":
        if isinstance(self.answer, Exception):
            raise self.answer
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        return np.array([[str(self.answer).encode()]], np.object_)

    async def is_server_live(self, client_timeout: float) -> bool:
        return self.live

    async def get_model_repository_index(self, as_json: bool, client_timeout: float) -> dict[str, Any]:
        return {"models": [{"name": "another", "state": "READY"}, {"name": "proscale", "version": "1"} | self.state]}

    async def get_model_config(self, model: str, as_json: bool, client_timeout: float) -> dict[str, Any]:
        return {"config": self.config}

    async def unload_model(self, model: str, client_timeout: float) -> None:
        self.state = UNLOADED
        self.told.append(("unload", model))

    async def load_model(self, model: str, config: str | None, client_timeout: float) -> None:
        self.told.append(("load", model, config and json.loads(config)["parameters"]))
        if self.loadable:
            if self.state == UNLOADED:
                self.state = FAILED
            raise self.loadable
        self.state = {"state": "READY"}
        self.config = json.loads(config) if config else {"name": model}
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


HEALED = [("load", "proscale", {"checkpoint": {"string_value": "/swapped"}, "generation": {"string_value": "1"}})]
HEALED_CONFIG = next_generation({"name": "proscale", "parameters": {"checkpoint": {"string_value": "/swapped"}}})


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
    client.live = True
    for state in (UNLOADED, {"state": "LOADING"}, {"state": "UNLOADING"}, {}):
        client.state = state
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
    assert (server.up, client.told) == (False, HEALED)
    (record,) = caplog.records  # once per backoff, not once per canary
    assert record.fields["remedy"] == "start it with --model-control-mode=explicit"  # type: ignore[attr-defined]


async def test_a_model_that_cannot_be_loaded_as_it_was_stays_and_then_the_repositorys_is_loaded(
    server: TritonServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_server, "_HEAL_BACKOFF_S", (0.0, 0.0))
    server._heal_backoff = 0.0
    outcomes: list[str] = []
    server.on_heal = outcomes.append
    client.answer, client.loadable = DEAD, InferenceServerException("no such checkpoint", "StatusCode.INTERNAL")
    for _ in range(4):
        await server.probe()
    # The same number each time: that generation never was.
    assert (server.up, client.told, client.state) == (False, HEALED * 3, {"state": "READY"})
    await server.probe()
    assert client.told[3:] == [("unload", "proscale"), ("load", "proscale", None)]
    await server.probe()
    await server.probe()
    client.loadable = None
    await server.probe()
    assert server.up
    assert client.told[5:] == [("load", "proscale", None)] * 2
    assert outcomes == ["failed"] * 5 + ["loaded"]


async def test_any_gateway_finishes_what_another_one_could_not(client: Client) -> None:
    # One that has just been started, and knows nothing of what was tried before.
    server = TritonServer(TritonConnection("nowhere:1", "proscale"))
    server.connection._client = client
    client.answer, client.state = AWAY, FAILED
    for _ in range(2):
        await server.probe()
    assert (server.up, client.told) == (True, [("load", "proscale", None)])


async def test_what_another_gateway_has_healed_meanwhile_is_not_loaded_again(server: TritonServer, client: Client) -> None:
    client.answer = DEAD
    await server.probe()
    client.config = HEALED_CONFIG
    await server.probe()  # this canary may have been sent before
    assert (server.up, client.told) == (False, [])
    await server.probe()
    assert (server.up, [generation(HEALED_CONFIG), generation(client.config)]) == (True, [1, 2])


async def test_a_server_that_hangs_is_found_out_while_the_canary_waits(
    server: TritonServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_check_s", 0.01)
    asked: list[bool] = []

    async def forever(*_: object, **__: object) -> Client:
        await asyncio.Event().wait()
        return client

    async def lives_twice(client_timeout: float) -> bool:
        asked.append(len(asked) < 2)
        return asked[-1]

    client.infer, client.is_server_live = forever, lives_twice  # type: ignore[method-assign]
    await server.probe()
    assert (server.up, client.told) == (False, [])
    assert asked[:3] == [True, True, False]


async def test_nothing_is_sent_after_the_deadline(server: TritonServer, client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        await server.infer([], 0.0)


@pytest.mark.parametrize("fate", ["hangs", "dies", "is healed by another gateway"])
async def test_lost_pictures_are_cancelled_and_those_of_a_busy_server_are_not(server: TritonServer, client: Client, fate: str) -> None:
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
