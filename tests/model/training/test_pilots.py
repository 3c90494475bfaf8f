"""Pilots learn beside the queries, and the queries do not notice them."""

import torch
from tests.builders import small_network

from proscale.training.losses import Truth
from proscale.training.pilots import PilotedDecoder, choose_pilots, pilot_attention


def truth_of_two_pictures() -> Truth:
    """Three segments in the first picture, none in the second."""
    ids = torch.zeros(2, 64, 64, dtype=torch.int64)
    ids[0, :8, :8], ids[0, 20:60, 20:60], ids[0, 62:, 62:] = 1, 2, 3
    return Truth.of(ids, [torch.tensor([4, 0, 2]), torch.zeros(0, dtype=torch.int64)])


def test_pilots_do_not_change_the_predictions_of_queries() -> None:
    network = small_network().eval()
    decoder = network.transformer_decoder
    mask_features, levels = network.pixel_decoder(network.backbone(torch.randn(2, 3, 64, 64)))
    pilots = choose_pilots(truth_of_two_pictures(), 10, 5, 0.2)
    predictions, piloted = PilotedDecoder(5, 32)(decoder, levels, mask_features, pilots)
    alone = decoder(levels, mask_features, auxiliary=True)
    assert len(predictions) == len(alone) == len(piloted) + 1
    for one, other in zip(predictions, alone, strict=True):
        assert torch.allclose(one.class_logits, other.class_logits, atol=1e-5)
        assert torch.allclose(one.mask_logits, other.mask_logits, atol=1e-4)
    assert piloted[-1].mask_logits.shape == (2, 3, 16, 16)


def test_without_segments_there_are_no_pilots() -> None:
    network = small_network().eval()
    mask_features, levels = network.pixel_decoder(network.backbone(torch.randn(1, 3, 64, 64)))
    pilots = choose_pilots(Truth.of(torch.zeros(1, 64, 64, dtype=torch.int64), [torch.zeros(0, dtype=torch.int64)]), 10, 5, 0.2)
    _, piloted = PilotedDecoder(5, 32)(network.transformer_decoder, levels, mask_features, pilots)
    assert piloted[-1].class_logits.shape == (1, 0, 6)


def test_each_pilot_gets_its_segment_and_some_a_wrong_class() -> None:
    truth = truth_of_two_pictures()
    pilots = choose_pilots(truth, 10, 5, wrong_share=0.0)
    queries, segments = pilots.pairs[0]
    assert sorted(segments.tolist()) == [0, 1, 2]
    assert torch.equal(pilots.classes[0, queries], truth.classes[0][segments])
    assert torch.equal(pilots.shares[0, queries], truth.shares[0][segments])
    assert len(choose_pilots(truth, 2, 5, 0.0).pairs[0][0]) == 2
    told = torch.cat([choose_pilots(truth, 3, 1000, wrong_share=1.0).classes[0] for _ in range(10)])
    assert (told > 4).float().mean() > 0.9


def test_a_small_segment_can_be_attended_at_every_level() -> None:
    truth = truth_of_two_pictures()
    shares = truth.shares[0][None]
    for size in ((2, 2), (4, 4), (8, 8)):
        allowed = pilot_attention(shares, size, noise=0.0).view(3, *size)
        assert allowed[0, 0, 0]
        assert allowed[0].sum() == max(1, size[0] * size[1] // 64)
        assert allowed[2].all() or allowed[2, -1, -1]
    noisy = pilot_attention(shares.expand(50, -1, -1, -1), (8, 8), noise=0.3).view(50, 3, 64)
    assert (noisy[:, 1] != noisy[:1, 1]).any()
