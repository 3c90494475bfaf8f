"""Matching and losses against plain, slow definitions."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from proscale.predictions import QueryPrediction
from proscale.training.cells import MATCHING_SIDE, cell_shares, for_matching
from proscale.training.config import LossConfig
from proscale.training.losses import (
    Losses,
    Totals,
    Truth,
    dense_loss,
    dice_loss,
    mask_loss,
    match_pictures,
    pilot_losses,
    prediction_losses,
    undecided_cells,
)
from proscale.training.matcher import match, matching_cost

CONFIG = LossConfig(points=256)


def losses_of(prediction: QueryPrediction, ids: Tensor, classes: list[Tensor]) -> Losses:
    truth = Truth.of(ids, classes)
    totals = Totals.of(truth, prediction.class_logits.shape[1], CONFIG)
    return prediction_losses(prediction, truth, match_pictures(prediction, truth, CONFIG), CONFIG, totals)


def test_costs_equal_the_definition_pair_by_pair() -> None:
    class_logits, masks, classes = torch.randn(4, 6), torch.randn(4, 50), torch.tensor([2, 0, 4])
    target = torch.rand(3, 50)
    cost = matching_cost(class_logits, masks, target, classes, 2.0, 5.0, 3.0)
    for q, n in itertools.product(range(4), range(3)):
        cross_entropy = F.binary_cross_entropy_with_logits(masks[q], target[n])
        probability = masks[q].sigmoid()
        dice = 1 - (2 * (probability * target[n]).sum() + 1) / (probability.sum() + target[n].sum() + 1)
        expected = 5 * cross_entropy + 3 * dice - 2 * class_logits[q].softmax(-1)[classes[n]]
        assert cost[q, n].item() == pytest.approx(expected.item(), abs=1e-5)


def test_cell_shares_equal_the_definition_cell_by_cell() -> None:
    ids = torch.randint(0, 4, (16, 24))
    shares = cell_shares(ids, 4)
    assert shares.shape == (4, 4, 6)
    for n, y, x in itertools.product(range(4), range(4), range(6)):
        cell = ids[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert shares[n, y, x].item() == (cell == n + 1).float().mean().item()
    assert cell_shares(ids * 0, 0).shape == (0, 4, 6)


def test_costs_of_matching_over_random_cells_are_those_of_these_cells() -> None:
    masks, shares = torch.randn(6, 16, 16), torch.rand(4, 16, 16)
    logits, classes = torch.randn(6, 3), torch.tensor([0, 1, 1, 0])
    different = 0
    for seed in range(10):
        torch.manual_seed(seed)
        cells = torch.randint(16 * 16, (5,))
        few = [maps.flatten(1)[:, cells][:, None] for maps in (masks, shares)]
        expected = match(logits, few[0], few[1], classes)
        torch.manual_seed(seed)
        found = match(logits, masks, shares, classes, points=5)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        different += not torch.equal(found[0], match(logits, masks, shares, classes)[0])
    assert different, "five cells see less than all"


def test_large_maps_are_matched_at_no_more_than_the_given_cells() -> None:
    maps = torch.rand(2, 2 * MATCHING_SIDE, 40)
    small = for_matching(maps)
    assert small.shape == (2, MATCHING_SIDE * 20)
    assert small[1, 21].item() == pytest.approx(maps[1, 2:4, 2:4].mean().item(), abs=1e-6)
    assert torch.equal(for_matching(maps[:, :16]), maps[:, :16].flatten(1))


def masks_of_three_squares() -> tuple[Tensor, Tensor]:
    """Ids (16, 16) with three squares, and mask logits (3, 4, 4) that show them clearly."""
    ids = torch.zeros(16, 16, dtype=torch.int64)
    ids[:8, :8], ids[:8, 8:], ids[8:, :8] = 1, 2, 3
    return ids, cell_shares(ids, 3) * 40 - 20


def test_each_segment_gets_the_query_that_shows_it() -> None:
    ids, logits = masks_of_three_squares()
    order = [2, 0, 1]
    masks = torch.cat([logits[order], torch.zeros(2, 4, 4)])
    queries, segments = match(torch.zeros(5, 4), masks, cell_shares(ids, 3), torch.tensor([0, 1, 2]))
    assert dict(zip(queries.tolist(), segments.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}


def test_a_thing_of_four_pixels_in_a_large_view_gets_the_query_that_shows_it() -> None:
    ids = torch.zeros(320, 320, dtype=torch.int64)
    ids[100:102, 200:202] = 1
    masks = torch.full((50, 80, 80), -8.0)
    masks[31, 25, 50] = 2.0
    queries, _ = match(torch.zeros(50, 3), masks, cell_shares(ids, 1), torch.tensor([0]))
    assert queries.tolist() == [31]


def test_without_segments_nothing_is_matched() -> None:
    queries, segments = match(torch.zeros(5, 4), torch.zeros(5, 4, 4), torch.zeros(0, 4, 4), torch.zeros(0).long())
    assert len(queries) == len(segments) == 0


def test_losses_vanish_for_a_perfect_prediction_and_not_for_a_wrong_one() -> None:
    ids, logits = masks_of_three_squares()
    class_logits = torch.full((1, 3, 4), -20.0)
    class_logits[0, range(3), range(3)] = 20
    classes = [torch.tensor([0, 1, 2])]
    perfect = losses_of(QueryPrediction(class_logits, logits[None]), ids[None], classes)
    assert perfect.total.item() == pytest.approx(0, abs=1e-4)
    wrong = losses_of(QueryPrediction(class_logits, -logits[None]), ids[None], classes)
    assert wrong.total > perfect.total + 5


def test_masks_of_the_right_picture_are_compared() -> None:
    ids, logits = masks_of_three_squares()
    batch = QueryPrediction(torch.zeros(2, 3, 4), torch.stack([logits, logits.flip(1)]))
    assert losses_of(batch, torch.stack([ids, ids.flip(0)]), [torch.tensor([0, 1, 2])] * 2).dice.item() < 1e-4


def test_unmatched_queries_are_void_with_little_weight() -> None:
    class_logits = torch.randn(1, 4, 3)
    prediction = QueryPrediction(class_logits.requires_grad_(), torch.zeros(1, 4, 4, 4, requires_grad=True))
    losses = losses_of(prediction, torch.zeros(1, 16, 16, dtype=torch.int64), [torch.zeros(0, dtype=torch.int64)])
    assert losses.classification.item() == pytest.approx(F.cross_entropy(class_logits[0], torch.full((4,), 2)).item())
    losses.total.backward()  # a picture without segments must train all the same


def test_pilots_answer_for_the_segment_they_were_told_and_nothing_else() -> None:
    ids, logits = masks_of_three_squares()
    class_logits = torch.full((1, 2, 4), -20.0)
    class_logits[0, 0, 2] = class_logits[0, 1, 0] = 20
    truth = Truth.of(ids[None], [torch.tensor([0, 1, 2])])
    pairs = [(torch.tensor([0]), torch.tensor([2]))]
    totals = Totals.of(truth, 2, CONFIG)
    right = QueryPrediction(class_logits, torch.stack([logits[2], -logits[0]])[None])
    assert pilot_losses(right, truth, pairs, CONFIG, totals).item() == pytest.approx(0, abs=1e-4)
    assert pilot_losses(right, truth, [(torch.tensor([1]), torch.tensor([0]))], CONFIG, totals).item() > 5
    empty = torch.zeros(0, dtype=torch.int64)
    assert pilot_losses(right, truth, [(empty, empty)], CONFIG, totals).item() == 0


def test_mask_losses_equal_their_definition() -> None:
    logits, target = torch.randn(3, 20), torch.rand(3, 20)
    p = logits.sigmoid()
    assert mask_loss(logits, target, points=20).item() == pytest.approx(
        sum(-(t * x.log() + (1 - t) * (1 - x).log()).mean().item() for x, t in zip(p, target, strict=True)), rel=1e-5
    )
    assert dice_loss(logits, target).item() == pytest.approx(
        sum((1 - (2 * (x * t).sum() + 1) / (x.sum() + t.sum() + 1)).item() for x, t in zip(p, target, strict=True)), rel=1e-5
    )


def test_dense_loss_reads_the_class_at_the_middle_of_each_cell_and_skips_void() -> None:
    ids = torch.zeros(1, 8, 8, dtype=torch.int64)
    ids[:, :4], ids[:, 4:, 4:] = 1, 2
    classes, logits = [torch.tensor([2, 0])], torch.randn(1, 3, 2, 2)
    cells = [(0, 0, 2), (0, 1, 2), (1, 1, 0)]
    expected = sum(F.cross_entropy(logits[:, :, y, x], torch.tensor([label])) for y, x, label in cells) / 3
    for truth, value in ((Truth.of(ids, classes), expected.item()), (Truth.of(torch.zeros_like(ids), classes), 0.0)):
        assert dense_loss(logits, truth, Totals.of(truth, 4, CONFIG)).item() == pytest.approx(value, rel=1e-5)


def test_three_quarters_of_the_cells_are_the_most_undecided() -> None:
    logits = torch.linspace(-10, 10, 1000)[None]
    chosen = undecided_cells(logits, 400)[0]
    nearest = set(logits[0].abs().argsort()[:300].tolist())
    assert set(chosen[:300].tolist()) == nearest
    assert not set(chosen[300:].tolist()) <= nearest
