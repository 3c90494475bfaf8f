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
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who accepts
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Reset all connections, as a machine does that was restarted. Returns how many."""
        count = 0
        # One by one: clients that are cut connect anew at once, and those connections must not be forgotten.
        while self._open:
            end = self._open.pop()
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            count += 1
        return count // 2

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
            threading.Thread(target=self._serve, args=(near, far), name="proxy", daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        """Both directions of a connection, until both have ended."""
        back = threading.Thread(target=self._pass_on, args=(far, near), name="proxy", daemon=True)
        back.start()
        self._pass_on(near, far)
        back.join()
        for end in (near, far):
            self._open.discard(end)
            end.close()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.flowing.wait()
                time.sleep(self.delay_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # An end that was reset ends the other direction as well.
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
