"""Bounded admission: how many pictures, and how many of their pixels, may be in the service at once.

Refusing early is what keeps an overloaded service fast: nobody waits for an answer that comes after he stopped caring.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proscale_service.errors import Overloaded


class Admission:
    """Counts what is inside. Used from the event loop's thread only."""

    def __init__(self, max_pictures: int, max_pixels: int, retry_after: Callable[[], int] = lambda: 1) -> None:
        """Args: max_pixels: of decoded pictures together; retry_after: seconds to tell those who are refused."""
        self._max_pictures, self._max_pixels, self._retry_after = max_pictures, max_pixels, retry_after
        self.pictures = 0
        self.pixels = 0

    def check(self) -> None:
        """Raise Overloaded when there is no room now; spares reading the body of a request that will be refused."""
        if self.pictures >= self._max_pictures:
            raise Overloaded(f"{self.pictures} pictures are being worked on; try again later", retry_after=self._retry_after())

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
            self.pixels -= permit.pixels

    def take_pixels(self, pixels: int) -> None:
        """Raise Overloaded when so many pixels do not fit any more, else count them."""
        if self.pixels + pixels > self._max_pixels:
            raise Overloaded(
                f"{self.pixels} pixels of pictures are being worked on, and {pixels} more do not fit; try again later",
                retry_after=self._retry_after(),
            )
        self.pixels += pixels


class Permit:
    """One picture's place."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.pixels = 0

    def hold_pixels(self, pixels: int) -> None:
        """Claim the memory of a picture of so many pixels, before it is decoded.

        Raises:
            Overloaded: no room.
        """
        self._admission.take_pixels(pixels)
        self.pixels += pixels
