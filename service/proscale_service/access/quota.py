"""What one key may use: token buckets of requests and of pixels per second, and pictures at once."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proscale_service.errors import QuotaExceeded

BURST_S = 10.0
"""Seconds of a rate that may be used at once after a pause."""
_BUSY_RETRY_S = 1


class Bucket:
    """A token bucket that may be overdrawn by one claim: else a picture of more pixels than it holds could never pass."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_second, clock
        self._most = max(1.0, per_second * BURST_S)
        self._level, self._at = self._most, clock()
        self._lock = threading.Lock()

    def take(self, amount: float) -> float:
        """Take so much, if anything is left. Returns seconds to wait when there is not, else 0."""
        with self._lock:
            now = self._clock()
            # A clock that steps back gives nothing.
            self._level = min(self._most, self._level + max(0.0, now - self._at) * self._rate)
            self._at = now
            if self._level < min(1.0, amount):
                return (min(1.0, amount) - self._level) / self._rate
            self._level -= amount
            return 0.0


class Quota:
    """The use of one key. Pixels may be taken on any thread; all else belongs to the event loop's."""

    def __init__(
        self,
        requests_per_s: float | None = None,
        pixels_per_s: float | None = None,
        concurrent_pictures: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: None: no limit."""
        self._requests = None if requests_per_s is None else Bucket(requests_per_s, clock)
        self._pixels = None if pixels_per_s is None else Bucket(pixels_per_s, clock)
        self._most_pictures = concurrent_pictures
        self.pictures = 0

    def take_request(self) -> None:
        """Count a request. Raises QuotaExceeded when there were too many."""
        _take(self._requests, 1, "requests")

    def take_pixels(self, pixels: int) -> None:
        """Count a picture's pixels. Raises QuotaExceeded when there were too many."""
        _take(self._pixels, pixels, "pixels")

    @contextmanager
    def picture(self) -> Iterator[None]:
        """Hold a place for one picture. Raises QuotaExceeded when the key has as many in the service as it may."""
        if self._most_pictures is not None and self.pictures >= self._most_pictures:
            raise QuotaExceeded(
                f"{self.pictures} pictures of this API key are in progress, which is its limit; try again later", retry_after=_BUSY_RETRY_S
            )
        self.pictures += 1
        try:
            yield
        finally:
            self.pictures -= 1


def _take(bucket: Bucket | None, amount: float, what: str) -> None:
    if bucket is not None and (wait := bucket.take(amount)):
        raise QuotaExceeded(f"this API key has used up its {what} per second; try again later", retry_after=max(1, math.ceil(wait)))


UNLIMITED = Quota()
"""For everybody where no keys are asked for."""
