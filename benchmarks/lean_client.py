"""An HTTP/1.1 client for load: a request costs it a tenth of a millisecond, where a full client takes several of a shared processor.

An open loop at twenty times the capacity would otherwise measure its own client: what that takes, the service on the same machine lacks.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

from httptools import HttpResponseParser


class _Connection(asyncio.Protocol):
    """One request at a time. Its callbacks are named as httptools wants them."""

    def __init__(self) -> None:
        self.usable = True
        self._done: asyncio.Future[int] | None = None
        self._parser = HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the same methods

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.usable = self.usable and self._parser.should_keep_alive()
        done, self._done = self._done, None
        status = self._parser.get_status_code()
        self._parser = HttpResponseParser(self)
        if done is not None and not done.done():
            done.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("closed without an answer"))

    async def ask(self, request: bytes) -> int:
        """The status of the answer, when all of it is here."""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        self.usable = False
        self._transport.close()


class LeanClient:
    """Connections that are kept and used again, as many as requests are on their way."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], deque[_Connection]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for connections in self._idle.values():
            for each in connections:
                each.close()

    async def request(self, method: str, url: str, content: bytes = b"", content_type: str = "image/jpeg") -> int:
        """The status of the answer to one request.

        Raises:
            OSError: no connection, or one that was closed without an answer.
        """
        parts = urlsplit(url)
        address = parts.hostname or "", parts.port or 80
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        head = f"{method} {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        if content:
            head += f"content-type: {content_type}\r\ncontent-length: {len(content)}\r\n"
        connection = await self._connection(address)
        try:
            status = await connection.ask(f"{head}\r\n".encode() + content)
        except BaseException:
            connection.close()
            raise
        if connection.usable:
            self._idle[address].append(connection)
        else:
            connection.close()
        return status

    async def _connection(self, address: tuple[str, int]) -> _Connection:
        idle = self._idle.setdefault(address, deque())
        while idle:
            if (kept := idle.pop()).usable:
                return kept
        return (await asyncio.get_running_loop().create_connection(_Connection, *address))[1]
