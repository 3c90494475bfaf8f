"""A picture from a URL: names are resolved, every address is judged, and the address that was judged is the one connected to."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterable

import certifi
import httpcore
import httpx

from proscale_service.errors import BodyTooLarge, Overloaded, UnfetchablePicture
from proscale_service.picture_urls.addresses import is_allowed
from proscale_service.picture_urls.rules import UrlRules, checked_url

_REDIRECTS = {301, 302, 303, 307, 308}
_HEADERS = [
    ("accept", "image/*"),
    ("accept-encoding", "identity"),  # what is packed could be a bomb
    ("connection", "close"),
    ("user-agent", "proscale-segmentation-service"),
]
# One text for all that is behind it, so that nobody learns which names and addresses exist on the inside.
_NO_WAY = "the host in the picture's URL cannot be reached at a public address"


async def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host; empty when there are none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Fetcher:
    """Fetches pictures by the rules. Used from the event loop's thread only."""

    def __init__(self, rules: UrlRules, max_at_once: int) -> None:
        """Args: max_at_once: fetches that may run at the same time; more are refused."""
        self._rules, self._max_at_once, self._running = rules, max_at_once, 0
        # As httpx does it: certificates of one's own come by the environment.
        self._tls = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())

    async def fetch(self, text: str, claim: Callable[[int], None] = lambda count: None) -> bytes:
        """The bytes behind a URL.

        Args:
            text: the URL as it was sent.
            claim: called with the bytes as they come, so that they are counted with all that is held; may raise Overloaded.

        Raises:
            UnfetchablePicture: the URL is not allowed, or there is no picture to be had from it.
            BodyTooLarge: more bytes than allowed.
            Overloaded: too many fetches at once.
        """
        if self._running >= self._max_at_once:
            raise Overloaded("too many pictures are being fetched; try again later", retry_after=1)
        self._running += 1
        try:
            async with asyncio.timeout(self._rules.timeout_s):
                return await self._follow(text, claim)
        except TimeoutError as error:
            raise UnfetchablePicture(f"the picture was not received within {self._rules.timeout_s:g} seconds") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise UnfetchablePicture(
                "the picture's host closed the connection, sent an invalid response, or has an untrusted certificate"
            ) from error
        finally:
            self._running -= 1

    async def _follow(self, text: str, claim: Callable[[int], None]) -> bytes:
        url = checked_url(text, self._rules)
        for _ in range(self._rules.max_redirects + 1):
            found = await self._ask(url, claim)
            if isinstance(found, bytes):
                return found
            url = checked_url(_joined(url, found), self._rules)
        raise UnfetchablePicture(f"the picture's URL redirects more than {self._rules.max_redirects} times")

    async def _ask(self, url: httpx.URL, claim: Callable[[int], None]) -> bytes | str:
        """The body, or where the answer says to look instead."""
        backend = _JudgedConnections(self._rules)
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=backend, max_connections=1) as pool,
            pool.stream("GET", str(url.copy_with(fragment=None)), headers=_HEADERS) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return headers[b"location"].decode("latin-1")
            if response.status != 200:
                raise UnfetchablePicture(f"the picture's host answered with status {response.status} instead of 200")
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise UnfetchablePicture("the picture's host sent a compressed response, which is not supported")
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > self._rules.max_bytes:
                raise self._too_large()
            body = bytearray()
            async for chunk in response.aiter_stream():
                claim(len(chunk))
                body += chunk
                if len(body) > self._rules.max_bytes:
                    raise self._too_large()
            return bytes(body)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the picture at the URL has more than the limit of {self._rules.max_bytes} bytes")


class _JudgedConnections(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were judged. TLS still asks for the host's name, and checks its certificate."""

    def __init__(self, rules: UrlRules) -> None:
        self._rules, self._backend = rules, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await resolve(host, port)
        # One that is not allowed spoils all: a name with a public and a private address is an attack, or nobody's business.
        if not addresses or not all(is_allowed(address, self._rules.networks) for address in addresses):
            raise UnfetchablePicture(_NO_WAY)
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.NetworkError:
                continue
        raise UnfetchablePicture(_NO_WAY)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise UnfetchablePicture(_NO_WAY)

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def _joined(url: httpx.URL, location: str) -> str:
    try:
        return str(url.join(location))
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise UnfetchablePicture("the picture's host sent an invalid redirect") from error
