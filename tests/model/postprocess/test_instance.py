"""Instance inference against its definition in plain loops."""

import pytest
import torch

from proscale.postprocess import instance
from proscale.postprocess.instance import instance_inference

IS_THING = [True, False, True]


@pytest.mark.parametrize("top", [4, 100])
@pytest.mark.parametrize("mask_threshold", [0.3, 0.5])
@pytest.mark.parametrize("at_once", [1, 10_000])
def test_it_equals_plain_loops(top: int, mask_threshold: float, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "queries_at_once", lambda size: at_once)
    class_logits, mask_logits = torch.randn(6, 4), torch.randn(6, 5, 7) * 2
    masks, labels, scores = instance_inference(class_logits, lambda q: mask_logits[q], (5, 7), IS_THING, top, mask_threshold)

    probabilities = class_logits.softmax(-1)
    pairs = sorted(((probabilities[q, k].item(), q, k) for q in range(6) for k in range(3)), reverse=True)[:top]
    pairs = [pair for pair in pairs if IS_THING[pair[2]]]
    assert labels.tolist() == [k for _, _, k in pairs]
    for mask, score, (probability, q, _) in zip(masks, scores, pairs, strict=True):
        own = mask_logits[q].sigmoid() > mask_threshold
        assert torch.equal(mask, own)
        inside = mask_logits[q].sigmoid()[own].sum() / (own.sum() + 1e-6)
        assert score.item() == pytest.approx(probability * inside.item(), abs=1e-6)


def test_a_least_score_leaves_the_rest_unchanged_and_saves_masks() -> None:
    class_logits, mask_logits = torch.randn(6, 4), torch.randn(6, 5, 7) * 2
    asked: list[int] = []

    def masks_of(queries: torch.Tensor) -> torch.Tensor:
        asked.extend(queries.tolist())
        return mask_logits[queries]

    every = instance_inference(class_logits, lambda q: mask_logits[q], (5, 7), IS_THING)
    best = instance_inference(class_logits, masks_of, (5, 7), IS_THING, min_score=0.3)
    kept = every[2] > 0.3
    assert 0 < kept.sum() < len(kept)
    assert all(torch.equal(a[kept], b) for a, b in zip(every, best, strict=True))
    assert len(asked) < 6


def test_no_things_no_instances() -> None:
    masks, labels, scores = instance_inference(torch.randn(2, 4), lambda q: torch.zeros(len(q), 2, 3), (2, 3), [False] * 3)
    assert masks.shape == (0, 2, 3)
    assert len(labels) == len(scores) == 0
