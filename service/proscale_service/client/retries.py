"""When a request is sent again: only where nothing was computed for it, and no sooner than the server says."""

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

MAX_STALE = 20
"""Idle connections that may turn out closed, one after the other, before a request is given up; the pool keeps no more."""
REFUSED = (429, 503)
"""Statuses of a server, or of a proxy, that did not begin: overload, loading, shutting down."""
_FIRST_WAIT_S = 0.5


@dataclass(frozen=True)
class Retries:
    """What a client does when its request was refused.

    Sent again is what was answered by 429 or 503, and what never reached a server. Everything else is not: after a broken answer, a timeout
    or a 500 the server may have computed already, and asking again would only add to its load.
    """

    attempts: int = 4
    """How often a request is sent at most."""
    longest_wait_s: float = 30.0
    """A server that says `Retry-After` with more is not waited for: its error is raised at once."""

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next attempt: what the server asked for, else twice as long every time; and a little more, by chance, so
        that many clients do not come back at once."""
        base = min(_FIRST_WAIT_S * 2 ** (attempt - 1), self.longest_wait_s) if asked is None else asked
        return base * (1 + random.random() / 4)


NO_RETRIES = Retries(attempts=1)
"""Every refusal is raised at once."""


@dataclass(frozen=True)
class Failed:
    """A request without an answer."""

    error: httpx.TransportError
    stale: bool
    """It was sent on an idle connection that the server had closed meanwhile. Nothing of an answer came then, and nothing was computed, so
    that sending it again is safe, as RFC 9112, 9.3.1 has it. A new connection is no such case."""


class Trace:
    """What happened to a request, as httpcore tells it step by step: whether it was `Failed.stale`."""

    def __init__(self) -> None:
        self.connected = False
        """A connection was made for it."""
        self.answered = False
        """The head of an answer came."""

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.connected |= event.startswith("connection.connect")
        self.answered |= event.endswith("receive_response_headers.complete")

    def stale(self, error: httpx.TransportError) -> bool:
        """Whether an idle connection turned out to have been closed meanwhile."""
        closed = isinstance(error, httpx.ReadError | httpx.WriteError | httpx.CloseError | httpx.RemoteProtocolError)
        return closed and not (self.connected or self.answered)


SEND = None
Conversation = Generator[float | None, httpx.Response | Failed | None, httpx.Response]


def conversation(retries: Retries, within_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> Conversation:
    """What to do until a request has its answer, without doing it, so that it holds for threads and for asyncio alike.

    Yields `SEND`, and is sent what came of it; or seconds to wait, and is sent None. Returns the answer, be it good or bad.

    Args:
        within_s: seconds after which an answer is of no use any more; nobody waits beyond them.

    Raises:
        httpx.TransportError: there was no answer, and asking again is not safe, or was in vain.
    """
    started, attempt, stale = clock(), 1, 0
    while True:
        outcome = yield SEND
        assert outcome is not None
        asked: float | None = None
        if isinstance(outcome, Failed):
            if outcome.stale and stale < MAX_STALE:
                stale += 1
                continue
            if not isinstance(outcome.error, httpx.ConnectError | httpx.ConnectTimeout):
                raise outcome.error
        elif outcome.status_code in REFUSED:
            asked = retry_after(outcome)
        else:
            return outcome
        seconds = retries.wait(attempt, asked)
        in_vain = within_s is not None and clock() - started + seconds > within_s
        if attempt >= retries.attempts or (asked or 0) > retries.longest_wait_s or in_vain:
            if isinstance(outcome, Failed):
                raise outcome.error
            return outcome
        yield seconds
        attempt += 1


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that an answer's `Retry-After` names, as a number or as a date; None: it names none."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
