"""A run of `proscale train`: data, network and weights to begin from, put together and followed to the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from proscale.checkpoints.model_folder import WEIGHTS_FILE, load_folder, read_json
from proscale.checkpoints.provenance import load_provenance
from proscale.checkpoints.weight_files import sha256
from proscale.config import ModelConfig
from proscale.config_json import CONFIG_FILE, config_from_json
from proscale.datasets import Dataset, open_dataset
from proscale.errors import CheckpointError
from proscale.labels import Category
from proscale.results import Provenance
from proscale.training.config import TrainingConfig, embedded_model_config
from proscale.training.event_log import EventLog, check_installed
from proscale.training.export import export, trained_from
from proscale.training.label_rows import same_body
from proscale.training.loop import InterruptedTrainingError, Trainer
from proscale.training.more_queries import with_queries
from proscale.training.pictures import CACHED_PIXELS, TrainingPictures
from proscale.training.processes import join_processes
from proscale.training.sample import Sample, merge_label_spaces
from proscale.training.scenes.painter import CATEGORIES, draw_scene
from proscale.training.watch import Watch

SIZED_PICTURES = 100
"""Of a large data set so many pictures tell how large its pictures are."""


@dataclass(frozen=True)
class Start:
    """A trained model to begin from."""

    config: ModelConfig
    categories: tuple[Category, ...]
    state: dict[str, torch.Tensor]
    provenance: Provenance


@dataclass(frozen=True)
class Data:
    """What a run sees."""

    title: str
    categories: tuple[Category, ...]
    pictures: Callable[[int], Sample]
    count: int
    validation: Dataset | None
    short_side: int | None = None
    """Of the pictures in pixels, the median."""


def run(
    out: Path,
    settings: TrainingConfig,
    init: Path | None,
    options: dict[str, Any],
    workers: int,
    stop_after: int | None,
    resume: bool,
) -> int | None:
    """Train. Args as the command's options are named.

    Returns:
        after how many steps Ctrl-C stopped it; None when it came to its end.

    Raises:
        ProscaleError: data, network, weights or state cannot be used, or the run diverged.
    """
    if options["tensorboard"]:
        check_installed()
    data = open_data(settings, options)
    start = None if init is None else open_start(init)
    model = choose_model(options["config_path"], start, len(data.categories), options["queries"])
    model = replace(model, preprocess=replace(model.preprocess, training_side=data.short_side or model.preprocess.training_side))
    trainer = Trainer(out, settings, model, data.categories, options["device"], join_processes(torch.device(options["device"])))
    provenance = None
    if start is not None:
        provenance = trained_from(start.provenance, f"trained on {data.title}, seed {settings.seed}, {settings.steps} steps")
    begin(trainer, start, resume)
    if options["tensorboard"] and trainer.processes.first:
        trainer.events = EventLog(out, trainer.step)
    try:
        follow(trainer, data, provenance, options, workers, stop_after)
    except InterruptedTrainingError:
        return trainer.step
    finally:
        if trainer.events is not None:
            trainer.events.close()
    return None


def open_data(settings: TrainingConfig, options: dict[str, Any]) -> Data:
    """The data set as its files say, and the scenes' classes only if scenes were asked for."""
    drawn = [CATEGORIES] if settings.scenes else []
    if options["data"] is None:
        return Data("drawn scenes", merge_label_spaces(*drawn), _nothing, 0, None)
    named = {name: options[name] for name in ("images", "labels", "reduce_labels")}
    dataset = open_dataset(options["data"], options["split"], **named)
    validation = open_dataset(options["data"], options["val_split"], **named) if settings.evaluate_every else None
    categories = merge_label_spaces(dataset.categories, *drawn)
    click.echo(f"{dataset.layout}, split {dataset.split}: {len(dataset.pictures)} pictures, {len(categories)} classes", err=True)
    for note in dataset.notes:
        click.echo(f"note: {note}", err=True)
    pictures = TrainingPictures(dataset, categories)
    title = f"{dataset.layout} {dataset.root.name}/{dataset.split}" + (" and drawn scenes" if drawn else "")
    samples = in_memory(pictures)
    return Data(title, categories, samples, len(pictures), validation, median_short_side(samples, len(pictures)))


def median_short_side(samples: Callable[[int], Sample], count: int) -> int:
    """Of up to `SIZED_PICTURES` samples, evenly chosen, in pixels."""
    chosen = np.linspace(0, count - 1, min(count, SIZED_PICTURES)).astype(int).tolist()
    return int(np.median([min(samples(index).ids.shape) for index in chosen]))


def in_memory(pictures: TrainingPictures) -> Callable[[int], Sample]:
    """The samples as a function of the index; small data sets are read first, so that every picture is checked before the first step."""
    if len(pictures) * pictures[0].ids.size > CACHED_PIXELS:
        return pictures.__getitem__
    cached = [pictures[i] for i in tqdm(range(len(pictures)), unit="picture", desc="reading", leave=False)]
    return cached.__getitem__


def open_start(folder: Path) -> Start:
    """A model folder to begin from, with where it comes from."""
    config, categories, state = load_folder(folder)
    if not isinstance(config, ModelConfig):
        raise CheckpointError(f"{folder}: only Mask2Former and PRO-SCALE networks can be trained here")
    provenance = load_provenance(folder) or Provenance(config.name, sha256((folder / WEIGHTS_FILE,)), "proscale")
    return Start(config, categories, state, provenance)


def choose_model(path: Path | None, start: Start | None, classes: int, queries: int | None = None) -> ModelConfig:
    """The network with as many classes as the data has: of a config.json, of the model to start from, or the embedded model's.

    Args: queries: how many it shall have; None: as it says.

    Raises:
        CheckpointError: the two differ in more than classes.
    """
    model = _chosen_model(path, start, classes)
    if queries is None:
        return model
    return replace(model, transformer_decoder=replace(model.transformer_decoder, queries=queries))


def _chosen_model(path: Path | None, start: Start | None, classes: int) -> ModelConfig:
    if path is None:
        return embedded_model_config(classes) if start is None else replace(start.config, classes=classes)
    config = config_from_json(read_json(path), path.name or CONFIG_FILE)
    if not isinstance(config, ModelConfig):
        raise CheckpointError(f"{path}: only Mask2Former and PRO-SCALE networks can be trained here")
    if start is not None and not same_body(config, start.config):
        raise CheckpointError(f"{path} describes another network than the one of --init. Leave out --config to train that network.")
    return replace(config, classes=classes)


def begin(trainer: Trainer, start: Start | None, resume: bool) -> None:
    """Take up the run's state, or the weights to start from; tell what was done."""
    if resume:
        for name, (before, now) in trainer.resume().items():
            click.echo(f"changed: {name.removeprefix('settings.')} was {before}, is {now}", err=True)
        click.echo(f"resuming after step {trainer.step}", err=True)
    elif start is not None:
        for note in trainer.start_from(with_queries(start.state, trainer.model.transformer_decoder.queries), start.categories):
            click.echo(note, err=True)


def follow(
    trainer: Trainer, data: Data, provenance: Provenance | None, options: dict[str, Any], workers: int, stop_after: int | None
) -> None:
    """The loop, with what is saved and measured on the way."""

    def save(step: int) -> None:
        if trainer.processes.first:
            export(trainer.average, trainer.folder / "model", data.categories, provenance)

    def measure(step: int) -> None:
        if data.validation is not None and trainer.processes.first:
            watch = Watch(data.validation, options["metric"], options["evaluate_limit"])
            figures = watch.measure(trainer, provenance)
            listed = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if isinstance(value, float))
            tqdm.write(f"step {step}: {listed}")

    if trainer.step == trainer.config.steps:
        # Killed after the last state was saved, before the model was written from it.
        save(trainer.step)
        return
    scenes = draw_scenes(trainer.config, data.categories, workers)
    trainer.run(data.pictures, data.count, scenes, workers, stop_after, on_save=save, on_evaluate=measure)


def draw_scenes(config: TrainingConfig, categories: tuple[Category, ...], workers: int) -> list[Sample]:
    """Render all scenes of a run; scene i depends on the seed and i alone."""
    draw = partial(_scene, config=config, categories=categories)
    bar = partial(tqdm, total=config.scenes, unit="scene", desc="drawing", leave=False)
    if not workers or not config.scenes:
        return [draw(i) for i in bar(range(config.scenes))]
    with get_context("spawn").Pool(workers) as pool:
        return list(bar(pool.imap(draw, range(config.scenes), chunksize=16)))


def _scene(index: int, config: TrainingConfig, categories: tuple[Category, ...]) -> Sample:
    seed = [config.seed, 1, index]
    side = int(np.random.default_rng(seed).integers(config.scene_side[0], config.scene_side[1] + 1))
    return draw_scene(seed, side, categories, config.scene)


def _nothing(index: int) -> Sample:
    raise IndexError(index)
