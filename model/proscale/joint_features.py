"""Features of a picture whose windows are apart in the backbone, put together for decoders that see the whole; and their reuse.

The form is LAIT's (arXiv 2305.19585): early layers see a segment each, late ones all. What of the features lies in a window's part of
the picture (`JointWindows.edges`) is kept; around it a window has seen its overlap with others.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proscale.results import JointWindows

CELL = 32
"""Pixels of the input per cell of `JointWindows`."""

Backbone = Callable[[Tensor], Sequence[Tensor]]
"""(B, 3, H, W) -> levels (B, C, h, w) at strides of 4, 8, 16 and 32."""


def joint_features(backbone: Backbone, images: Tensor, windows: JointWindows) -> list[Tensor]:
    """The backbone's levels of a batch (B, 3, H, W), computed window by window."""
    height, width = (cells * CELL for cells in windows.size)
    whole: list[Tensor] = []
    for row, top in enumerate(windows.starts[0]):
        for column, left in enumerate(windows.starts[1]):
            y, x = top * CELL, left * CELL
            levels = backbone(images[:, :, y : y + height, x : x + width].contiguous())
            if len(windows.starts[0]) == len(windows.starts[1]) == 1:
                return list(levels)
            whole = whole or [_empty(level, windows, images) for level in levels]
            rows, columns = (edges[at : at + 2] for edges, at in zip(windows.edges, (row, column), strict=True))
            for target, level in zip(whole, levels, strict=True):
                scale = target.shape[2] * CELL // images.shape[2]  # of the level's pixels per cell
                down, across = (slice(first * scale, last * scale) for first, last in (rows, columns))
                inside = [slice((first - at) * scale, (last - at) * scale) for (first, last), at in ((rows, top), (columns, left))]
                target[:, :, down, across] = level[:, :, inside[0], inside[1]]
    return whole


def _empty(level: Tensor, windows: JointWindows, images: Tensor) -> Tensor:
    """Room for a level of the whole picture, laid out in memory as the window's level is."""
    scale = level.shape[2] // windows.size[0]
    size = (images.shape[2] // CELL * scale, images.shape[3] // CELL * scale)
    last = level.is_contiguous(memory_format=torch.channels_last) and not level.is_contiguous()
    kind = torch.channels_last if last else torch.contiguous_format
    return torch.empty((*level.shape[:2], *size), dtype=level.dtype, device=level.device, memory_format=kind)


class FeatureCache:
    """Levels of pictures and windows that were seen before, by their pixels: those of equal content are computed once.

    Holds at most so many bytes; what was used least recently goes first. Safe from several threads.
    """

    def __init__(self, backbone: Backbone, most_bytes: int) -> None:
        """Args: backbone: its weights must not change any more."""
        self._backbone, self._most = backbone, most_bytes
        self._kept: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    @property
    def nbytes(self) -> int:
        """Of all levels that are kept."""
        return self._bytes

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The levels of a batch (B, 3, H, W), each (B, C, h, w). They are shared: do not write to them."""
        singles = [self._levels(image[None]) for image in images]
        if len(singles) == 1:
            return singles[0]
        return [torch.cat(parts) for parts in zip(*singles, strict=True)]

    def _levels(self, image: Tensor) -> list[Tensor]:
        key = self._key(image)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                self.hits += 1
                return self._kept[key]
            self.misses += 1
        levels = list(self._backbone(image))
        size = sum(level.nbytes for level in levels)
        if size <= self._most:
            with self._lock:
                if key not in self._kept:
                    self._kept[key] = levels
                    self._bytes += size
                while self._bytes > self._most:
                    _, gone = self._kept.popitem(last=False)
                    self._bytes -= sum(level.nbytes for level in gone)
        return levels

    @staticmethod
    def _key(image: Tensor) -> bytes:
        content = image.detach().contiguous().view(torch.uint8).cpu().numpy()
        return hashlib.sha256(repr(tuple(image.shape)).encode() + b" " + content.tobytes()).digest()
