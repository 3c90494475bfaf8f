"""Drawn scenes as a data set: their truth is known to the pixel, and there is no end to them."""

import io
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from proscale.datasets import AnnotatedPicture, Dataset, Instance, PanopticMap, PanopticSegment
from proscale.datasets.annotation import instances_of, semantic_of
from proscale.training.sample import Sample
from proscale.training.scenes.painter import CATEGORIES, draw_scene

SEED, SIDE = 1_000_003, 320
"""Scenes of evaluation come from seeds that no training run draws."""


@dataclass(frozen=True)
class DrawnPicture(AnnotatedPicture):
    """A picture that is drawn when it is asked for."""

    number: int = 0

    def data(self) -> bytes:
        """The scene as PNG."""
        file = io.BytesIO()
        Image.fromarray(_draw(self.number).image).save(file, "PNG")
        return file.getvalue()


def drawn_scenes(count: int) -> Dataset:
    """So many scenes; each is drawn anew whenever it is asked for."""
    pictures = []
    for i in range(count):
        picture = DrawnPicture(f"scene-{i}.png", i, Path(f"scene-{i}.png"), (SIDE, SIDE), number=i)
        ways = {"read_panoptic": partial(_panoptic, i), "read_instances": partial(_instances, i), "read_semantic": partial(_semantic, i)}
        pictures.append(replace(picture, **ways))  # type: ignore[arg-type]  # functions of these types
    return Dataset("drawn scenes", Path(), "unseen", CATEGORIES, pictures)


@lru_cache(maxsize=4)
def _draw(number: int) -> Sample:
    return draw_scene([SEED, number], SIDE, CATEGORIES)


def _panoptic(number: int) -> PanopticMap:
    sample = _draw(number)
    return PanopticMap(sample.ids, tuple(PanopticSegment(i, CATEGORIES[c].id) for i, c in enumerate(sample.classes.tolist(), start=1)))


def _instances(number: int) -> tuple[Instance, ...]:
    return instances_of(_panoptic(number), CATEGORIES)


def _semantic(number: int) -> NDArray[np.int32]:
    return semantic_of(_panoptic(number))
