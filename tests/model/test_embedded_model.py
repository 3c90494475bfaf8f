"""What a visitor sees first: the embedded model on the example, against the truth that comes with it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from proscale.config import Task
from proscale.datasets import open_dataset
from proscale.evaluation.picture_reading import read_rgb
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.rle import decode
from proscale.training.pictures import TrainingPictures

ROOT = Path(__file__).parents[2]
EXAMPLE = "4ee5850b63549794.jpg"
"""The picture of the validation split that `examples/nuclei.jpg` is."""
SHARE = 0.1
"""Of a nucleus: a segment that covers less of it is its neighbour's edge."""


@pytest.fixture(scope="module")
def example() -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]], dict[Task, list[NDArray[np.bool_]]]]:
    """The picture, its true nuclei, and those found by task."""
    predictor = Predictor.load()
    pictures = TrainingPictures(open_dataset(ROOT / "data" / "nuclei", "val"), predictor.categories)
    picture = next(picture for picture in pictures.dataset.pictures if picture.name == EXAMPLE)
    truth = pictures[pictures.dataset.pictures.index(picture)]
    assert (truth.image == read_rgb(picture)).all()
    nucleus = [category.name for category in predictor.categories].index("nucleus")
    true = [truth.ids == i for i, class_index in enumerate(truth.classes, start=1) if class_index == nucleus]
    tasks: tuple[Task, ...] = ("panoptic", "instance")
    found = predictor.segment([truth.image], [SegmentationOptions(tasks)])[0].results
    masks = {
        task: [decode(segment.segmentation).astype(bool) for segment in found[task].segments if segment.label == "nucleus"]
        for task in tasks
    }
    return truth.image, true, masks


def test_the_example_is_the_picture_of_the_data() -> None:
    data = ROOT / "data" / "nuclei" / "val" / EXAMPLE
    assert (ROOT / "examples" / "nuclei.jpg").read_bytes() == data.read_bytes()


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_hardly_a_nucleus_of_the_example_has_two_colours(task: Task, example) -> None:
    _, true, found = example
    shares = np.array([[(nucleus & mask).sum() / nucleus.sum() for mask in found[task]] for nucleus in true])
    colours = (shares > SHARE).sum(1)
    # One of 49 is left. None is the aim.
    assert (colours > 1).sum() <= 1, f"nuclei {np.flatnonzero(colours > 1).tolist()} have several colours: {shares[colours > 1].round(2)}"
    assert colours.max() <= 2
    assert (colours >= 1).mean() > 0.8


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_most_nuclei_of_the_example_are_found(task: Task, example) -> None:
    _, true, found = example
    ious = np.array([[(nucleus & mask).sum() / (nucleus | mask).sum() for mask in found[task]] for nucleus in true])
    assert (ious.max(1) > 0.5).mean() > 0.7
