"""Running the application: the socket, signals, and an orderly end.

At the first SIGTERM or Ctrl-C the server stops being ready but serves on for `drain_delay_s`, so that load balancers notice; then
it stops to listen and finishes what it accepted, for at most `drain_s`; what is left then is answered 503. A second Ctrl-C ends it
at once.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from proscale_service import logs
from proscale_service.app import create_app
from proscale_service.certificate import Certificate
from proscale_service.lifecycle import Lifecycle
from proscale_service.settings import Settings

_LOG = logging.getLogger(__name__)
_TICKS_BETWEEN_RENEWALS = 50
UNREAD_S = 60.0
"""Seconds after which a connection is closed whose client takes nothing of its answer, or is out of reach."""
_GRACE = 5
"""Seconds on top of `drain_s` for sending the last answers."""


class Server(uvicorn.Server):
    """uvicorn with a delay between the signal and the end of listening."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        lifecycle: Callable[[], Lifecycle | None],
        certificate: Certificate | None = None,
    ) -> None:
        """Args: lifecycle: the application's, or None before it began; certificate: for HTTPS."""
        config.timeout_keep_alive = settings.keep_alive_s  # type: ignore[assignment] # uvicorn says int, and gives it to a timer
        super().__init__(config)
        self._settings, self._lifecycle, self._certificate = settings, lifecycle, certificate
        self._exit_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second Ctrl-C: stop at once."""
        if self._exit_at is None:
            self._exit_at = time.monotonic() + self._settings.drain_delay_s
            if lifecycle := self._lifecycle():
                lifecycle.begin_drain()
        elif sig == signal.SIGINT:
            # Nothing orderly: the engine's thread may be busy for long, and the interpreter would wait for it.
            os._exit(130)

    async def on_tick(self, counter: int) -> bool:
        """Asked ten times a second whether to stop."""
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        if self._certificate and counter % _TICKS_BETWEEN_RENEWALS == 0:
            self._certificate.renew()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, finish, and give up what is not done in time."""
        logs.event(_LOG, logging.INFO, "draining")
        if lifecycle := self._lifecycle():
            lifecycle.models.stop_loading()
            asyncio.get_running_loop().call_later(self._settings.drain_s, lifecycle.abort)
        await super().shutdown(sockets)


def run(settings: Settings, announce: Callable[[str], None]) -> str:
    """Serve until a signal comes, or the engine cannot be loaded or compute any more.

    Args:
        announce: called with the server's URL once requests are served.

    Returns:
        what is wrong with the engine; empty after an orderly end.

    Raises:
        OSError: the address cannot be listened on.
        CertificateError, KeysError: the files that the settings name cannot be used.
    """
    certificate = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        certificate = Certificate(settings.tls_cert_file, settings.tls_key_file)
    listener = bind(settings.host, settings.port)
    url = url_of(listener, "https" if certificate else "http")
    sockets = [listener]
    if settings.admin_port is not None:
        sockets.append(bind("127.0.0.1", settings.admin_port))
    failures: list[str] = []

    def on_failure(message: str) -> None:
        failures.append(message)
        server.should_exit = True

    app = create_app(settings, on_ready=lambda: announce(url), on_failure=on_failure)
    for admin in sockets[1:]:
        app.state.admin_port = admin.getsockname()[1]
        logs.event(
            _LOG, logging.WARNING, "models can be changed by everybody on this machine who reaches the admin port", url=url_of(admin)
        )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s + _GRACE)),
        lifespan="on",
        ssl_context_factory=(lambda config, default: certificate.context) if certificate else None,
    )
    server = Server(config, settings, lambda: getattr(app.state, "lifecycle", None), certificate)
    logs.event(_LOG, logging.INFO, "listening", url=url)
    # uvicorn raises the signals again when it is done; an orderly end that was asked for is no failure.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda sig, frame: None)
    server.run(sockets=sockets)
    return failures[0] if failures else ""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        OSError: no such address, or it is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":
            # Connections get it from their listener. Else one whose client never reads would hold its answer for ever.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(UNREAD_S * 1e3))
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where a browser on this machine finds it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
