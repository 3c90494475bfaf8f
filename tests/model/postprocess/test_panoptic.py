"""Panoptic inference against its definition in plain loops."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proscale.postprocess import panoptic
from proscale.postprocess.panoptic import panoptic_inference

IS_THING = [True, False, True, False]


def loops(class_logits: Tensor, masks: Tensor, threshold: float, overlap: float, mask_threshold: float) -> tuple[np.ndarray, list]:
    """Segment by segment, pixel by pixel, as the rules are told."""
    probabilities, mask_probabilities = class_logits.softmax(-1).numpy(), masks.sigmoid().numpy()
    kept = [q for q, p in enumerate(probabilities) if p.argmax() != len(IS_THING) and p.max() > threshold]
    height, width = masks.shape[1:]
    ids, segments, stuff = np.zeros((height, width), int), [], {}  # type: ignore[var-annotated]
    if not kept:
        return ids, segments
    weighted = np.stack([np.float32(probabilities[q].max()) * mask_probabilities[q] for q in kept])
    winner = weighted.argmax(0)
    for i, q in enumerate(kept):
        label = int(probabilities[q].argmax())
        own = mask_probabilities[q] >= mask_threshold
        won = winner == i
        if not (won & own).any() or won.sum() / own.sum() < overlap:
            continue
        if not IS_THING[label] and label in stuff:
            ids[won & own] = stuff[label]
            continue
        segments.append((len(segments) + 1, label))
        ids[won & own] = len(segments)
        if not IS_THING[label]:
            stuff[label] = len(segments)
    return ids, segments


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.sampled_from([0.2, 0.4, 0.8]),
    st.sampled_from([0.0, 0.3, 0.8]),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.sampled_from([1, 60, 10_000]),
)
def test_it_equals_plain_loops(seed: int, queries: int, threshold: float, overlap: float, mask_threshold: float, at_once: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(queries, 5, generator=generator) * 3
    masks = torch.randn(queries, 3, 4, generator=generator).repeat_interleave(2, 1).repeat_interleave(2, 2) * 3
    original = panoptic.queries_at_once  # type: ignore[attr-defined]
    panoptic.queries_at_once = lambda size: original(size, at_once)  # type: ignore[assignment, attr-defined, misc]  # groups of queries of any size give the same map
    try:
        ids, segments = panoptic_inference(class_logits, lambda q: masks[q], (6, 8), IS_THING, threshold, overlap, mask_threshold)
    finally:
        panoptic.queries_at_once = original  # type: ignore[attr-defined]
    expected_ids, expected = loops(class_logits, masks, threshold, overlap, mask_threshold)
    assert np.array_equal(ids.numpy(), expected_ids)
    assert [(segment.id, segment.class_index) for segment in segments] == expected


def test_merged_stuff_has_the_highest_score_of_its_queries() -> None:
    class_logits = torch.tensor([[0, 2.0, 0, 0, 0], [0, 4.0, 0, 0, 0]])
    masks = torch.tensor([[[5.0, -5]], [[-5.0, 5]]])
    ids, segments = panoptic_inference(class_logits, lambda q: masks[q], (1, 2), IS_THING, 0.5, 0.5)
    assert ids.tolist() == [[1, 1]]
    assert [segment.score for segment in segments] == [class_logits[1].softmax(-1).max().item()]


def test_only_kept_queries_are_computed() -> None:
    asked = []

    def masks_of(queries: Tensor) -> Tensor:
        asked.extend(queries.tolist())
        return torch.zeros(len(queries), 2, 2)

    class_logits = torch.tensor([[9.0, 0, 0, 0, 0], [0, 0, 0, 0, 9.0], [0, 9.0, 0, 0, 0]])
    panoptic_inference(class_logits, masks_of, (2, 2), IS_THING, 0.8, 0.8)
    assert asked == [0, 2]
