"""Maps and masks -> runs -> COCO RLE, on the device that made them: only runs leave it.

Runs are (R, 3) int32: start, end and code. Positions count column by column from the top left pixel down; `end` is behind the last pixel.
The code is a map's value or a mask's index. The compiled forms (`csrc/rle_op.cpp`) have reference forms in torch, which also serve other
devices, and in numpy.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from proscale.ops import native
from proscale.results import RLE
from proscale.rle import MeasuredMask, encode_run_table

MAP_TYPES = (torch.int32, torch.int16, torch.uint8)


def map_runs(ids: Tensor) -> Tensor:
    """Runs of equal values of a map (H, W) int32, int16 or uint8; they cover every pixel. Returns (R, 3) int32 on the map's device."""
    if native.STATUS.cpu is not None and ids.device.type == "cpu" and ids.dtype in MAP_TYPES:
        runs: Tensor = torch.ops.proscale.map_runs(ids)
        return runs
    return map_runs_reference(ids)


def map_runs_reference(ids: Tensor) -> Tensor:
    """The reference form of `map_runs` for every device and integer type."""
    flat = ids.T.reshape(-1)
    if not len(flat):
        return torch.empty(0, 3, dtype=torch.int32, device=ids.device)
    starts = torch.cat([flat.new_zeros(1, dtype=torch.int64), (flat[1:] != flat[:-1]).nonzero().flatten() + 1])
    ends = torch.cat([starts[1:], starts.new_full((1,), len(flat))])
    return torch.stack([starts, ends, flat[starts].long()], 1).int()


def mask_runs(masks: Tensor) -> Tensor:
    """Runs of the pixels inside masks (N, H, W) bool, which may overlap; the code is the mask's index. Returns (R, 3) int32."""
    if native.STATUS.cpu is not None and masks.device.type == "cpu":
        runs: Tensor = torch.ops.proscale.mask_runs(masks)
        return runs
    return mask_runs_reference(masks)


def mask_runs_reference(masks: Tensor) -> Tensor:
    """The reference form of `mask_runs` for every device: all masks in one pass, with one synchronisation."""
    flat = masks.transpose(1, 2).reshape(len(masks), -1)
    # A zero before and behind every mask: changes then come in pairs, start and end.
    edged = torch.nn.functional.pad(flat, (1, 1))
    changes = (edged[:, 1:] != edged[:, :-1]).nonzero().view(-1, 2, 2)
    return torch.stack([changes[:, 0, 1], changes[:, 1, 1], changes[:, 0, 0]], 1).int()


def encode_runs(runs: Tensor, table: Sequence[int], count: int, size: tuple[int, int]) -> list[MeasuredMask]:
    """Encode masks from their runs.

    Args:
        runs: (R, 3) int32 on any device; those of one mask in picture order.
        table: code -> mask in 0..count - 1, or -1 for none; several codes may share a mask as long as they do not overlap.
        count: how many masks; one without runs is empty.
        size: (height, width) in pixels.

    Returns:
        One mask per index, with its area and box.
    """
    runs = runs.cpu()
    if native.STATUS.cpu is None:
        return encode_run_table(runs.numpy(), np.asarray(table, np.int64), count, size)
    text, measures = torch.ops.proscale.encode_runs(runs, torch.tensor(table, dtype=torch.int32), count, *size)
    counts = text.numpy().tobytes().decode("ascii")
    masks, begin = [], 0
    for end, area, *box in measures.tolist():
        x, y, width, height = box
        masks.append(MeasuredMask(RLE(size, counts[begin:end]), area, (x, y, width, height)))
        begin = end
    return masks
