"""What users say of windows: `off`, `auto`, `SIZE[,OVERLAP[,SCALE]]`, or `joint[,SIZE[,OVERLAP[,SCALE]]]`."""

import math
from dataclasses import dataclass

from proscale.errors import ParameterError

LEAST_SIZE = 64
"""Pixels a side: in smaller windows a network sees nothing but pieces."""
MOST_OVERLAP = 0.5
"""Share of a window: beyond it every pixel would be computed more than four times."""
DEFAULT_OVERLAP = 0.2
"""Share of a window, where nothing is said."""
PATTERN = r"^(off|auto|joint|(joint,)?[0-9]{1,6}(,[0-9]{1,6}(,[0-9]{1,4}(\.[0-9]{1,6})?)?)?)$"
"""What requests may hold; `parse_tiling` refuses some of it, such as small windows, with the remedy."""


@dataclass(frozen=True)
class Tiling:
    """How a picture is to be cut into windows."""

    kind: str = "off"
    """`off`: not at all; `auto`: windows as the model sees them best, where the picture is large; `fixed`: as the other fields say;
    `joint`: windows that are apart in the backbone alone."""
    size: int = 0
    """Side of a window in pixels of the scaled picture; 0: as large as the training pictures, or the model's own size."""
    overlap: int | None = None
    """Pixels of the scaled picture that neighbouring windows share at least; None: `DEFAULT_OVERLAP` of the size."""
    scale: float = 1.0
    """The windows are cut from the picture as if it had been resized by this factor."""

    @property
    def window(self) -> int:
        """Side of a window in pixels of the picture."""
        return max(1, round(self.size / self.scale))

    @property
    def shared(self) -> int:
        """Pixels of the picture that neighbouring windows share at least."""
        return round((self.size * DEFAULT_OVERLAP if self.overlap is None else self.overlap) / self.scale)


OFF = Tiling()
AUTO = Tiling("auto")


def parse_tiling(text: str) -> Tiling:
    """`off`, `auto`, `SIZE[,OVERLAP[,SCALE]]` or `joint[,SIZE[,OVERLAP[,SCALE]]]`.

    Raises:
        ParameterError: anything else, or windows that cannot be; the text has the remedy.
    """
    name = text.strip().lower()
    if name in ("off", "auto"):
        return AUTO if name == "auto" else OFF
    parts = [part.strip() for part in name.split(",")]
    kind = "fixed"
    if parts[0] == "joint":
        if len(parts) == 1:
            return Tiling("joint")
        kind, parts = "joint", parts[1:]
    try:
        size, overlap = int(parts[0]), int(parts[1]) if len(parts) > 1 else None
        scale = float(parts[2]) if len(parts) > 2 else 1.0
    except ValueError:
        raise _unreadable(text) from None
    if len(parts) > 3 or not math.isfinite(scale):
        raise _unreadable(text)
    if size < LEAST_SIZE:
        raise ParameterError(f"tile: a window of {size} pixels is too small for the network; use {LEAST_SIZE} or more")
    if not 0.01 <= scale <= 16:
        raise ParameterError(f"tile: the scale must lie in 0.01..16, not {scale:g}")
    if overlap is not None and not 0 <= overlap <= size * MOST_OVERLAP:
        raise ParameterError(
            f"tile: windows of {size} pixels cannot overlap by {overlap}; use 0 to {int(size * MOST_OVERLAP)}, half of the window"
        )
    tiling = Tiling(kind, size, overlap, scale)
    if tiling.window < LEAST_SIZE:
        raise ParameterError(
            f"tile: at a scale of {scale:g} a window of {size} pixels covers {tiling.window} pixels of the picture; "
            f"use {LEAST_SIZE} or more"
        )
    return tiling


def _unreadable(text: str) -> ParameterError:
    return ParameterError(f"tile: should be off, auto, SIZE[,OVERLAP[,SCALE]] such as 1024,128, or joint (it is {text[:80]!r})")
