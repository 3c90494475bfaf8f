"""One Triton server as the gateway sees it: one long-lived connection, a canary that tells whether the model really computes, healing.

Triton calls itself ready when the process that runs the model is dead, and does not start another one. So health here rests on a
request that goes through the network (`wire.DESCRIBE`), after a few seconds without an answer and at once after a failure. When the
server lives and says that the model is ready, yet the canary fails, the model is unloaded and loaded again.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from proscale import wire
from proscale.config import NetworkConfig
from proscale.config_json import config_from_json
from proscale.errors import CheckpointError
from proscale.results import ModelInfo
from proscale_service import logs
from proscale_service.engines.triton_errors import ModelChanged, ProcessDied, ServerGone, WorkerFailure, meaning
from proscale_service.errors import DeadlineExceeded, Overloaded

_LOG = logging.getLogger(__name__)

_CANARY_SIDE = 32
_CANARY_SECONDS = 10.0
_CONTROL_SECONDS = 3.0
"""For calls that do not go through the model."""
_LOAD_SECONDS = 300.0
_SILENCE_SECONDS = 60.0
"""A server that is busy may leave the canary unanswered for as long as a batch takes; longer than this no batch takes."""
_UP_INTERVAL_S, _DOWN_INTERVAL_S = 3.0, 0.5
_FAILURES_BEFORE_HEALING = 2
_HEAL_BACKOFF_S = (2.0, 60.0)
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes between attempts to connect; here a server that returns is to be found within seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Nor does it look names up again within 30 seconds; a worker's name may get an address, or another one, at any time.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # One connection per channel, closed with it, though another gateway in this process may speak to the same server.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Served:
    """What a server computes with."""

    info: ModelInfo
    config: NetworkConfig
    fingerprint: str


class TritonServer:
    """A connection to one server. Everything belongs to the event loop's thread."""

    def __init__(self, url: str, model: str) -> None:
        """Args: url: HOST:PORT of the gRPC service; model: its name on the server."""
        self.url, self._model = url, model
        self.on_change: Callable[[], None] = lambda: None
        """Called when `up` changes."""
        self.up = False
        """Whether requests should be sent here."""
        self.in_flight = 0
        """Pictures that are being prepared for it or that it has not answered."""
        self.served: Served | None = None
        """The model of the last description; None before the first."""
        self._client: Any = None
        self._wake = asyncio.Event()
        self._looking = asyncio.Lock()
        self._heard = time.monotonic()
        self._failures = 0
        self._reason = ""
        self._heal_after, self._heal_backoff = 0.0, _HEAL_BACKOFF_S[0]
        self._unloaded: dict[str, Any] | None = None
        self._calls: set[asyncio.Task[bytes]] = set()
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect; returns when the server answered for the first time, or did not."""
        self._client = InferenceServerClient(self.url, channel_args=_CHANNEL)
        await self.look()
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name=f"canary {self.url}")

    async def close(self) -> None:
        """Disconnect."""
        if self._watcher:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        if self._client:
            await self._client.close()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count as one picture in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def infer(self, inputs: Sequence[InferInput], seconds: float) -> bytes:
        """The answer's JSON text to a request made of `request_tensors`.

        Args:
            seconds: until the deadline; Triton drops the request when it has waited for so long.

        Raises:
            Whatever `triton_errors.meaning` makes of Triton's words.
        """
        try:
            text = await self._call(inputs, seconds)
        except ServerGone as error:
            if self.up:  # else it is known, by a better reason
                self._set_down(error)
            self._wake.set()
            raise
        except (WorkerFailure, ModelChanged):
            self._wake.set()
            raise
        self._heard = time.monotonic()
        return text

    def check(self, fingerprint: str) -> None:
        """Notice by an answer's fingerprint that another model was loaded, and have it described soon."""
        if self.served is not None and fingerprint != self.served.fingerprint:
            self._wake.set()

    async def look(self) -> None:
        """Send a canary now and learn from it."""
        async with self._looking:
            await self._look()

    async def describe_anew(self, known: Served) -> None:
        """Have the model described, unless that was done since `known`."""
        async with self._looking:
            if self.served is known:
                await self._look()

    async def _watch(self) -> None:
        while True:
            # Spread out, so that several gateways do not heal one server at the same moment.
            pause = _UP_INTERVAL_S if self.up else _DOWN_INTERVAL_S * random.uniform(1, 2)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            if not self._wake.is_set() and self.up and time.monotonic() - self._heard < _UP_INTERVAL_S:
                continue  # an answer to a picture says as much, and many gateways' canaries would cost a busy server dearly
            self._wake.clear()
            try:
                await self.look()
            except Exception as error:
                # A fault of this file must not end the loop that health rests on.
                logs.event(_LOG, logging.ERROR, "canary failed unexpectedly", error=error, server=self.url)

    async def _look(self) -> None:
        try:
            text = await self._infer(_CANARY, _CANARY_SECONDS, priority=1)
        except (DeadlineExceeded, Overloaded) as error:
            silent = time.monotonic() - self._heard
            if silent >= _SILENCE_SECONDS or not await self._says("is_server_live"):
                self._set_down(error)
                self._give_up()
                await self._failed(error)
            elif not self.up:  # a server that is up stays so: it is busy
                self._set_down(error)
            return
        except (ServerGone, WorkerFailure) as error:
            if isinstance(error, ProcessDied):
                self._give_up()
            await self._failed(error)
            return
        try:
            description = wire.description_from_json(text)
            if self.served is None or self.served.fingerprint != description.fingerprint:
                self.served = Served(description.info, config_from_json(description.config, self.url), description.fingerprint)
        except (CheckpointError, ValueError, TypeError, KeyError) as error:
            # Loading it again would not help: gateway and worker are of different versions.
            self._set_down(error)
            return
        self._heard = time.monotonic()
        self._failures, self._reason, self._heal_after, self._heal_backoff = 0, "", 0.0, _HEAL_BACKOFF_S[0]
        self._unloaded = None
        if not self.up:
            self._give_up()  # what is still on its way was sent before it went down
            self.up = True
            logs.event(_LOG, logging.INFO, "Triton server is up", server=self.url, model=self.served.info.name)
            self.on_change()

    def _set_down(self, error: Exception) -> None:
        # Asked once a second, told once per kind: what follows the semicolon is another try's detail.
        reason = str(error).partition(";")[0]
        if self.up or reason != self._reason:
            self._reason = reason
            logs.event(_LOG, logging.WARNING, "Triton server is down", server=self.url, reason=str(error))
        if self.up:
            self.up = False
            self.on_change()

    async def _failed(self, error: Exception) -> None:
        self._set_down(error)
        self._failures += 1
        if self._failures < _FAILURES_BEFORE_HEALING or time.monotonic() < self._heal_after or not await self._says("is_server_live"):
            return
        # A model that somebody unloaded, or that is being loaded, is left alone, unless it was unloaded here.
        if self._unloaded is not None or await self._says("is_model_ready", self._model):
            await self._heal()

    async def _heal(self) -> None:
        """Unload and load, keeping the configuration that was served, which may carry another checkpoint than the repository's."""
        self._heal_after = time.monotonic() + self._heal_backoff
        self._heal_backoff = min(2 * self._heal_backoff, _HEAL_BACKOFF_S[1])
        logs.event(_LOG, logging.WARNING, "the model is dead though the server lives; loading it again", server=self.url, model=self._model)
        client = self._client
        try:
            if self._unloaded is None:
                answer = await client.get_model_config(self._model, as_json=True, client_timeout=_CONTROL_SECONDS)
                self._unloaded = answer["config"]
                await client.unload_model(self._model, client_timeout=_LOAD_SECONDS)
                await self._until_unloaded()
            # After one failure without the old configuration: then the repository's is the better guess.
            config, self._unloaded = self._unloaded, {}
            await client.load_model(self._model, config=json.dumps(config) if config else None, client_timeout=_LOAD_SECONDS)
        except InferenceServerException as error:
            remedy = "start it with --model-control-mode=explicit" if "not allowed" in str(error) else "see its log"
            logs.event(_LOG, logging.ERROR, "the model could not be loaded again", server=self.url, reason=str(error), remedy=remedy)
        else:
            logs.event(_LOG, logging.INFO, "the model is loaded again", server=self.url, model=self._model)
            await self._look()

    async def _call(self, inputs: Sequence[InferInput], seconds: float) -> bytes:
        """`_infer`, unless the server is given up meanwhile; then ServerGone."""
        call = asyncio.create_task(self._infer(inputs, seconds, priority=0))
        # Marks its failure as seen: asyncio complains about those that nobody awaited.
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._calls.add(call)
        try:
            # Waited for, not awaited: whoever gives the server up must not look as if he cancelled the caller.
            await asyncio.wait({call})
            if call.cancelled():
                raise ServerGone("it hangs, or died with the picture")
            return call.result()
        finally:
            call.cancel()
            self._calls.discard(call)

    def _give_up(self) -> None:
        """Wait no longer for what was sent to a server that hangs, cannot be reached or lost it: another one may do it in time."""
        for call in self._calls:
            call.cancel()

    async def _until_unloaded(self) -> None:
        end = time.monotonic() + _LOAD_SECONDS
        while time.monotonic() < end and await self._says("is_model_ready", self._model):
            await asyncio.sleep(0.05)

    async def _says(self, question: str, *arguments: str) -> bool:
        try:
            return bool(await getattr(self._client, question)(*arguments, client_timeout=_CONTROL_SECONDS))
        except InferenceServerException:
            return False

    async def _infer(self, inputs: Sequence[InferInput], seconds: float, priority: int) -> bytes:
        if seconds <= 0:
            raise DeadlineExceeded("the deadline passed before the picture was sent")
        try:
            result = await self._client.infer(
                self._model, inputs, priority=priority, timeout=max(1, round(seconds * 1e6)), client_timeout=seconds
            )
        except InferenceServerException as error:
            raise meaning(error.message() or "", error.status() or "") from error
        text: bytes = result.as_numpy(wire.RESULT)[0, 0]
        return text


def request_tensors(picture: NDArray[np.uint8], sizes: tuple[int, int, int, int], options: str) -> list[InferInput]:
    """A request as `wire` describes it. Args: picture: padded, (H, W, 3); sizes: resized height and width, then the output's."""
    values: dict[str, tuple[NDArray[Any], str]] = {
        wire.PICTURE: (picture[None], "UINT8"),
        wire.SIZES: (np.array([sizes], np.int32), "INT32"),
        wire.OPTIONS: (np.array([[options.encode()]], np.object_), "BYTES"),
    }
    inputs = []
    for name, (value, kind) in values.items():
        tensor = InferInput(name, value.shape, kind)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


_CANARY = request_tensors(np.zeros((_CANARY_SIDE, _CANARY_SIDE, 3), np.uint8), (_CANARY_SIDE,) * 4, wire.DESCRIBE)
