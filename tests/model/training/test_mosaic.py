"""Mosaics: four parts fill the square, stuff is one segment, and a run without them sees what it saw before."""

from dataclasses import replace

import numpy as np
import torch
from tests.builders import SMALL_CONFIG

from proscale.training.augment import Augmentation
from proscale.training.config import TrainingConfig
from proscale.training.mosaic import mosaic
from proscale.training.sample import Sample
from proscale.training.views import Views

SIZE = 64
THING, STUFF = 0, 1


def view_of(shade: int) -> tuple[Sample, tuple[int, int]]:
    """A square of one shade, all stuff but for a thing of 8 x 8 in every block of 16 x 16."""
    rows, columns = np.indices((SIZE, SIZE))
    thing = (rows % 16 < 8) & (columns % 16 < 8)
    number = 2 + rows // 16 * (SIZE // 16) + columns // 16
    ids = np.where(thing, number, 1).astype(np.int32)
    classes = np.array([STUFF] + [THING] * (SIZE // 16) ** 2)
    image = np.full((SIZE, SIZE, 3), shade, np.uint8)
    return Sample(image, ids, classes, np.zeros(len(classes), bool), str(shade)), (SIZE, SIZE)


def test_four_parts_meet_in_a_point_and_keep_their_segments() -> None:
    shades = [10, 60, 110, 160]
    made = mosaic([view_of(shade) for shade in shades], SIZE, np.random.default_rng(3), frozenset({STUFF}), 1)
    shade = made.image[..., 0]
    assert np.unique(shade).tolist() == shades
    y, x = int((shade[:, 0] == 10).sum()), int((shade[0] == 10).sum())
    assert SIZE // 4 <= y <= SIZE - SIZE // 4
    assert SIZE // 4 <= x <= SIZE - SIZE // 4
    expected = np.where(np.arange(SIZE)[:, None] < y, [10] * x + [60] * (SIZE - x), [110] * x + [160] * (SIZE - x))
    assert (shade == expected).all()
    assert made.name == "10, 60, 110, 160"
    assert (made.ids > 0).all()
    stuff = np.flatnonzero(made.classes == STUFF) + 1
    assert len(stuff) == 1, "the stuff of four parts is one segment"
    assert set(np.unique(shade[made.ids == stuff[0]]).tolist()) == set(shades)
    for number in np.flatnonzero(made.classes == THING) + 1:
        assert len(np.unique(shade[made.ids == number])) == 1, "things of different parts stay apart"
    assert np.unique(made.ids).tolist() == list(range(1, len(made.classes) + 1))


def test_parts_are_cut_at_random_and_slivers_become_void() -> None:
    views = [view_of(shade) for shade in (10, 60, 110, 160)]
    made = [mosaic(views, SIZE, np.random.default_rng(seed), frozenset({STUFF}), 30) for seed in range(8)]
    areas = np.concatenate([np.bincount(each.ids.ravel())[1:] for each in made])
    assert areas.min() >= 30
    assert any((each.ids == 0).any() for each in made)
    assert len({each.ids.tobytes() for each in made}) == 8


def test_a_part_smaller_than_its_place_leaves_void() -> None:
    narrow = [(view, (SIZE, 8)) for view, _ in (view_of(10), view_of(60), view_of(110), view_of(160))]
    for view, (_, width) in narrow:
        view.ids[:, width:], view.image[:, width:] = 0, 0
    made = mosaic(narrow, SIZE, np.random.default_rng(0), frozenset({STUFF}), 1)
    assert int((made.ids > 0).sum()) == 2 * 8 * SIZE


def test_views_are_mosaics_as_often_as_asked() -> None:
    samples = [view_of(shade)[0] for shade in range(0, 240, 4)]
    plain = Augmentation(scale=(1.0, 1.001), rotate=False, brightness=0, contrast=0, saturation=0, gamma=0, noise=0)
    config = TrainingConfig(steps=25, batch_size=4, crop=SIZE, data_augmentation=plain)

    def views(share: float) -> Views:
        settings = replace(config, data_augmentation=replace(plain, mosaic=share))
        return Views(lambda index: samples[index], len(samples), [], settings, SMALL_CONFIG.preprocess, frozenset({STUFF}))

    made = [views(0.3)[number] for number in range(100)]
    assert 18 <= sum("," in name for *_, name in made) <= 42
    assert all("," in views(1.0)[number][3] for number in range(10))
    assert all("," not in views(0.0)[number][3] for number in range(10))
    again = views(0.3)[7]
    assert torch.equal(again[0], made[7][0])
    assert torch.equal(again[1], made[7][1])
