"""Samples of any depth -> 8 bits: which sample becomes black, and which white."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from proscale.errors import ParameterError, UndecodablePictureError
from proscale.pictures.records import Samples

PERCENTILES = (0.1, 99.9)
"""Of the samples, what `percentile` makes black and white."""
FEWEST_LEVELS = 1 << 14
"""A 16-bit picture that stays below this in all samples is most likely of a sensor of 10 to 14 bits."""
_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Intensity:
    """How samples are spread over black to white."""

    kind: Literal["full", "minmax", "percentile", "range"] = "full"
    """The sample type's whole range; the picture's least and greatest sample; its PERCENTILES; or low to high."""
    low: float = 0.0
    high: float = 0.0


FULL = Intensity()
PATTERN = r"^(full|minmax|percentile|-?[0-9]{1,12}(\.[0-9]{1,12})?,-?[0-9]{1,12}(\.[0-9]{1,12})?)$"
"""What requests may hold; `parse_intensity` takes all of it."""
_NAMED: tuple[Literal["full", "minmax", "percentile"], ...] = ("full", "minmax", "percentile")


def parse_intensity(text: str) -> Intensity:
    """`full`, `minmax`, `percentile` or `LOW,HIGH` (samples that become black and white; LOW above HIGH makes a negative).

    Raises:
        ParameterError: anything else.
    """
    name = text.strip().lower()
    for kind in _NAMED:
        if name == kind:
            return Intensity(kind)
    try:
        low, high = (float(part) for part in name.split(","))
    except ValueError:
        low = high = np.nan
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ParameterError(f"intensity: should be full, minmax, percentile or LOW,HIGH (it is {text[:80]!r})")
    return Intensity("range", low, high)


def to_eight_bits(samples: Samples, intensity: Intensity = FULL) -> NDArray[np.uint8]:
    """Samples -> uint8 of the same shape.

    Raises:
        UndecodablePictureError: `full` of samples whose type has no range.
    """
    pixels = samples.pixels
    if intensity.kind == "full":
        if samples.white is None:
            raise UndecodablePictureError(
                f"{_named(pixels.dtype)} pixels have no fixed range; set black and white with "
                "intensity=minmax, intensity=percentile or intensity=LOW,HIGH, or convert to 8 or 16 bits per channel"
            )
        if samples.white == 255 and pixels.dtype == np.uint8:
            return pixels
        low, high = 0.0, float(samples.white)
    elif intensity.kind == "range":
        low, high = intensity.low, intensity.high
    else:
        low, high = _limits(pixels, intensity.kind)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        # A table of all samples: exact, and one look-up per pixel.
        table = _spread(np.arange(1 << 8 * pixels.dtype.itemsize, dtype=np.float64), low, high)
        looked_up: NDArray[np.uint8] = table[pixels]
        return looked_up
    spread = np.empty(pixels.shape, np.uint8)
    step = max(1, _ROWS_AT_ONCE // max(1, pixels[0].size))
    for row in range(0, len(pixels), step):
        spread[row : row + step] = _spread(pixels[row : row + step].astype(np.float64), low, high)
    return spread


def intensity_warnings(samples: Samples, intensity: Intensity) -> tuple[str, ...]:
    """A hint when 16-bit samples use so little of their range that the picture is dark."""
    if intensity.kind != "full" or not samples.deep or not samples.pixels.size:
        return ()
    return dark_warning(samples.white, int(samples.pixels.max()))


def dark_warning(white: int | None, greatest: int) -> tuple[str, ...]:
    """That hint, where it applies. Args: white: the sample that means white; greatest: of all samples of a picture of 16 bits."""
    if white not in (255, 65535):
        return ()
    scale = 1 if white == 65535 else 256
    greatest = (greatest + 1) * scale - 1
    if not scale - 1 < greatest < FEWEST_LEVELS:
        return ()
    bits = greatest.bit_length()
    about = str(greatest) if scale == 1 else f"about {greatest}"
    return (
        f"the picture has 16 bits per sample, but no sample is above {about}, as in data of {bits} bits, so it is dark; "
        f"intensity=minmax, intensity=percentile or intensity=0,{(1 << bits) - 1} spreads it over the whole range",
    )


def _limits(pixels: NDArray[Any], kind: str) -> tuple[float, float]:
    """(low, high) of the finite samples."""
    values = pixels
    if pixels.dtype.kind == "f":
        values = pixels[np.isfinite(pixels)]
    if not values.size:
        raise UndecodablePictureError("the picture has no finite sample")
    if kind == "minmax":
        low, high = float(values.min()), float(values.max())
    else:
        low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return low, high


def _spread(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Linear, rounded to the nearest; what is not a number becomes black, and so does a picture of one value."""
    if high == low:
        return np.zeros(values.shape, np.uint8)
    values = np.nan_to_num(values, nan=low, posinf=max(low, high), neginf=min(low, high))
    scaled: NDArray[np.uint8] = (np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)
    return scaled


def _named(dtype: np.dtype[Any]) -> str:
    kind = {"f": "floating point", "i": "signed integer", "u": "unsigned integer"}.get(dtype.kind, str(dtype))
    return f"{8 * dtype.itemsize}-bit {kind}"
