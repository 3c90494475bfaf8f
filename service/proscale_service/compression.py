"""Compressed answers, when the client asks for them: RFC 9110's Accept-Encoding around Starlette's gzip.

Starlette looks for the letters "gzip" anywhere in the header, so that `gzip;q=0`, which forbids it, would get it.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipResponder, IdentityResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proscale_service.context import send_error
from proscale_service.errors import NotAcceptable

LEVEL = 5
MINIMUM_BYTES = 1024
"""Smaller answers are not worth it."""


class Compression:
    """Pure ASGI: gzip where the client prefers it, as it is where not, 406 where it takes neither. Every answer says that it varies."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def varying_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message.setdefault("headers", [])).add_vary_header("Accept-Encoding")
            await send(message)

        gzip, identity = qualities(",".join(Headers(scope=scope).getlist("accept-encoding")))
        responder: ASGIApp
        if gzip and gzip >= identity:
            # One byte: an empty body has nothing to compress, and some answers must stay empty.
            responder = GZipResponder(self._app, MINIMUM_BYTES if identity else 1, compresslevel=LEVEL)
        elif identity:
            responder = IdentityResponder(self._app, MINIMUM_BYTES)
        else:
            responder = _refuse
        await responder(scope, receive, varying_send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = NotAcceptable("answers come as they are (identity) or as gzip, and Accept-Encoding forbids both")
    await send_error(scope, send, error)


def qualities(accept_encoding: str) -> tuple[float, float]:
    """How much a client likes (gzip, identity), each 0..1; 0: it does not take it.

    Args:
        accept_encoding: the header's value, several of them joined by commas; empty where there is none.

    What the header does not name follows `*`; without `*`, gzip is not accepted, and identity is, though less than anything that is named.
    Parts that are no coding with a quality are as if they were not there.
    """
    named: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        quality = _quality(parameters)
        if coding and quality is not None:
            coding = "gzip" if coding == "x-gzip" else coding
            named[coding] = max(quality, named.get(coding, 0.0))
    other = named.get("*")
    gzip = named.get("gzip", other or 0.0)
    # RFC 9110, 12.5.3: acceptable unless `identity;q=0`, or `*;q=0` without identity, says otherwise. The smallest step is 0.001.
    identity = named.get("identity", 0.0001 if other is None else other)
    return gzip, identity


def _quality(parameters: list[str]) -> float | None:
    """The `q` among a coding's parameters, 1 where there is none, None where it is no number from 0 to 1."""
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if name.strip() == "q" and equals:
            try:
                quality = float(value.strip())
            except ValueError:
                return None
            return quality if 0 <= quality <= 1 else None
    return 1.0
