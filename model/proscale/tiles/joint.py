"""Windows that are apart in the backbone alone (LAIT, arXiv 2305.19585: early layers within segments, late ones across all).

The whole picture is planned at the scale at which the network would see a window. Windows lie on cells of 32 pixels of the network's
input, so that every level of features has whole rows of each; what a window decides of a level is a rectangle, as in `layout.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from proscale.config import TASKS, ModelConfig, NetworkConfig, Task
from proscale.errors import ParameterError
from proscale.flops import count_flops
from proscale.geometry import padded_size
from proscale.network_flops import count_baseline, count_network
from proscale.planning import plan_picture
from proscale.results import JointWindows, Plan, Tiles
from proscale.tiles.layout import lay_out
from proscale.tiles.options import DEFAULT_OVERLAP, Tiling

CELL = 32
"""Pixels: stride of the coarsest level."""
MOST_PIXELS = 1 << 24
"""Of the network's input, which the decoders hold as a whole."""


def plan_joint(config: NetworkConfig, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> Plan:
    """What a picture costs whose windows are apart in the backbone alone; one that fits one window: as without windows.

    Args:
        tiling: of kind `joint`.
        height, width: of the picture in pixels.

    Raises:
        ParameterError: a network that has no such form, or a picture that is too large for it; the text has the remedy.
    """
    _check(config)
    window = _window(config, tiling, height, width, tasks)
    one = plan_picture(config, *window, tasks)
    scales = [seen / given for seen, given in zip(one.resized, window, strict=True)]
    whole = max(1, round(height * scales[0])), max(1, round(width * scales[1]))
    padded = padded_size(*whole, config.preprocess)
    if math.prod(padded) > MOST_PIXELS:
        raise ParameterError(
            f"tile: joint would show the decoders {padded[1]} x {padded[0]} pixels at once, more than the {MOST_PIXELS} that fit into "
            "memory; take larger windows, a SCALE below 1, or windows that are merged: tile=auto"
        )
    if window == (height, width):
        return one
    shared = round((tiling.shared if tiling.size else min(window) * DEFAULT_OVERLAP) * min(scales))
    windows = _windows(padded, one.padded, shared)
    assert isinstance(config, ModelConfig)
    count = len(windows.starts[0]) * len(windows.starts[1])
    in_windows = count * count_flops(config, (windows.size[0] * CELL, windows.size[1] * CELL)).backbone
    asked = tuple(task for task in TASKS if task in tasks)
    full, baseline = (count(config, padded, (height, width), asked).total for count in (count_network, count_baseline))
    flops = full - count_flops(config, padded).backbone + in_windows
    overlap = (_overlap(windows, 0, scales[0]), _overlap(windows, 1, scales[1]))
    tiles = Tiles(count, window, overlap, round(min(scales), 6), joint=True)
    return replace(one, resized=whole, padded=padded, flops=flops, baseline_flops=baseline, tiles=tiles, joint=windows)


def _check(config: NetworkConfig) -> None:
    if not isinstance(config, ModelConfig):
        raise ParameterError(
            "tile: joint is for PRO-SCALE and Mask2Former, whose decoders can see all windows; take windows that are merged: tile=auto"
        )
    preprocess = config.preprocess
    if preprocess.align != "pad" or preprocess.size is not None or preprocess.pad_to is not None or preprocess.size_divisor % CELL:
        raise ParameterError("tile: joint needs a model that pads pictures to multiples of 32; take windows that are merged: tile=auto")


def _window(config: NetworkConfig, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> tuple[int, int]:
    """(height, width) of a window in pixels of the picture."""

    def plan(height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return plan_picture(config, height, width, tasks)

    layout = lay_out(tiling, height, width, plan, tasks)  # as large as windows that are merged
    assert layout is not None
    return layout.window_size


def _windows(padded: tuple[int, int], window: tuple[int, int], shared: int) -> JointWindows:
    """Args: padded, window: (height, width) of the input and of a window, multiples of 32; shared: pixels that neighbours share."""
    sizes, starts, edges = [], [], []
    for length, side in zip(padded, window, strict=True):
        cells, size = length // CELL, min(length, side) // CELL
        overlap = min(-(-shared // CELL), size // 2)
        count = 1 if cells == size else max(2, -(-(cells - overlap) // (size - overlap)))
        first = tuple(i * (cells - size) // max(1, count - 1) for i in range(count))
        middles = ((start + size + after + 1) // 2 for start, after in pairwise(first))
        sizes.append(size)
        starts.append(first)
        edges.append((0, *middles, cells))
    return JointWindows((sizes[0], sizes[1]), (starts[0], starts[1]), (edges[0], edges[1]))


def _overlap(windows: JointWindows, axis: int, scale: float) -> int:
    """Least number of pixels of the picture that neighbours share."""
    starts, size = windows.starts[axis], windows.size[axis]
    cells = min((start + size - after for start, after in pairwise(starts)), default=0)
    return int(cells * CELL / scale)
