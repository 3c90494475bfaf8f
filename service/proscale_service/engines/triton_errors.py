"""What a Triton server's refusals mean. Triton has few status codes for many reasons, so that the texts decide.

| Triton says                                              | it becomes                                       |
|----------------------------------------------------------|--------------------------------------------------|
| `Exceeds maximum queue size`                             | Overloaded, 429                                  |
| `Request timeout expired`, DEADLINE_EXCEEDED             | DeadlineExceeded, 504                            |
| no connection, no such model, not ready                  | ServerGone: another server, else Unavailable 503 |
| the model's process is `not healthy`                     | ProcessDied, a ServerGone for all its pictures   |
| `ModelChangedError: ...` from the worker                 | ModelChanged: describe, resize, send again       |
| `ParameterError: ...`, `ImageError: ...` from the worker | these errors, as in process                      |
| anything else                                            | the engine's failure, 500                        |
"""

import re

from proscale.errors import ImageError, ParameterError
from proscale_service.errors import DeadlineExceeded, Overloaded

_REQUEST_ID = re.compile(r"^(\[[^\]]*\] )+")
"""Triton puts `[request id: ...] ` in front of some messages."""
_CALLERS_FAULT = {"ParameterError": ParameterError, "ImageError": ImageError}
_GONE = (
    "unknown model",
    "is not ready",
    "has no available versions",
    "Server is stopping",
    "Server not ready",
    "unload",
)
_GONE_STATUS = {"UNAVAILABLE", "CANCELLED", "NOT_FOUND"}


class ServerGone(Exception):  # noqa: N818  (says what happened, like the service's errors)
    """The server or its model cannot compute now; the picture was not at fault."""


class ProcessDied(ServerGone):
    """The model's process is dead, and with it whatever it was computing, which Triton answers no more."""


class ModelChanged(Exception):  # noqa: N818
    """The picture was resized for another model than the one that is loaded."""


class WorkerFailure(Exception):  # noqa: N818
    """The worker failed on this picture."""


def to_exception(message: str, status: str) -> Exception:
    """The exception that a failed call stands for.

    Args:
        message: Triton's text.
        status: gRPC's, such as `StatusCode.UNAVAILABLE`.
    """
    text, code = _REQUEST_ID.sub("", message), status.rpartition(".")[2]
    if "Exceeds maximum queue size" in text:
        return Overloaded("the queue is full; try again later", retry_after=1)
    if "Request timeout expired" in text or code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded("the deadline passed before the picture was done")
    kind, colon, detail = text.partition(": ")
    if colon and kind in _CALLERS_FAULT:
        return _CALLERS_FAULT[kind](detail)
    if colon and kind == "ModelChangedError":
        return ModelChanged(detail)
    if "not healthy" in text:  # the Python backend's word for it
        return ProcessDied(f"{code}: {text}")
    if code in _GONE_STATUS or any(sign in text for sign in _GONE):
        return ServerGone(f"{code}: {text}")
    return WorkerFailure(f"{code}: {text}")
