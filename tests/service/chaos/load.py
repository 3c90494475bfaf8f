"""Clients on raw sockets that see what HTTP libraries hide: an answer that comes twice, in part, or never."""

import itertools
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PATIENCE_S = 60.0
"""Longer than any deadline here: who waits for so long was forgotten."""
_PAUSE_S = 0.02

CLOSED, REFUSED, LOST, TWICE, CUT_SHORT = "closed", "refused", "lost", "twice", "cut short"
"""What may become of a request beside a status: its connection was closed, or could not be made; and what must not."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request. Times in seconds of `time.monotonic`."""

    what: int | str
    began: float
    ended: float


def ask(url: str, picture: bytes, query: str = "", request_id: str = "x", patience_s: float = PATIENCE_S) -> Outcome:
    """Send one picture on a connection of its own and read until its end."""
    began = time.monotonic()
    what = _ask(url, picture, query, request_id, patience_s)
    return Outcome(what, began, time.monotonic())


def _ask(url: str, picture: bytes, query: str, request_id: str, patience_s: float) -> int | str:
    parts = urlsplit(url)
    try:
        connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=patience_s)
    except TimeoutError:
        return LOST
    except OSError:
        return REFUSED
    head = (
        f"POST /segment{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/png\r\nx-request-id: {request_id}\r\n"
        f"content-length: {len(picture)}\r\n\r\n"
    ).encode()
    received = b""
    with connection:
        try:
            connection.sendall(head + picture)
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            return LOST
        except OSError:
            pass
    return judge(received, request_id)


def judge(received: bytes, request_id: str) -> int | str:
    """What all bytes that came on a connection are: one whole answer's status, or what is wrong."""
    if not received:
        return CLOSED
    head, separator, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if not separator or len(body) < int(headers.get("content-length", 0)):
        return CUT_SHORT
    if len(body) > int(headers.get("content-length", 0)) or headers.get("x-request-id", request_id) != request_id:
        return TWICE
    return int(lines[0].split()[1])


class Load:
    """Clients that each ask again as soon as they are answered, for as long as the context lasts."""

    def __init__(self, url: str, picture: bytes, clients: int = 4, query: str = "", pause_s: float = _PAUSE_S) -> None:
        """Args: pause_s: how long a client waits after it got no masks."""
        self.outcomes: list[Outcome] = []
        self._url, self._picture, self._query, self._pause_s = url, picture, query, pause_s
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._run, name="client") for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE_S)

    @property
    def counts(self) -> Counter[int | str]:
        """How often what became of a request."""
        return Counter(each.what for each in list(self.outcomes))

    def wait_for(self, answers: int, seconds: float = PATIENCE_S) -> None:
        """Until so many more were answered with masks."""
        goal, end = self.counts[200] + answers, time.monotonic() + seconds
        while self.counts[200] < goal:
            assert time.monotonic() < end, f"too few answers within {seconds:g} s: {self.counts}"
            time.sleep(_PAUSE_S)

    def recovered_after(self, fault: float, seconds: float = PATIENCE_S) -> float:
        """Seconds from a fault until a request that began after it was answered with masks; waits for that."""
        end = time.monotonic() + seconds
        while True:
            done = [each.ended - fault for each in list(self.outcomes) if each.what == 200 and each.began >= fault]
            if done:
                return min(done)
            assert time.monotonic() < end, f"no recovery within {seconds:g} s: {self.counts}"
            time.sleep(_PAUSE_S)

    def check(self, *allowed: int | str) -> None:
        """Every request was answered once, with masks or as allowed, or its connection was closed where that is allowed."""
        unexpected = {what: count for what, count in self.counts.items() if what != 200 and what not in allowed}
        assert not unexpected, f"{unexpected} beside {self.counts[200]} answers"

    def _run(self) -> None:
        while not self._stop.is_set():
            outcome = ask(self._url, self._picture, self._query, f"chaos-{next(self._numbers)}")
            self.outcomes.append(outcome)
            if outcome.what != 200:
                self._stop.wait(self._pause_s)
