"""The networks that `claim.py` compares, the one recipe that trains them all, and the beginning that they share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from proscale.checkpoints.model_folder import DEFAULT_FOLDER, load_folder
from proscale.config import (
    Encoder,
    Mask2FormerEncoderConfig,
    ModelConfig,
    PixelDecoderConfig,
    PostprocessConfig,
    PreprocessConfig,
    ProScaleEncoderConfig,
)
from proscale.datasets import Dataset, PanopticMap, open_dataset
from proscale.evaluation.drawn_scenes import drawn_scenes
from proscale.evaluation.picture_reading import read_rgb
from proscale.labels import Category
from proscale.network import SegmentationNetwork
from proscale.training.augment import Augmentation, resize_sample
from proscale.training.config import LossConfig, TrainingConfig, embedded_model_config
from proscale.training.loop import Trainer
from proscale.training.pictures import TrainingPictures
from proscale.training.run_state import STATE_FILE
from proscale.training.sample import Sample
from proscale.training.scenes.painter import draw_scene

BASELINE = "Mask2Former"
SIDE = 160
"""Pixels: side of the views, and of a picture's short side in evaluation. One size for both, because TRC depends on it."""


@dataclass(frozen=True)
class Row:
    """One network of the comparison."""

    name: str
    encoder: Encoder
    light: bool
    """Whether the light pixel embedding (LPE) takes the place of the 3x3 convolution."""

    def config(self, classes: int) -> ModelConfig:
        """The embedded model's network with this pixel decoder."""
        network = embedded_model_config(classes)
        decoder = PixelDecoderConfig(
            self.encoder,
            network.pixel_decoder.hidden_dim,
            ffn_dim=network.pixel_decoder.ffn_dim,
            pixel_embedding="maxpool" if self.light else "conv",
        )
        return replace(
            network,
            name=self.name,
            pixel_decoder=decoder,
            preprocess=PreprocessConfig(short_side=SIDE, long_side=2 * SIDE),
            # No rule of our own: every query answers for itself, as published.
            postprocess=PostprocessConfig(threshold=0.5, overlap_threshold=0.5),
        )


def _proscale(layers: tuple[int, int, int], recalibrated: bool = True, light: bool = True) -> Row:
    without = [name for name, there in (("TRC", recalibrated), ("LPE", light)) if not there]
    title = f"PRO-SCALE ({','.join(map(str, layers))})" + (f" without {' and '.join(without)}" if without else "")
    return Row(title, ProScaleEncoderConfig(layers, "linear" if recalibrated else "none"), light)


MAIN = (Row(BASELINE, Mask2FormerEncoderConfig(6), light=False), *(_proscale((p, p, p)) for p in (1, 2, 3)))
PARTS = (
    _proscale((3, 3, 3), recalibrated=False),
    _proscale((3, 3, 3), light=False),
    _proscale((3, 3, 3), recalibrated=False, light=False),
)
"""What TRC and LPE do, each alone and both."""
ROWS = (*MAIN, *PARTS)

RECIPE = TrainingConfig(
    batch_size=2,
    crop=SIDE,
    learning_rate=5e-4,
    warmup_steps=20,
    decay_share=0.8,
    frozen_batch_norm=True,
    ema_decay=0.98,
    scenes=300,
    scene_share=0.5,
    scene_side=(192, 224),
    losses=LossConfig(pilots=0, dense_weight=0),
    data_augmentation=Augmentation(scale=(1.0, 1.4), rotate=True),
    scene_augmentation=Augmentation(scale=(1.0, 1.4), rotate=False),
)
"""The same for every network. Steps and seed are filled in."""
FRESH = "pixel_decoder."
"""The whole pixel decoder begins with random numbers, all else as in the embedded model: that was trained with one of the decoders."""


@dataclass(frozen=True)
class Material:
    """What every network is trained and judged on, in memory."""

    categories: tuple[Category, ...]
    pictures: tuple[Sample, ...]
    scenes: tuple[Sample, ...]
    judged: tuple[tuple[str, NDArray[np.uint8], PanopticMap], ...]
    """Source, picture (H, W, 3) and truth, whose category ids are those of `categories`."""


def read_material(nuclei: Path, scenes_judged: int, recipe: TrainingConfig = RECIPE) -> Material:
    """Nuclei of the train split and drawn scenes to train on; nuclei of the val split and other scenes to judge."""
    categories = load_folder(DEFAULT_FOLDER)[1]
    training = TrainingPictures(open_dataset(nuclei, "train"), categories)
    pictures = tuple(_shrunk(training[i], recipe) for i in tqdm(range(len(training)), unit="picture", desc="reading", leave=False))
    scenes = tuple(_scene(i, categories, recipe) for i in tqdm(range(recipe.scenes), unit="scene", desc="drawing", leave=False))
    judged = [*_judged("nuclei", open_dataset(nuclei, "val"), categories), *_judged("scenes", drawn_scenes(scenes_judged), categories)]
    return Material(categories, pictures, scenes, tuple(judged))


def _shrunk(sample: Sample, recipe: TrainingConfig) -> Sample:
    """A picture no larger than the largest view needs, so that making views costs little."""
    height, width = sample.ids.shape
    factor = recipe.crop * recipe.data_augmentation.scale[1] / min(height, width)
    return sample if factor >= 1 else resize_sample(sample, round(height * factor), round(width * factor))


def _scene(index: int, categories: Sequence[Category], recipe: TrainingConfig) -> Sample:
    side = int(np.random.default_rng(index).integers(recipe.scene_side[0], recipe.scene_side[1] + 1))
    return draw_scene([0, 1, index], side, categories, recipe.scene)


def _judged(source: str, dataset: Dataset, categories: Sequence[Category]) -> list[tuple[str, NDArray[np.uint8], PanopticMap]]:
    ids = {category.name: category.id for category in categories}
    ours = {category.id: ids[category.name] for category in dataset.categories}
    found = []
    for picture in dataset.pictures:
        assert picture.read_panoptic is not None  # both data sets are panoptic
        truth = picture.read_panoptic()
        segments = tuple(replace(segment, category_id=ours[segment.category_id]) for segment in truth.segments)
        found.append((source, read_rgb(picture), PanopticMap(truth.ids, segments)))
    return found


def beginning(row: Row, seed: int, categories: Sequence[Category]) -> dict[str, Tensor]:
    """Weights that a network starts from. What two networks both have begins with the same numbers."""
    torch.manual_seed(seed)
    shared = SegmentationNetwork(MAIN[0].config(len(categories))).state_dict()
    torch.manual_seed(seed)
    state = SegmentationNetwork(row.config(len(categories))).state_dict()
    fits = {name: value for name, value in shared.items() if name in state and state[name].shape == value.shape}
    # Layers of the two encoders share names, not what they see.
    state |= {name: value for name, value in fits.items() if not name.startswith("pixel_decoder.encoder.layers.")}
    trained = load_folder(DEFAULT_FOLDER)[2]
    state |= {name: value.float() for name, value in trained.items() if not name.startswith(FRESH)}
    return state


def open_trainer(row: Row, seed: int, steps: int, folder: Path, categories: Sequence[Category]) -> Trainer:
    """A run where it stands: at its last saved state, or at its beginning."""
    trainer = Trainer(folder, replace(RECIPE, steps=steps, seed=seed), row.config(len(categories)), categories)
    if (folder / STATE_FILE).is_file():
        trainer.resume()
    else:
        trainer.start_from(beginning(row, seed, categories), categories)
    trainer.learner.network.backbone.requires_grad_(False)
    return trainer
