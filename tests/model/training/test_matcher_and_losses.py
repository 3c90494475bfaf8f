"""Matching and losses against plain, slow definitions."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.predictions import QueryPrediction
from proscale.training.config import LossConfig
from proscale.training.losses import dense_loss, dice_loss, mask_loss, prediction_losses
from proscale.training.matcher import match, matching_cost
from proscale.training.points import sample_ids, sample_logits, sample_logits_at_shared_points, uncertain_points


def test_costs_pair_by_pair() -> None:
    class_logits, sampled, classes = torch.randn(4, 6), torch.randn(4, 50), torch.tensor([2, 0, 4])
    target = (torch.rand(3, 50) > 0.5).float()
    cost = matching_cost(class_logits, sampled, target, classes, 2.0, 5.0, 3.0)
    for q, n in itertools.product(range(4), range(3)):
        cross_entropy = F.binary_cross_entropy_with_logits(sampled[q], target[n])
        probability = sampled[q].sigmoid()
        dice = 1 - (2 * (probability * target[n]).sum() + 1) / (probability.sum() + target[n].sum() + 1)
        expected = 5 * cross_entropy + 3 * dice - 2 * class_logits[q].softmax(-1)[classes[n]]
        assert cost[q, n].item() == pytest.approx(expected.item(), abs=1e-5)


def masks_of_three_squares() -> tuple[Tensor, Tensor]:
    """Ids (16, 16) with three squares, and mask logits (3, 4, 4) that show them clearly."""
    ids = torch.zeros(16, 16, dtype=torch.int64)
    ids[:8, :8], ids[:8, 8:], ids[8:, :8] = 1, 2, 3
    logits = torch.stack([F.avg_pool2d((ids == n)[None].float(), 4)[0] for n in (1, 2, 3)]) * 40 - 20
    return ids, logits


def test_each_segment_gets_the_query_that_shows_it() -> None:
    ids, logits = masks_of_three_squares()
    order = [2, 0, 1]
    queries, segments = match(torch.zeros(5, 4), torch.cat([logits[order], torch.zeros(2, 4, 4)]), ids, torch.tensor([0, 1, 2]), 200)
    assert dict(zip(queries.tolist(), segments.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}


def test_without_segments_nothing_is_matched() -> None:
    queries, segments = match(torch.zeros(5, 4), torch.zeros(5, 4, 4), torch.zeros(16, 16, dtype=torch.int64), torch.zeros(0).long(), 10)
    assert len(queries) == len(segments) == 0


def test_losses_vanish_for_a_perfect_prediction_and_not_for_a_wrong_one() -> None:
    ids, logits = masks_of_three_squares()
    class_logits = torch.full((1, 3, 4), -20.0)
    class_logits[0, range(3), range(3)] = 20
    config = LossConfig(points=256)
    perfect = prediction_losses(QueryPrediction(class_logits, logits[None]), ids[None], [torch.tensor([0, 1, 2])], config)
    assert perfect.classification.item() == pytest.approx(0, abs=1e-4)
    assert perfect.dice.item() < 0.12  # bilinear logits blur the edges
    wrong = prediction_losses(QueryPrediction(class_logits, -logits[None]), ids[None], [torch.tensor([0, 1, 2])], config)
    assert wrong.total > perfect.total + 5


def test_masks_of_the_right_picture_are_compared() -> None:
    ids, logits = masks_of_three_squares()
    batch = QueryPrediction(torch.zeros(2, 3, 4), torch.stack([logits, logits.flip(1)]))
    losses = prediction_losses(batch, torch.stack([ids, ids.flip(0)]), [torch.tensor([0, 1, 2])] * 2, LossConfig(points=256))
    assert losses.dice.item() < 0.12


def test_unmatched_queries_are_void_with_little_weight() -> None:
    class_logits = torch.randn(1, 4, 3)
    prediction = QueryPrediction(class_logits.requires_grad_(), torch.zeros(1, 4, 4, 4, requires_grad=True))
    empty = torch.zeros(1, 16, 16, dtype=torch.int64)
    losses = prediction_losses(prediction, empty, [torch.zeros(0, dtype=torch.int64)], LossConfig())
    assert losses.classification.item() == pytest.approx(F.cross_entropy(class_logits[0], torch.full((4,), 2)).item())
    losses.total.backward()  # a picture without segments must train all the same


def test_mask_losses_by_definition() -> None:
    sampled, target = torch.randn(3, 20), (torch.rand(3, 20) > 0.4).float()
    p = sampled.sigmoid()
    assert mask_loss(sampled, target).item() == pytest.approx(
        sum(-(t * x.log() + (1 - t) * (1 - x).log()).mean().item() for x, t in zip(p, target, strict=True)), rel=1e-5
    )
    assert dice_loss(sampled, target).item() == pytest.approx(
        sum((1 - (2 * (x * t).sum() + 1) / (x.sum() + t.sum() + 1)).item() for x, t in zip(p, target, strict=True)), rel=1e-5
    )


def test_dense_loss_reads_the_class_at_the_middle_of_each_cell_and_skips_void() -> None:
    ids = torch.zeros(1, 8, 8, dtype=torch.int64)
    ids[:, :4], ids[:, 4:, 4:] = 1, 2
    classes, logits = [torch.tensor([2, 0])], torch.randn(1, 3, 2, 2)
    cells = [(0, 0, 2), (0, 1, 2), (1, 1, 0)]
    expected = sum(F.cross_entropy(logits[:, :, y, x], torch.tensor([label])) for y, x, label in cells) / 3
    assert dense_loss(logits, ids, classes).item() == pytest.approx(expected.item(), rel=1e-5)
    assert dense_loss(logits, torch.zeros_like(ids), classes).item() == 0


def test_points_are_read_where_they_lie() -> None:
    ids = torch.arange(6).view(2, 3)
    points = torch.tensor([[0.0, 0.0], [0.5, 0.25], [0.99, 0.99]])
    assert sample_ids(ids, points).tolist() == [0, 1, 5]
    assert sample_ids(torch.stack([ids, ids + 10]), torch.stack([points, points])).tolist() == [[0, 1, 5], [10, 11, 15]]
    logits = torch.randn(2, 4, 4)
    centre_of_pixel_1_2 = torch.tensor([[2.5 / 4, 1.5 / 4]])
    assert torch.allclose(sample_logits(logits, centre_of_pixel_1_2.expand(2, 1, 2))[:, 0], logits[:, 1, 2], atol=1e-6)
    assert torch.allclose(sample_logits_at_shared_points(logits, centre_of_pixel_1_2)[:, 0], logits[:, 1, 2], atol=1e-6)


def test_most_points_lie_where_the_mask_is_undecided() -> None:
    ramp = torch.linspace(-10, 10, 32).expand(1, 32, 32)
    points = uncertain_points(ramp, 400)
    assert points.shape == (1, 400, 2)
    near = (sample_logits(ramp, points).abs() < 4).float().mean()
    assert near > 0.75 > (sample_logits(ramp, torch.rand(1, 400, 2)).abs() < 4).float().mean()
