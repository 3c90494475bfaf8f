"""One Triton server as the gateway sees it: a canary that tells whether the model really computes, and healing.

Triton calls itself ready when the process that runs the model is dead, and does not start another one. So health here rests on a
request that goes through the network (`wire.DESCRIBE`), after a few seconds without an answer and at once after a failure. When the
server lives and says that the model is ready, yet the canary fails, the model is loaded again.

Nothing of that is kept here: what is to be done follows from what the server says of its model, so that any gateway can finish what
another one began, however often either is started anew.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from proscale import wire
from proscale.config import NetworkConfig
from proscale.config_json import config_from_json
from proscale.errors import CheckpointError
from proscale.results import ModelInfo
from proscale_service import logs
from proscale_service.engines.triton_connection import ModelState, TritonConnection, generation, next_generation, request_tensors
from proscale_service.engines.triton_errors import ModelChanged, ProcessDied, ServerGone, WorkerFailure
from proscale_service.errors import DeadlineExceeded, Overloaded
from proscale_service.metrics import HEAL_OUTCOMES

_LOG = logging.getLogger(__name__)

_CANARY_SIDE = 32
_CANARY_SECONDS = 10.0
_CANARY_PRIORITY = 1
_CANARY = request_tensors(np.zeros((_CANARY_SIDE, _CANARY_SIDE, 3), np.uint8), (_CANARY_SIDE,) * 4, wire.DESCRIBE)
_SILENCE_SECONDS = 60.0
"""A server that is busy may leave the canary unanswered for as long as a batch takes; longer than this no batch takes."""
_DOWN_INTERVAL_S = 0.5
_FAILURES_BEFORE_HEALING = 2
_HEAL_BACKOFF_S = (2.0, 60.0)
_HEALS_BEFORE_REPOSITORY = 3
"""So often a model is loaded as it was, before its repository's configuration is the better guess."""
_HEALED, _NOT_HEALED = HEAL_OUTCOMES


@dataclass(frozen=True)
class Served:
    """What a server computes with."""

    info: ModelInfo
    config: NetworkConfig
    fingerprint: str


class TritonServer:
    """A server and what is known of its health. Everything belongs to the event loop's thread."""

    def __init__(self, connection: TritonConnection, check_s: float = 3.0) -> None:
        """Args: check_s: seconds without an answer until a canary is sent, and again until the server is asked whether it lives."""
        self.connection, self._check_s = connection, check_s
        self.on_change: Callable[[], None] = lambda: None
        """Called when `up` changes."""
        self.on_heal: Callable[[str], None] = lambda outcome: None
        """Called with one of `metrics.HEAL_OUTCOMES`, each time the model was to be loaded again."""
        self.up = False
        """Whether requests should be sent here."""
        self.in_flight = 0
        """Pictures that were sent and are not answered."""
        self.served: Served | None = None
        """The model of the last description; None before the first."""
        self._wake = asyncio.Event()
        self._probing = asyncio.Lock()
        self._last_answer = self._last_canary = time.monotonic()
        self._failures = 0
        self._reason = ""
        self._heal_after, self._heal_backoff = 0.0, _HEAL_BACKOFF_S[0]
        self._heals = 0
        """Tries since it was up."""
        self._seen: tuple[ModelState, int] | None = None
        """The model's state and generation at the last canary that failed."""
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect; returns when the server answered for the first time, or did not."""
        self.connection.open()
        await self.probe()
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name=f"canary {self.connection.url}")

    async def close(self) -> None:
        """Disconnect."""
        if self._watcher:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self.connection.close()

    @contextmanager
    def track_in_flight(self) -> Iterator[None]:
        """Count as one picture in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def infer(self, inputs: Sequence[InferInput], seconds: float, request_id: str = "") -> bytes:
        """See `TritonConnection.infer`."""
        try:
            text = await self.connection.infer_unless_cancelled(inputs, seconds, request_id)
        except ServerGone as error:
            if self.up:  # else it is known, by a better reason
                self._set_down(error)
            self._wake.set()
            raise
        except (WorkerFailure, ModelChanged):
            self._wake.set()
            raise
        self._last_answer = time.monotonic()
        return text

    def check(self, fingerprint: str) -> None:
        """Notice by an answer's fingerprint that another model was loaded, and have it described soon."""
        if self.served is not None and fingerprint != self.served.fingerprint:
            self._wake.set()

    async def probe(self) -> None:
        """Send a canary now and learn from it."""
        async with self._probing:
            await self._probe()

    async def describe_anew(self, known: Served) -> None:
        """Have the model described, unless that was done since `known`."""
        async with self._probing:
            if self.served is known:
                await self._probe()

    async def _watch(self) -> None:
        while True:
            # Spread out, so that several gateways do not heal one server at the same moment.
            pause = self._until_next_canary() if self.up else _DOWN_INTERVAL_S * random.uniform(1, 2)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            if not self._wake.is_set() and self.up and self._until_next_canary() > 0:
                continue
            self._wake.clear()
            try:
                await self.probe()
                self._last_canary = time.monotonic()
            except Exception as error:
                # A fault of this file must not end the loop that health rests on.
                logs.event(_LOG, logging.ERROR, "canary failed unexpectedly", error=error, server=self.connection.url)

    def _until_next_canary(self) -> float:
        """Seconds. An answer to a picture says as much as a canary, and many gateways' canaries would cost a busy server dearly."""
        return max(0.0, max(self._last_answer, self._last_canary) + self._check_s - time.monotonic())

    async def _canary(self) -> str | bytes:
        """The server's description of its model. Besides what `infer` raises: ServerGone as soon as it does not say that it lives."""
        call = asyncio.create_task(self.connection.infer(_CANARY, _CANARY_SECONDS, _CANARY_PRIORITY))
        try:
            while not (await asyncio.wait({call}, timeout=self._check_s))[0]:
                # Which it can say while the model is busy.
                if not await self.connection.is_live() and not call.done():
                    self.connection.cancel_calls()
                    raise ServerGone("it hangs, or cannot be reached")
            return call.result()
        finally:
            call.cancel()

    async def _probe(self) -> None:
        try:
            text = await self._canary()
        except (DeadlineExceeded, Overloaded) as error:
            silent = time.monotonic() - self._last_answer
            if silent >= _SILENCE_SECONDS or not await self.connection.is_live():
                self.connection.cancel_calls()
                await self._probe_failed(error)
            elif not self.up:  # a server that is up stays so: it is busy
                self._set_down(error)
            return
        except ProcessDied as error:
            self.connection.cancel_calls()
            await self._probe_failed(error)
            return
        except (ServerGone, WorkerFailure) as error:
            await self._probe_failed(error)
            return
        try:
            description = wire.description_from_json(text)
            if self.served is None or self.served.fingerprint != description.fingerprint:
                self.served = Served(description.info, config_from_json(description.config, self.connection.url), description.fingerprint)
        except (CheckpointError, ValueError, TypeError, KeyError) as error:
            # Loading it again would not help: gateway and worker are of different versions.
            self._set_down(error)
            return
        self._last_answer = time.monotonic()
        self._failures, self._reason, self._heal_after, self._heal_backoff = 0, "", 0.0, _HEAL_BACKOFF_S[0]
        self._heals, self._seen = 0, None
        if not self.up:
            self.connection.cancel_calls()  # what is still on its way was sent before it went down
            self.up = True
            logs.event(_LOG, logging.INFO, "Triton server is up", server=self.connection.url, model=self.served.info.name)
            self.on_change()

    def _set_down(self, error: Exception) -> None:
        # Probed once a second, logged once per kind: what follows the semicolon is another try's detail.
        reason = str(error).partition(";")[0]
        if self.up or reason != self._reason:
            self._reason = reason
            logs.event(_LOG, logging.WARNING, "Triton server is down", server=self.connection.url, reason=str(error))
        if self.up:
            self.up = False
            self.on_change()

    async def _probe_failed(self, error: Exception) -> None:
        self._set_down(error)
        self._failures += 1
        if time.monotonic() < self._heal_after or not await self.connection.is_live():
            return
        state, config = await self._what_is_loaded()
        seen, self._seen = self._seen, (state, generation(config))
        # Seen like that before the canary that failed just now, else another gateway may have healed it meanwhile. A model that somebody
        # unloaded, or that is being loaded, is left alone.
        if self._failures >= _FAILURES_BEFORE_HEALING and seen == self._seen and state in (ModelState.LOADED, ModelState.FAILED):
            await self._heal(config)

    async def _what_is_loaded(self) -> tuple[ModelState, dict[str, Any]]:
        state = await self.connection.model_state()
        try:
            return state, await self.connection.model_config() if state is ModelState.LOADED else {}
        except InferenceServerException:
            return ModelState.UNKNOWN, {}

    async def _heal(self, config: dict[str, Any]) -> None:
        """Load the model again.

        Args:
            config: what is loaded now, which may carry another checkpoint than the repository's; empty when nothing is.
        """
        self._heal_after = time.monotonic() + self._heal_backoff
        self._heal_backoff = min(2 * self._heal_backoff, _HEAL_BACKOFF_S[1])
        self._heals += 1
        server, model = self.connection.url, self.connection.model
        logs.event(_LOG, logging.WARNING, "the model is dead though the server lives; loading it again", server=server, model=model)
        try:
            # Not unloaded before: then a server whose model cannot be loaded now would forget what it is to serve, and a gateway that
            # ended in between would leave it with nothing.
            if config and self._heals > _HEALS_BEFORE_REPOSITORY:
                await self.connection.unload()
                config = {}
            await self.connection.load(next_generation(config) if config else None)
        except InferenceServerException as error:
            remedy = "start it with --model-control-mode=explicit" if "not allowed" in str(error) else "see its log"
            logs.event(_LOG, logging.ERROR, "the model could not be loaded again", server=server, reason=str(error), remedy=remedy)
            self.on_heal(_NOT_HEALED)
        else:
            logs.event(_LOG, logging.INFO, "the model is loaded again", server=server, model=model)
            self.on_heal(_HEALED)
            await self._probe()
