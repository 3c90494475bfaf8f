"""Drawn scenes: exact, repeatable truth."""

import numpy as np
import pytest

from proscale.training.scenes.painter import CATEGORIES, SceneConfig, draw_scene
from proscale.training.scenes.stuff import STUFF
from proscale.training.scenes.things import THINGS


def test_a_seed_gives_the_same_scene() -> None:
    first, again, other = (draw_scene(seed, 96) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(8))
def test_truth_covers_every_pixel_and_lists_what_can_be_seen(seed: int) -> None:
    scene = draw_scene([3, seed], 128)
    assert scene.image.shape == (128, 128, 3)
    assert scene.image.dtype == np.uint8
    assert np.array_equal(np.unique(scene.ids), np.arange(1, len(scene.classes) + 1))
    assert not scene.crowd.any()
    stuff = [label for label in scene.classes.tolist() if not CATEGORIES[label].isthing]
    assert len(stuff) == len(set(stuff)) >= 1


def test_every_kind_is_drawn_sooner_or_later() -> None:
    config = SceneConfig(things=(12, 12), regions=(3, 3))
    seen = {label for seed in range(15) for label in draw_scene(seed, 96, config=config).classes.tolist()}
    assert {CATEGORIES[label].name for label in seen} == {*THINGS, *STUFF}


def test_a_thing_looks_different_from_what_is_around_it() -> None:
    scene = draw_scene(11, 160, config=SceneConfig(things=(8, 8), regions=(1, 1)))
    things = [i + 1 for i, label in enumerate(scene.classes) if CATEGORIES[label].isthing]
    assert things
    background = scene.image[~np.isin(scene.ids, things)].astype(float).mean(0)
    for thing in things:
        assert np.abs(scene.image[scene.ids == thing].astype(float).mean(0) - background).max() > 10
