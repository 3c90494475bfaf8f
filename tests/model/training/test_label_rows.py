"""The class head of a trained model follows names."""

import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG, small_network

from proscale.errors import CheckpointError
from proscale.labels import Category
from proscale.network import SegmentationNetwork
from proscale.training.label_rows import CLASS_HEAD, with_classes


def test_rows_follow_names_when_the_order_differs() -> None:
    state = small_network().state_dict()
    new = [Category(9 - i, category.name, category.isthing) for i, category in enumerate(SMALL_CATEGORIES[::-1])]
    beginning = with_classes(state, SMALL_CATEGORIES, new, SegmentationNetwork(SMALL_CONFIG).state_dict())
    for name in CLASS_HEAD:
        assert torch.equal(beginning.state[name], torch.cat([state[name][:-1].flip(0), state[name][-1:]]))
    assert any("another order" in note for note in beginning.notes)
    same = with_classes(state, SMALL_CATEGORIES, SMALL_CATEGORIES, state)
    assert same.notes == ()
    assert all(torch.equal(same.state[name], state[name]) for name in state)


def test_names_are_compared_tolerantly_and_new_classes_begin_untrained() -> None:
    state = small_network().state_dict()
    fresh = small_network(seed=1).state_dict()
    fresh = {name: value[:3] if name in CLASS_HEAD else value for name, value in fresh.items()}
    beginning = with_classes(state, SMALL_CATEGORIES, [Category(1, "Sky ", False), Category(2, "horse", True)], fresh)
    for name in CLASS_HEAD:
        assert torch.equal(beginning.state[name], torch.stack([state[name][4], fresh[name][1], state[name][5]]))
    text = "\n".join(beginning.notes)
    assert "1 of 2 classes keep" in text
    assert "untrained: horse" in text
    assert "dropped: cat, dog, ball, grass" in text


def test_a_checkpoint_of_another_network_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not of a Mask2Former"):
        with_classes({}, SMALL_CATEGORIES, SMALL_CATEGORIES, {})
    with pytest.raises(CheckpointError, match="6 rows for 4 classes"):
        with_classes(small_network().state_dict(), SMALL_CATEGORIES[:4], SMALL_CATEGORIES, {})
