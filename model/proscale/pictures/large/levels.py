"""Least, greatest and percentiles of samples that are never in memory together."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.errors import UndecodablePictureError
from proscale.pictures.intensity import PERCENTILES


class Levels:
    """Takes samples in block by block. Of 8 and 16 bits it counts every value, so that percentiles are exact."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._counts = np.zeros(1 << 8 * dtype.itemsize, np.int64) if dtype.kind == "u" and dtype.itemsize <= 2 else None
        self._low, self._high = np.inf, -np.inf

    def add(self, samples: NDArray[Any]) -> None:
        """Take a block in."""
        if self._counts is not None:
            self._counts += np.bincount(samples.ravel(), minlength=len(self._counts))
            return
        finite = samples[np.isfinite(samples)] if samples.dtype.kind == "f" else samples
        if finite.size:
            self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))

    @property
    def greatest(self) -> int:
        """The greatest sample, where values are counted."""
        assert self._counts is not None
        return int(np.flatnonzero(self._counts)[-1])

    def limits(self, kind: str) -> tuple[float, float]:
        """What `minmax` or `percentile` make black and white, as `pictures/intensity.py` has it for a whole picture.

        Raises:
            UndecodablePictureError: percentiles of samples that cannot be counted, or no finite sample.
        """
        if self._counts is None:
            if kind == "percentile":
                raise UndecodablePictureError(
                    "percentiles of samples of more than 16 bits are not supported for pictures that are read in parts; "
                    "use intensity=minmax or intensity=LOW,HIGH"
                )
            if self._low > self._high:
                raise UndecodablePictureError("the picture has no finite sample")
            return self._low, self._high
        present = np.flatnonzero(self._counts)
        if kind == "minmax":
            return float(present[0]), float(present[-1])
        low, high = (self._percentile(share) for share in PERCENTILES)
        return low, high

    def _percentile(self, share: float) -> float:
        """As numpy's, by linear interpolation between the two samples next to it in order."""
        assert self._counts is not None
        upto = np.cumsum(self._counts)
        place = share / 100 * (int(upto[-1]) - 1)
        before = int(np.floor(place))
        low, high = (int(np.searchsorted(upto, number, "right")) for number in (before, min(before + 1, int(upto[-1]) - 1)))
        return low + (high - low) * (place - before)
