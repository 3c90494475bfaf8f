"""Logits of one picture -> what was found in it, as runs that are ready to be encoded.

On the CPU one compiled pass goes from stride-4 logits to runs (`csrc/masks_op.cpp`); no mask exists at full size. Elsewhere, and for
shapes that are not compiled, the functions of this package make maps and masks on the logits' device, and only their runs leave it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from proscale.ops import native
from proscale.ops.rle import encode_runs, map_runs, mask_runs
from proscale.postprocess.instance import instance_inference, rank_instances
from proscale.postprocess.panoptic import choose_segments, keep_queries, panoptic_inference
from proscale.postprocess.resize import resize_mask_logits
from proscale.postprocess.semantic import best_classes, semantic_strips
from proscale.rle import MeasuredMask

MAX_QUERIES, MAX_CLASSES = 2**14 - 1, 2**15 - 1
"""What 16-bit codes hold."""


@dataclass(frozen=True)
class Frames:
    """(height, width) in pixels of the network's input, of the picture in it, and of the output."""

    padded: tuple[int, int]
    resized: tuple[int, int]
    output: tuple[int, int]

    @property
    def sizes(self) -> list[int]:
        """All six numbers, as the compiled operator wants them."""
        return [*self.padded, *self.resized, *self.output]


@dataclass(frozen=True)
class Found:
    """Segments before encoding."""

    size: tuple[int, int]
    runs: Tensor
    """(R, 3) int32, see `proscale.ops.rle`."""
    table: Sequence[int]
    """Code of a run -> mask, or -1."""
    masks: int
    candidates: Sequence[tuple[int, float, int]]
    """Class index, score, mask; several may share a mask."""

    def of(self, wanted: Sequence[bool]) -> "Found":
        """The candidates of some classes alone. Args: wanted: per class."""
        return replace(self, candidates=[candidate for candidate in self.candidates if wanted[candidate[0]]])

    def encode(self) -> list[tuple[int, float, MeasuredMask]]:
        """Class index, score and mask of every candidate, in order."""
        masks = encode_runs(self.runs, self.table, self.masks, self.size)
        return [(class_index, score, masks[mask]) for class_index, score, mask in self.candidates]


def compiled(mask_logits: Tensor, frames: Frames) -> bool:
    """Whether the compiled pass covers these logits (Q, h, w) and sizes."""
    return (
        native.STATUS.cpu is not None
        and mask_logits.device.type == "cpu"
        and mask_logits.dtype == torch.float32
        and len(mask_logits) <= MAX_QUERIES
        and min(mask_logits.shape[1:]) >= 3
        and min(frames.resized) >= 2
        and all(padded >= source for padded, source in zip(frames.padded, mask_logits.shape[1:], strict=True))
        and frames.output[0] * frames.output[1] < 2**31 - 1
    )


def find_panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    frames: Frames,
    is_thing: Sequence[bool],
    threshold: float,
    overlap_threshold: float,
    mask_threshold: float = 0.5,
) -> Found:
    """Panoptic inference; see `panoptic_inference` for the rules. Args: (Q, K + 1) and (Q, h, w) float."""
    if not compiled(mask_logits, frames):
        masks_of = partial(_masks_of, mask_logits, frames)
        ids, segments = panoptic_inference(class_logits, masks_of, frames.output, is_thing, threshold, overlap_threshold, mask_threshold)
        table = [-1, *range(len(segments))]
        runs = map_runs(ids)
    else:
        kept, class_indices, scores = keep_queries(class_logits, threshold)
        if not len(kept):
            return Found(frames.output, torch.empty(0, 3, dtype=torch.int32), [], 0, [])
        runs, areas = torch.ops.proscale.panoptic_runs(mask_logits[kept], scores, frames.sizes, _logit(mask_threshold))
        won, inside, own = areas.T.tolist()
        ids_of, segments = choose_segments(class_indices.tolist(), scores.tolist(), won, inside, own, is_thing, overlap_threshold)
        # Codes are 2 * query, and one more inside the query's own mask.
        table = [entry for segment_id in ids_of for entry in (-1, segment_id - 1)]
    return Found(frames.output, runs, table, len(segments), [(s.class_index, s.score, i) for i, s in enumerate(segments)])


def find_instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    frames: Frames,
    is_thing: Sequence[bool],
    max_instances: int = 100,
    mask_threshold: float = 0.5,
    min_score: float | None = None,
) -> Found:
    """Instance inference without empty masks; see `instance_inference` for the rules. Args: (Q, K + 1) and (Q, h, w) float."""
    if not compiled(mask_logits, frames):
        masks_of = partial(_masks_of, mask_logits, frames)
        masks, class_indices, scores = instance_inference(
            class_logits, masks_of, frames.output, is_thing, max_instances, mask_threshold, min_score
        )
        kept = masks.flatten(1).any(1)
        class_indices, scores, rows = class_indices[kept], scores[kept], list(range(int(kept.sum())))
        runs, count = mask_runs(masks[kept]), len(rows)
    else:
        queries, row, class_indices, class_scores = rank_instances(class_logits, is_thing, max_instances, min_score)
        runs, sums = torch.ops.proscale.instance_runs(mask_logits[queries], frames.sizes, _logit(mask_threshold))
        area, inside = sums.unbind(1)
        scores = class_scores * (inside / (area + 1e-6)).to(class_scores.dtype)[row]
        kept = area[row] > 0
        if min_score is not None:
            kept &= scores > min_score
        class_indices, scores, rows, count = class_indices[kept], scores[kept], row[kept].tolist(), len(queries)
    return Found(frames.output, runs, range(count), count, list(zip(class_indices.tolist(), scores.tolist(), rows, strict=True)))


def find_semantic(class_logits: Tensor, mask_logits: Tensor, frames: Frames, combine_first: bool) -> Found:
    """Semantic inference, one candidate per class that wins a pixel; its score is the mean share of all classes' scores over its pixels.

    Args:
        class_logits, mask_logits: (Q, K + 1) and (Q, h, w) float.
        combine_first: sum the queries up at the resized picture's size, and resize the scores.
    """
    classes = class_logits.shape[1] - 1
    if compiled(mask_logits, frames) and classes <= MAX_CLASSES:
        probabilities = class_logits.softmax(-1)[:, :-1]
        runs, sums = torch.ops.proscale.semantic_runs(mask_logits, probabilities, frames.sizes, combine_first)
        areas, means = sums[:, 0], sums[:, 1] / sums[:, 0].clamp_min(1)
    else:
        sizes = (frames.padded, frames.resized, frames.output)
        winner, share = best_classes(semantic_strips(class_logits, mask_logits, sizes, combine_first))
        areas = winner.flatten().bincount(minlength=classes)
        means = winner.flatten().bincount(share.flatten().double(), minlength=classes) / areas.clamp_min(1)
        runs = map_runs(winner.int())
    present = areas.nonzero().flatten().tolist()
    table, mean = [-1] * classes, means.tolist()
    for mask, class_index in enumerate(present):
        table[class_index] = mask
    return Found(
        frames.output, runs, table, len(present), [(class_index, mean[class_index], mask) for mask, class_index in enumerate(present)]
    )


def _masks_of(mask_logits: Tensor, frames: Frames, queries: Tensor) -> Tensor:
    return resize_mask_logits(mask_logits[queries], frames.padded, frames.resized, frames.output)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
