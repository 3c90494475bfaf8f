"""The gRPC connection to one Triton server: one channel that stays open, pictures on their way, the calls that load and unload a model."""

import asyncio
import json
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from proscale import wire
from proscale.tracing import TRACEPARENT, current_span
from proscale_service.engines.triton_errors import ServerGone, to_exception
from proscale_service.errors import DeadlineExceeded

_CONTROL_SECONDS = 3.0
"""For calls that do not go through the model, if nobody says otherwise."""
_LOAD_SECONDS = 300.0
_GENERATION = "generation"
"""A parameter of the model that counts its heals. Triton loads a model only when its configuration changed: so a dead one is loaded again
under the next number, and several gateways that do so at the same time ask for one and the same, which Triton loads once."""
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


class ModelState(Enum):
    """What a server says of the model, which it also says of a model whose process is dead."""

    LOADED = "it is ready"
    FAILED = "it could not be loaded"
    UNLOADED = "somebody unloaded it, or it was never loaded"
    BUSY = "it is being loaded or unloaded"
    UNKNOWN = "the server does not say"


class TritonConnection:
    """Everything belongs to the event loop's thread."""

    def __init__(self, url: str, model: str, control_s: float = _CONTROL_SECONDS) -> None:
        """Args: url: HOST:PORT of the gRPC service; model: its name on the server; control_s: for calls that do not go through it."""
        self.url, self.model, self._control_s = url, model, control_s
        self._client: Any = None
        self._calls: set[asyncio.Task[bytes]] = set()

    def open(self) -> None:
        """Connect, in the background."""
        self._client = InferenceServerClient(self.url, channel_args=_CHANNEL)

    async def close(self) -> None:
        """Disconnect."""
        if self._client:
            await self._client.close()

    async def infer(self, inputs: Sequence[InferInput], seconds: float, priority: int = 0, request_id: str = "") -> bytes:
        """The answer's JSON text to a request made of `request_tensors`.

        Args:
            seconds: until the deadline; Triton drops the request when it has waited for so long.
            priority: 1 is asked first; 0: the model's default.
            request_id: what the worker's log calls it.

        Raises:
            Whatever `triton_errors.to_exception` makes of Triton's words.
        """
        if seconds <= 0:
            raise DeadlineExceeded("the deadline passed before the picture was sent")
        span = current_span()
        try:
            result = await self._client.infer(
                self.model,
                inputs,
                request_id=request_id,
                parameters=None if span is None else {TRACEPARENT: span.traceparent},
                priority=priority,
                timeout=max(1, round(seconds * 1e6)),
                client_timeout=seconds,
            )
        except InferenceServerException as error:
            raise to_exception(error.message() or "", error.status() or "") from error
        text: bytes = result.as_numpy(wire.RESULT)[0, 0]
        return text

    async def infer_unless_cancelled(self, inputs: Sequence[InferInput], seconds: float, request_id: str = "") -> bytes:
        """`infer`, until `cancel_calls`; then ServerGone."""
        call = asyncio.create_task(self.infer(inputs, seconds, request_id=request_id))
        # Marks its failure as seen: asyncio complains about those that nobody awaited.
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._calls.add(call)
        try:
            # Waited for, not awaited: `cancel_calls` must not look like a cancellation of the caller.
            await asyncio.wait({call})
            if call.cancelled():
                raise ServerGone("it hangs, or died with the picture")
            return call.result()
        finally:
            call.cancel()
            self._calls.discard(call)

    def cancel_calls(self) -> None:
        """Wait no longer for pictures that were sent to a server that hangs, cannot be reached or lost them."""
        for call in self._calls:
            call.cancel()

    async def is_live(self) -> bool:
        """Whether the server says that it lives."""
        try:
            return bool(await self._client.is_server_live(client_timeout=self._control_s))
        except InferenceServerException:
            return False

    async def model_state(self) -> ModelState:
        """What the server says of the model."""
        try:
            index = await self._client.get_model_repository_index(as_json=True, client_timeout=self._control_s)
        except InferenceServerException:
            return ModelState.UNKNOWN
        entries = [entry for entry in index.get("models", ()) if entry.get("name") == self.model]
        states = {entry.get("state", "") for entry in entries}
        if "READY" in states:
            return ModelState.LOADED
        if states & {"LOADING", "UNLOADING"}:
            return ModelState.BUSY
        # Triton keeps the reason why a version is not there, and "unloaded" is one.
        failed = any(entry.get("state") == "UNAVAILABLE" and entry.get("reason") != "unloaded" for entry in entries)
        return ModelState.FAILED if failed else ModelState.UNLOADED

    async def model_config(self) -> dict[str, Any]:
        """The configuration that the model is served with. Raises InferenceServerException."""
        answer = await self._client.get_model_config(self.model, as_json=True, client_timeout=self._control_s)
        config: dict[str, Any] = answer["config"]
        return config

    async def unload(self) -> None:
        """Have the model unloaded. Raises InferenceServerException."""
        await self._client.unload_model(self.model, client_timeout=_LOAD_SECONDS)

    async def load(self, config: dict[str, Any] | None) -> None:
        """Load the model, beside one that is loaded and then in its place; when that fails, the old one stays.

        Args:
            config: does nothing where that is loaded (see `next_generation`); None: the repository's.

        Raises:
            InferenceServerException: it could not be loaded; the text says why.
        """
        await self._client.load_model(self.model, config=json.dumps(config) if config else None, client_timeout=_LOAD_SECONDS)


def generation(config: dict[str, Any]) -> int:
    """How often a model of this configuration was healed."""
    text = config.get("parameters", {}).get(_GENERATION, {}).get("string_value", "")
    return int(text) if text.isdecimal() else 0


def next_generation(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, healed once more."""
    number = {"string_value": str(generation(config) + 1)}
    return {**config, "parameters": {**config.get("parameters", {}), _GENERATION: number}}


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
