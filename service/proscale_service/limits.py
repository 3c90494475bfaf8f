"""Bounds on what a client may send and on how long we work for one that left. Pure ASGI: nothing here hides a disconnect."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proscale_service.errors import BodyTooLarge, ClientGone, MalformedRequest, Overloaded, UploadTimeout

T = TypeVar("T")

_COMES_AT_ONCE = 65536
"""Bytes of a body that uvicorn takes before anybody asks for them."""
LINGER_SECONDS = 2.0
LINGER_FACTOR = 4


class BodyLimit:
    """Caps the bytes of a request body, of all bodies together, and the time that one may take.

    A stated Content-Length is judged before a byte is read; a chunked body is counted as it comes. The error is raised inside the
    application where it reads the body, or here before the application is called, and answered like any other.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_total: int, timeout_s: float) -> None:
        """Args: max_bytes: of one body; max_total: of all bodies held at once; timeout_s: for one body to arrive."""
        self._app, self._max_bytes, self._max_total, self._timeout_s = app, max_bytes, max_total, timeout_s
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self._max_bytes)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_s
        answered = False

        def claim(count: int) -> None:
            if self._held + count > self._max_total:
                raise Overloaded("too many uploads at once; try again later", retry_after=1)
            self._held += count
            body.held += count

        scope.setdefault("state", {})["claim"] = claim

        async def limited_receive() -> Message:
            if body.complete or answered:
                return await receive()
            body.check_length(scope)
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise UploadTimeout(f"the body did not arrive within {self._timeout_s:g} seconds") from error
            if message["type"] == "http.request":
                chunk = len(message.get("body", b""))
                body.count(chunk)
                claim(chunk)
                body.complete = not message.get("more_body", False)
            return message

        async def lingering_send(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and not body.complete and body.expected(scope):
                await _take_what_came(scope, receive, body)
            if message["type"] == "http.response.start" and not body.complete and body.expected(scope):
                # What is left of the body will not be read, so that the connection cannot carry another request.
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            answered |= message["type"] == "http.response.start"
            if last and not body.complete and body.expected(scope):
                # Closing while the client still writes resets the connection, and the answer is lost with it. So the answer goes
                # out whole, then the rest of the body is thrown away for a little while.
                await send({**message, "more_body": True})
                await _discard(receive, LINGER_FACTOR * self._max_bytes)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            await self._app(scope, limited_receive, lingering_send)
        finally:
            self._held -= body.held


class _Body:
    """How much of one request's body came."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.seen, self.held, self.complete = max_bytes, 0, 0, False

    def check_length(self, scope: Scope) -> None:
        """Raise BodyTooLarge when the stated length is over the cap."""
        stated = _header(scope, b"content-length")
        if stated is None:
            return
        if not stated.isdigit():
            raise MalformedRequest("Content-Length is not a number")
        if int(stated) > self.max_bytes:
            raise BodyTooLarge(f"the body has {int(stated)} bytes, more than the limit of {self.max_bytes}")

    def count(self, chunk: int) -> None:
        """Raise BodyTooLarge when more came than the cap."""
        self.seen += chunk
        if self.seen > self.max_bytes:
            raise BodyTooLarge(f"the body has more than the limit of {self.max_bytes} bytes")

    def expected(self, scope: Scope) -> bool:
        """Whether the request announces a body at all."""
        return _header(scope, b"transfer-encoding") is not None or _header(scope, b"content-length") not in (None, b"0")


def claim_of(scope: Scope) -> Callable[[int], None]:
    """Counts bytes that are held for a request besides its body, until it is answered. Raises Overloaded when they do not fit."""
    claim: Callable[[int], None] = scope["state"]["claim"]
    return claim


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection. Call it when the body is read.

    Raises:
        ClientGone: the client left first.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client closed the connection")
    finally:
        for each in (task, gone):
            each.cancel()
        # Waited for, so that places and memory are given back before this returns.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _take_what_came(scope: Scope, receive: Receive, body: _Body) -> None:
    """Throw a small body away that nobody read, if it is there already: then its connection can carry the next request."""
    stated = _header(scope, b"content-length")
    # To ask for it would make a client send that waits to be asked.
    if stated is None or not stated.isdigit() or int(stated) > _COMES_AT_ONCE or _header(scope, b"expect") is not None:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            while not body.complete and (message := await receive())["type"] == "http.request":
                body.complete = not message.get("more_body", False)


async def _discard(receive: Receive, max_bytes: int) -> None:
    seen, more = 0, True
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while more and seen < max_bytes:
                message = await receive()
                seen += len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        pass


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
