"""What `segment_many` of both clients shares: outcomes, progress, windows of pictures."""

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from proscale_service.client.answers import Answer
from proscale_service.client.pictures import Picture
from proscale_service.client.retries import Retries

Progress = bool | Callable[[int, int | None], None]
"""True: a bar on standard error; a function: called with how many are done, and of how many, None when that is not known."""
PATIENT_ATTEMPTS = 20
"""Who sends many pictures is told to come back now and then; that is how the service keeps its word to others."""
AHEAD = 2
"""Ordered answers wait for the slowest; so many times the concurrency are begun meanwhile, and no more are held in memory."""


@dataclass(frozen=True)
class Outcome:
    """What came of one picture of many: an answer or an error, never both."""

    index: int
    """Position among the pictures, from 0."""
    picture: Picture
    answer: Answer | None = None
    error: Exception | None = None
    """What `segment` would have raised."""

    def result(self) -> Answer:
        """The answer. Raises `error`."""
        if self.answer is None:
            assert self.error is not None
            raise self.error
        return self.answer


class ProgressReport:
    """Tells how many are done; a context manager."""

    def __init__(self, progress: Progress, pictures: Iterable[Any], total: int | None) -> None:
        self._total = len(pictures) if total is None and isinstance(pictures, Sized) else total
        self._tell = progress if callable(progress) else None
        self._bar: Any = tqdm(total=self._total, unit="picture", disable=progress is not True)
        self._done = 0

    def __enter__(self) -> "ProgressReport":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def one_more(self) -> None:
        """One picture is done, be it with an error."""
        self._done += 1
        self._bar.update()
        if self._tell is not None:
            self._tell(self._done, self._total)


def patient(retries: Retries) -> Retries:
    """For many pictures: refusals are waited for longer, unless nothing is to be sent again."""
    return retries if retries.attempts <= 1 else replace(retries, attempts=max(retries.attempts, PATIENT_ATTEMPTS))


def check_concurrency(concurrency: int) -> None:
    """Raise ValueError for fewer than one."""
    if concurrency < 1:
        raise ValueError(f"concurrency: must be 1 or more (it is {concurrency})")
