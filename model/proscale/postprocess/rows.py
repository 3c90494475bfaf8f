"""Maps of scores (C, H, W) that are made a few rows at a time: resized, combined, put together from windows.

A data set's 150 classes at a large picture's size are gigabytes. Here a map is a recipe: who asks for rows gets them, and every step asks
the one below it for the rows that it needs. All rows at once give what torch's own functions give.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.postprocess.resize import MAX_VALUES
from proscale.postprocess.semantic import semantic_inference
from proscale.predictions import DensePrediction, QueryPrediction, WindowPrediction


class RowMap(ABC):
    """A map that can be asked for rows."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        self.channels, self.size = channels, size

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """(channels, stop - start, width) float."""


class Held(RowMap):
    """A map that is there: (C, H, W)."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(values.shape[0], (values.shape[1], values.shape[2]))
        self.values = values

    def rows(self, start: int, stop: int) -> Tensor:
        """See `RowMap`."""
        return self.values[:, start:stop]


class Resized(RowMap):
    """Another map at another size, bilinear, align_corners False."""

    def __init__(self, source: RowMap, size: tuple[int, int]) -> None:
        super().__init__(source.channels, size)
        self.source = source

    def rows(self, start: int, stop: int) -> Tensor:
        """See `RowMap`."""
        height = self.source.size[0]
        if self.size == self.source.size:
            return self.source.rows(start, stop)
        if (start, stop) == (0, self.size[0]):
            return F.interpolate(self.source.rows(0, height)[None], size=self.size, mode="bilinear", align_corners=False)[0]
        # Bilinear resizing is separable: rows by hand, columns by interpolate, which leaves an equal number of rows alone.
        position = ((torch.arange(start, stop) + 0.5) * (height / self.size[0]) - 0.5).clamp_min(0)
        upper = position.long().clamp_max(height - 1)
        lower = (upper + 1).clamp_max(height - 1)
        first = int(upper[0])
        source = self.source.rows(first, int(lower[-1]) + 1)
        share = (position - upper)[:, None].to(source)
        upper, lower = ((index - first).to(source.device) for index in (upper, lower))
        rows = torch.lerp(source[:, upper], source[:, lower], share)
        return F.interpolate(rows[None], size=(stop - start, self.size[1]), mode="bilinear", align_corners=False)[0]


class Combined(RowMap):
    """Another map after a function of single places, (C, rows, W) -> (C', rows, W)."""

    def __init__(self, source: RowMap, channels: int, combine: Callable[[Tensor], Tensor]) -> None:
        super().__init__(channels, source.size)
        self.source, self.combine = source, combine

    def rows(self, start: int, stop: int) -> Tensor:
        """See `RowMap`."""
        return self.combine(self.source.rows(start, stop))


class Averaged(RowMap):
    """Windows on a larger map; where they overlap, their mean."""

    def __init__(self, windows: Sequence[RowMap], places: Sequence[tuple[int, int]], size: tuple[int, int]) -> None:
        super().__init__(windows[0].channels, size)
        self.windows, self.places = windows, places

    def rows(self, start: int, stop: int) -> Tensor:
        """See `RowMap`."""
        total: Tensor | None = None
        count = torch.zeros(stop - start, self.size[1])
        for window, (top, left) in zip(self.windows, self.places, strict=True):
            height, width = window.size
            first, last = max(start, top), min(stop, top + height)
            if first >= last:
                continue
            values = window.rows(first - top, last - top)
            if total is None:
                total = values.new_zeros(self.channels, stop - start, self.size[1])
            total[:, first - start : last - start, left : left + width] += values
            count[first - start : last - start, left : left + width] += 1
        assert total is not None
        return total.div_(count.to(total))


def score_map(prediction: DensePrediction | QueryPrediction | WindowPrediction, size: tuple[int, int]) -> RowMap:
    """What a network said of one picture, as scores of classes at the size of its input.

    Args:
        prediction: with a batch dimension of 1, or of one picture's windows.
        size: (height, width) of the input.
    """
    if isinstance(prediction, WindowPrediction):
        count = len(prediction.places)
        windows = [_window(prediction.windows, i, prediction.size) for i in range(count)]
        return Averaged(windows, prediction.places, size)
    return _window(prediction, 0, size)


def dense_map(prediction: DensePrediction, index: int) -> RowMap:
    """The logits of one picture or window, after what the network itself does last."""
    held = Held(prediction.logits[index])
    if prediction.upscale == 1:
        return held
    return Resized(held, (prediction.upscale * held.size[0], prediction.upscale * held.size[1]))


def strips(source: RowMap, max_values: int = MAX_VALUES) -> Iterator[Tensor]:
    """All rows from the top, (C, rows, W) of at most about `max_values` values at a time."""
    height, width = source.size
    rows = max(1, max_values // (source.channels * width))
    for start in range(0, height, rows):
        yield source.rows(start, min(start + rows, height))


def _window(prediction: DensePrediction | QueryPrediction, index: int, size: tuple[int, int]) -> RowMap:
    if isinstance(prediction, DensePrediction):
        return Resized(dense_map(prediction, index), size)
    class_logits = prediction.class_logits[index]
    masks = Resized(Held(prediction.mask_logits[index]), size)
    return Combined(masks, class_logits.shape[-1] - 1, lambda rows: semantic_inference(class_logits, rows))
