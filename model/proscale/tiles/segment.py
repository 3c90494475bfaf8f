"""A picture, window by window, through a predictor in this process."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from proscale.batch_sizes import BatchSizes
from proscale.config import Task
from proscale.geometry import ResizedPicture
from proscale.results import Plan, Prediction, SegmentationOptions
from proscale.runtime import MAX_BATCH_PICTURES, MAX_BATCH_PIXELS
from proscale.tiles.layout import Box, Layout
from proscale.tiles.merge import Merger, merged_prediction

ReadWindow = Callable[[Box], NDArray[np.uint8]]
"""Window of the picture, in its pixels -> (h, w, 3) uint8 RGB. Asked for row by row, from the left to the right."""


class WindowPredictor(Protocol):
    """What `proscale.predictor.Predictor` offers."""

    def resize(self, image: NDArray[np.uint8]) -> ResizedPicture:
        """A picture (H, W, 3), uint8 RGB, at the network's size."""
        ...

    def segment_resized(
        self, pictures: Sequence[ResizedPicture], options: Sequence[SegmentationOptions], plans: Sequence[Plan], resize_seconds: float = 0.0
    ) -> Sequence[Prediction]:
        """Pictures of one padded size; one prediction each, in order."""
        ...


class WindowTimes:
    """Seconds per stage, summed over windows: what a batch shares is shared out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, timings: Mapping[str, float], batch_size: int = 1) -> None:
        """Take in a window's timings. Args: batch_size: windows whose preprocessing and inference they are."""
        for stage, seconds in timings.items():
            share = batch_size if stage in ("preprocess", "infer") else 1
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds / share


def window_options(options: SegmentationOptions) -> SegmentationOptions:
    """What to ask of one window: the best of the picture are chosen when all windows are known."""
    return replace(options, max_segments=None)


def make_mergers(layout: Layout, tasks: Sequence[Task]) -> dict[Task, Merger]:
    """One for every task."""
    return {task: Merger(task, layout) for task in tasks}


def add_window(mergers: Mapping[Task, Merger], prediction: Prediction) -> None:
    """Take in what the next window's prediction holds."""
    for task, merger in mergers.items():
        merger.add(prediction.results[task].segments, prediction.results[task].confidence)


def segment_windows(
    predictor: WindowPredictor,
    layout: Layout,
    read: ReadWindow,
    options: SegmentationOptions,
    on_window: Callable[[], object] = lambda: None,
) -> tuple[dict[Task, Merger], dict[str, float]]:
    """Segment all windows. What is in memory at once: a batch of windows, the things of two rows of windows, and the answer in runs.

    Args:
        options: which the model can do (`Predictor.check`).
        on_window: called after every window.

    Returns:
        what was found, per task, to be finished; and the seconds per stage.
    """
    mergers, times, own = make_mergers(layout, options.tasks), WindowTimes(), window_options(options)
    for batch in _batches(predictor, layout, read, own):
        for prediction in batch:
            started = time.perf_counter()
            add_window(mergers, prediction)
            merging = time.perf_counter() - started
            timings = dict(prediction.timings)
            timings["postprocess"] = timings.get("postprocess", 0.0) + merging
            times.add(timings, len(batch))
            on_window()
    return mergers, times.seconds


def segment_picture(
    predictor: WindowPredictor,
    layout: Layout,
    image: NDArray[np.uint8],
    options: SegmentationOptions,
    on_window: Callable[[], object] = lambda: None,
) -> Prediction:
    """A picture (H, W, 3), uint8 RGB, that is in memory. Args: on_window: called after every window."""

    def read(box: Box) -> NDArray[np.uint8]:
        return image[box.top : box.bottom, box.left : box.right]

    mergers, seconds = segment_windows(predictor, layout, read, options, on_window)
    return merged_prediction(mergers, layout.plan, seconds, options.max_segments)


def _batches(predictor: WindowPredictor, layout: Layout, read: ReadWindow, options: SegmentationOptions) -> Iterator[Sequence[Prediction]]:
    plan, sizes = layout.window_plan, BatchSizes(MAX_BATCH_PICTURES)
    pixels = max(plan.padded[0] * plan.padded[1], layout.window_size[0] * layout.window_size[1])
    most = max(1, MAX_BATCH_PIXELS // pixels)
    next_window = 0
    while next_window < len(layout):
        count = min(sizes.limit(plan.padded), most, len(layout) - next_window)
        started = time.perf_counter()
        pictures = [predictor.resize(read(layout.window(next_window + i))) for i in range(count)]
        resized = time.perf_counter()
        yield predictor.segment_resized(pictures, [options] * count, [plan] * count, resized - started)
        sizes.measured(plan.padded, count, time.perf_counter() - resized)
        next_window += count
