"""What a training step sees: view number n of a run, from a data set's picture or a drawn scene."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from proscale.config import PreprocessConfig
from proscale.preprocess import normalise_and_pad
from proscale.training.augment import Augmentation, random_view
from proscale.training.config import TrainingConfig
from proscale.training.mosaic import mosaic
from proscale.training.sample import Sample


@dataclass(frozen=True)
class Batch:
    """Input and truth of one step."""

    images: Tensor
    """(B, 3, S, S) float32, normalised."""
    ids: Tensor
    """(B, S, S) int64, 0 = void, i = segment i of the picture."""
    classes: tuple[Tensor, ...]
    """Per picture (N,) int64, class of segment i at i - 1."""
    names: tuple[str, ...]
    """File names of the pictures, for messages."""

    def pin_memory(self) -> "Batch":
        """Page-locked copies, for a quick way to a GPU (called by DataLoader)."""
        return Batch(self.images.pin_memory(), self.ids.pin_memory(), tuple(c.pin_memory() for c in self.classes), self.names)


View = tuple[Tensor, Tensor, Tensor, str]
"""Image, ids and classes as in `Batch`, without the first dimension, and the name."""


class Views(Dataset[View]):
    """View n depends on the seed and n alone, so that a run can be resumed anywhere, with any number of workers."""

    def __init__(
        self,
        pictures: Callable[[int], Sample],
        count: int,
        scenes: Sequence[Sample],
        config: TrainingConfig,
        preprocess: PreprocessConfig,
        stuff: frozenset[int] = frozenset(),
    ) -> None:
        """Args: pictures: the data set's sample of an index below `count`; stuff: class indices that are one segment per picture."""
        self.stuff = stuff
        self.pictures, self.count, self.scenes, self.config, self.preprocess = pictures, count, scenes, config, preprocess
        self.odds = drawing_odds(pictures, count, config.crowding) if config.crowding and count else None

    def __len__(self) -> int:
        return self.config.steps * self.config.batch_size

    def __getitem__(self, number: int) -> View:
        rng = np.random.default_rng([self.config.seed, number])
        # Every batch mixes the sources in the same proportion: batch normalisation sees the mixture that it will be frozen at.
        share = self.config.scene_share if self.count else 1.0
        scene = bool(self.scenes) and int((number + 1) * share) > int(number * share)
        crop, settings = self.config.crop, self.config.scene_augmentation if scene else self.config.data_augmentation
        if settings.mosaic and rng.random() < settings.mosaic:
            four = [self._random_view(scene, rng, settings) for _ in range(4)]
            view, (height, width) = mosaic(four, crop, rng, self.stuff, settings.min_pixels), (crop, crop)
        else:
            view, (height, width) = self._random_view(scene, rng, settings)
        image = normalise_and_pad(view.image[:height, :width], (crop, crop), self.preprocess)
        return image, torch.from_numpy(view.ids.astype(np.int64)), torch.from_numpy(view.classes), view.name

    def _random_view(self, scene: bool, rng: np.random.Generator, settings: Augmentation) -> tuple[Sample, tuple[int, int]]:
        """A view of a scene or of the data, and its height and width that hold picture."""
        sample = self.scenes[int(rng.integers(len(self.scenes)))] if scene else self.pictures(self._draw(rng))
        return random_view(sample, self.config.crop, rng, settings)

    def _draw(self, rng: np.random.Generator) -> int:
        """The index of a picture."""
        if self.odds is None:
            return int(rng.integers(self.count))
        return min(int(np.searchsorted(self.odds, rng.random(), side="right")), self.count - 1)


def drawing_odds(pictures: Callable[[int], Sample], count: int, power: float) -> NDArray[np.float64]:
    """The odds of drawing a picture up to each index, (count,), rising to 1: as its number of segments to `power`. Reads every picture."""
    segments = np.array([len(pictures(i).classes) for i in range(count)], np.float64)
    weights = np.maximum(segments, 1) ** power
    odds: NDArray[np.float64] = np.cumsum(weights) / weights.sum()
    return odds


def collate(views: Sequence[View]) -> Batch:
    """Views -> one batch."""
    images, ids, classes, names = zip(*views, strict=True)
    return Batch(torch.stack(images), torch.stack(ids), tuple(classes), tuple(names))
