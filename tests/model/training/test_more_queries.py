"""A trained model goes on with more queries than it had."""

from dataclasses import replace

import pytest
import torch
from tests.builders import SMALL_CONFIG

from proscale.checkpoints.strict_loading import load_strictly
from proscale.errors import CheckpointError
from proscale.network import SegmentationNetwork
from proscale.training.more_queries import QUERIES, with_queries

HAVE = SMALL_CONFIG.transformer_decoder.queries


def test_the_old_queries_stay_and_the_new_ones_resemble_them() -> None:
    torch.manual_seed(0)
    state = SegmentationNetwork(SMALL_CONFIG).state_dict()
    grown = with_queries(state, HAVE + 3)
    for name in QUERIES:
        assert torch.equal(grown[name][:HAVE], state[name])
        distance = (grown[name][HAVE:] - state[name][:3]).norm(dim=1)
        assert ((distance > 0) & (distance < state[name][:3].norm(dim=1))).all()
        assert torch.equal(grown[name], with_queries(state, HAVE + 3)[name])
    assert all(torch.equal(grown[name], state[name]) for name in state.keys() - set(QUERIES))


def test_weights_with_more_queries_fit_the_larger_network() -> None:
    larger = replace(SMALL_CONFIG, transformer_decoder=replace(SMALL_CONFIG.transformer_decoder, queries=HAVE + 2))
    network = SegmentationNetwork(larger).eval()
    load_strictly(network, with_queries(SegmentationNetwork(SMALL_CONFIG).state_dict(), HAVE + 2))
    assert network.predict(torch.zeros(1, 3, 64, 64)).class_logits.shape[1] == HAVE + 2


def test_fewer_queries_are_refused() -> None:
    state = SegmentationNetwork(SMALL_CONFIG).state_dict()
    with pytest.raises(CheckpointError, match=f"has {HAVE} queries; --queries {HAVE - 1} would drop some"):
        with_queries(state, HAVE - 1)
    with pytest.raises(CheckpointError, match="has no transformer_decoder"):
        with_queries({}, HAVE)
