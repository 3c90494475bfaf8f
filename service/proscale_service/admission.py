"""Bounds behind the backlog's promise (`engines/backlog.py`): pictures in the service, pixels and pictures that are decoded at once."""

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proscale_service.errors import ClientGone, Overloaded


class Admission:
    """Counts what is inside. `hold_pixels` and `release_pixels` of a permit may be called on any thread."""

    def __init__(self, max_pictures: int, max_pixels: int, retry_after: Callable[[], int] = lambda: 1) -> None:
        """Args: max_pixels: of pictures that are being decoded together; retry_after: seconds to tell those who are refused."""
        self._max_pictures, self._max_pixels, self._retry_after = max_pictures, max_pixels, retry_after
        self._lock = threading.Lock()
        self.pictures = 0
        self.pixels = 0

    def check(self) -> None:
        """Raise Overloaded when there is no room now; spares reading the body of a request that will be refused."""
        if self.pictures >= self._max_pictures:
            raise Overloaded(
                f"{self.pictures} pictures are in progress, which is the limit; try again later", retry_after=self._retry_after()
            )

    @contextmanager
    def permit(self) -> Iterator["Permit"]:
        """Hold a place for one picture; it is given back on leaving, however that happens.

        Raises:
            Overloaded: no place.
        """
        self.check()
        self.pictures += 1
        permit = Permit(self)
        try:
            yield permit
        finally:
            self.pictures -= 1
            permit.close()

    def move_pixels(self, pixels: int) -> None:
        """Count so many pixels in, or out when negative; raise Overloaded when they do not fit any more."""
        with self._lock:
            if pixels <= 0 or self.pixels + pixels <= self._max_pixels:
                self.pixels += pixels
                return
        raise Overloaded(
            f"{self.pixels} pixels of pictures are in progress, and {pixels} more exceed the limit; try again later",
            retry_after=self._retry_after(),
        )


class Permit:
    """One picture's place."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._lock = threading.Lock()
        self._closed = False
        self._callbacks: list[Callable[[], None]] = []
        self.pixels = 0

    def hold_pixels(self, pixels: int) -> None:
        """Claim the memory of a picture of so many pixels, before it is decoded.

        Raises:
            Overloaded: no room.
            ClientGone: the place was given back meanwhile, so that nobody waits for the picture.
        """
        with self._lock:
            if self._closed:
                raise ClientGone("the client does not wait for the picture any more")
            self._admission.move_pixels(pixels)
            self.pixels += pixels

    def release_pixels(self) -> None:
        """Give the memory back: the picture at its own size is not needed any more."""
        with self._lock:
            self._admission.move_pixels(-self.pixels)
            self.pixels = 0

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have something else given back with the place, at once when it was given back already."""
        with self._lock:
            if not self._closed:
                self._callbacks.append(callback)
                return
        callback()

    def close(self) -> None:
        """Give everything back; nothing can be claimed afterwards."""
        self.release_pixels()
        with self._lock:
            self._closed = True
        for callback in self._callbacks:
            callback()


class DecodeSlots:
    """How many pictures are decoded at once; the most urgent ones go first. Called on reading threads, which it blocks."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int]] = []
        self._numbers = itertools.count()

    @contextmanager
    def slot(self, deadline: float) -> Iterator[None]:
        """Hold a slot, in the order of deadlines."""
        mine = (deadline, next(self._numbers))
        with self._changed:
            heapq.heappush(self._waiting, mine)
            self._changed.wait_for(lambda: self._free and self._waiting[0] == mine)
            heapq.heappop(self._waiting)
            self._free -= 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
