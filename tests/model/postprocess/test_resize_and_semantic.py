"""Masks at the output's size, whole and in strips, and the semantic map made of them."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from proscale.postprocess.resize import queries_at_once, resize_in_strips, resize_mask_logits
from proscale.postprocess.semantic import best_classes, semantic_inference

PADDED, RESIZED = (64, 96), (50, 90)


@pytest.mark.parametrize("output", [(50, 90), (123, 217), (31, 40)])
@pytest.mark.parametrize("max_values", [1, 3000, 10**9])
def test_strips_equal_the_whole(output: tuple[int, int], max_values: int) -> None:
    masks = torch.randn(5, 16, 24) * 4
    whole = resize_mask_logits(masks, PADDED, RESIZED, output)
    strips = list(resize_in_strips(masks, PADDED, RESIZED, output, max_values))
    assert [start for start, _ in strips] == [sum(s.shape[1] for _, s in strips[:i]) for i in range(len(strips))]
    assert len(strips) == {1: output[0], 3000: -(-output[0] // (3000 // (5 * output[1]))), 10**9: 1}[max_values]
    assert torch.allclose(torch.cat([strip for _, strip in strips], 1), whole, atol=1e-5)


@pytest.mark.parametrize("output", [(50, 90), (123, 217), (31, 40)])
@pytest.mark.parametrize("max_values", [1, 3000, 10**9])
def test_scores_combined_before_the_last_resizing(output: tuple[int, int], max_values: int) -> None:
    class_logits, masks = torch.randn(5, 4), torch.randn(5, 16, 24) * 4
    at_network_size = semantic_inference(class_logits, resize_mask_logits(masks, PADDED, RESIZED, RESIZED))
    whole = F.interpolate(at_network_size[None], size=output, mode="bilinear", align_corners=False)[0]
    combine = partial(semantic_inference, class_logits)
    strips = [strip for _, strip in resize_in_strips(masks, PADDED, RESIZED, output, max_values, combine=combine)]
    assert torch.allclose(torch.cat(strips, 1), whole, atol=1e-5)
    winner, share = best_classes(strips)
    assert torch.equal(winner, torch.cat(strips, 1).argmax(0))
    assert share.shape == output
    if output != RESIZED:
        masks_first = semantic_inference(class_logits, resize_mask_logits(masks, PADDED, RESIZED, output))
        assert (masks_first - whole).abs().max() > 0.01, "the order makes no difference here, so it is not tested"


def test_padding_does_not_influence_the_result() -> None:
    masks = torch.zeros(1, 16, 24)
    masks[:, 14:] = 100
    masks[:, :, 23:] = 100
    assert resize_mask_logits(masks, PADDED, (48, 84), (48, 84)).abs().max() == 0


def test_semantic_scores_by_definition() -> None:
    class_logits, mask_logits = torch.randn(4, 3), torch.randn(4, 2, 5)
    scores = semantic_inference(class_logits, mask_logits)
    for k in range(2):
        expected = sum(class_logits.softmax(-1)[q, k] * mask_logits[q].sigmoid() for q in range(4))
        assert torch.allclose(scores[k], expected, atol=1e-6)
    winner, share = best_classes(semantic_inference(class_logits, part) for part in (mask_logits[:, :1], mask_logits[:, 1:]))
    assert torch.equal(winner, scores.argmax(0))
    assert torch.allclose(share, scores.max(0).values / scores.sum(0))


def test_groups_of_queries_stay_in_bounds() -> None:
    assert queries_at_once((1000, 1000), 3_500_000) == 3
    assert queries_at_once((4000, 3000), 1) == 1
