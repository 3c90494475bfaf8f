"""`proscale train`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from proscale.config import ModelConfig
from proscale.config_json import CONFIG_FILE, config_from_json
from proscale.errors import CheckpointError, ProscaleError
from proscale.labels import Category
from proscale.training.coco_panoptic import CocoPanoptic, read_categories
from proscale.training.config import TrainingConfig, embedded_model_config
from proscale.training.sample import Sample, merge_label_spaces
from proscale.training.scenes.painter import CATEGORIES, draw_scene

DEFAULTS = TrainingConfig()
CACHED_PIXELS = 200_000_000
"""A data set of up to so many pixels is kept in memory (4 bytes + 3 per pixel)."""


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Data set in COCO panoptic layout: FOLDER/train, panoptic_train, panoptic_train.json."
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the run: state, log, and the trained model in OUT/model."
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(exists=True, path_type=Path),
    help="config.json of the network; default: the embedded model's.",
)
@click.option("--init", type=click.Path(path_type=Path), help="Start from the weights of this model folder, made for the same classes.")
@click.option("--steps", type=click.IntRange(min=1), default=DEFAULTS.steps, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=DEFAULTS.batch_size, show_default=True)
@click.option("--crop", type=click.IntRange(min=32), default=DEFAULTS.crop, show_default=True, help="Side of the views, a multiple of 32.")
@click.option("--view-scale", type=(float, float), help="A view's short side over the crop's, least and most. [by source]")
@click.option("--scene-share", type=click.FloatRange(0, 1), default=DEFAULTS.scene_share, show_default=True, help="Views that show scenes.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=DEFAULTS.learning_rate, show_default=True)
@click.option("--scenes", type=click.IntRange(min=0), default=DEFAULTS.scenes, show_default=True, help="Drawn scenes; 0: none.")
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that prepare pictures.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--stop-after", type=click.IntRange(min=1), help="Stop after so many steps; --resume goes on.")
@click.option("--resume", is_flag=True, help="Go on with the run in OUT, started with the same options.")
def train(
    data: Path | None,
    out: Path,
    config_path: Path | None,
    init: Path | None,
    steps: int,
    batch_size: int,
    crop: int,
    view_scale: tuple[float, float] | None,
    scene_share: float,
    learning_rate: float,
    scenes: int,
    seed: int,
    workers: int,
    device: str,
    stop_after: int | None,
    resume: bool,
) -> None:
    """Train a PRO-SCALE model from random weights.

    Pictures come from a COCO panoptic data set (--data), from scenes drawn on the fly (--scenes), or both; equal category names are one
    class. Ctrl-C saves the state, and --resume goes on from it as if nothing had happened.
    """
    if crop % 32:
        raise click.BadParameter("must be a multiple of 32", param_hint="--crop")
    if data is None and not scenes:
        raise click.UsageError("nothing to train on: name a data set with --data, or draw scenes with --scenes N")
    settings = replace(
        DEFAULTS,
        steps=steps,
        batch_size=batch_size,
        crop=crop,
        learning_rate=learning_rate,
        scenes=scenes,
        scene_share=scene_share,
        seed=seed,
        data_augmentation=replace(DEFAULTS.data_augmentation, scale=view_scale or DEFAULTS.data_augmentation.scale),
        scene_augmentation=replace(DEFAULTS.scene_augmentation, scale=view_scale or DEFAULTS.scene_augmentation.scale),
    )
    from proscale.checkpoints.model_folder import load_folder  # here: `--help` should not wait for torch
    from proscale.training.export import export
    from proscale.training.loop import InterruptedTrainingError, Trainer

    try:
        categories = merge_label_spaces(*([read_categories(data)] if data else []), *([CATEGORIES] if scenes else []))
        pictures, count = read_pictures(data, categories)
        trainer = Trainer(out, settings, read_model_config(config_path, len(categories)), device)
        if resume:
            trainer.resume()
            click.echo(f"resuming after step {trainer.step}")
        elif init is not None:
            trainer.start_from(load_folder(init)[2])
        drawn = draw_scenes(settings, categories, workers)
        trainer.run(pictures, count, drawn, workers, stop_after, on_save=lambda _: export(trainer.average, out / "model", categories))
    except InterruptedTrainingError:
        click.echo(f"\nstopped after step {trainer.step}; the state is saved. Go on with the same command and --resume.", err=True)
        raise SystemExit(130) from None
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"{error}. What was saved before is still there; free space or mend the path, then use --resume."
        ) from error
    click.echo(f"{out / 'model'} holds the trained model. Measure it: proscale evaluate --checkpoint {out / 'model'} --data FOLDER")


def read_model_config(path: Path | None, classes: int) -> ModelConfig:
    """The network of a config.json with as many classes as the data has; without a path the embedded model's."""
    if path is None:
        return embedded_model_config(classes)
    from proscale.checkpoints.model_folder import read_json

    config = config_from_json(read_json(path), path.name or CONFIG_FILE)
    if not isinstance(config, ModelConfig):
        raise CheckpointError(f"{path}: only Mask2Former and PRO-SCALE networks can be trained here")
    return replace(config, classes=classes)


def read_pictures(data: Path | None, categories: Sequence[Category]) -> tuple[Callable[[int], Sample], int]:
    """The training split as a function of the index, and its length; small data sets are read into memory first."""
    if data is None:
        return _nothing, 0
    dataset = CocoPanoptic(data, "train", categories)
    first = dataset[0]
    if len(dataset) * first.ids.size > CACHED_PIXELS:
        return dataset.__getitem__, len(dataset)
    cached = [dataset[i] for i in tqdm(range(len(dataset)), unit="picture", desc="reading", leave=False)]
    return cached.__getitem__, len(cached)


def draw_scenes(config: TrainingConfig, categories: Sequence[Category], workers: int) -> list[Sample]:
    """Render all scenes of a run; scene i depends on the seed and i alone."""
    draw = partial(_scene, config=config, categories=tuple(categories))
    if not workers:
        return [draw(i) for i in tqdm(range(config.scenes), unit="scene", desc="drawing", leave=False)]
    with get_context("spawn").Pool(workers) as pool:
        return list(
            tqdm(pool.imap(draw, range(config.scenes), chunksize=16), total=config.scenes, unit="scene", desc="drawing", leave=False)
        )


def _scene(index: int, config: TrainingConfig, categories: Sequence[Category]) -> Sample:
    seed = [config.seed, 1, index]
    side = int(np.random.default_rng(seed).integers(config.scene_side[0], config.scene_side[1] + 1))
    return draw_scene(seed, side, categories, config.scene)


def _nothing(index: int) -> Sample:
    raise IndexError(index)
