"""A TCP proxy whose connections a test can cut, delay and stall."""

import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Listens on a port of this machine and passes bytes on to another one."""

    def __init__(self, port: int) -> None:
        """Args: port: on this machine, where bytes go."""
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay_s = 0.0
        """Before each piece of data is passed on."""
        self.flowing = threading.Event()
        """Cleared: connections stay open, and nothing goes through them."""
        self.flowing.set()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        self.flowing.set()
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Reset all connections, as a machine does that was restarted. Returns how many."""
        ends = list(self._open)
        for end in ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()
        return len(ends) // 2

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._to, timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, target), name="proxy", daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.flowing.wait()
                time.sleep(self.delay_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                self._open.discard(end)
                end.close()
