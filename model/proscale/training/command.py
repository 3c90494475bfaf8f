"""`proscale train`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from proscale.allocator import keep_freed_memory
from proscale.config import PRECISIONS
from proscale.errors import ProscaleError
from proscale.training.config import TrainingConfig
from proscale.training.settings_file import read_settings

DEFAULTS = TrainingConfig()


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Data set: its folder as it was downloaded, or an index JSON.")
@click.option("--split", default="train", show_default=True, help="What to train on.")
@click.option("--val-split", help="What to measure on.  [default: val]")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures, where they do not lie with the data set.")
@click.option("--labels", type=click.Path(path_type=Path), help="What class numbers mean, for a plain folder of PNGs.")
@click.option("--reduce-labels", is_flag=True, help="In a plain folder of PNGs 0 is void and classes count from 1.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run: state, log, and the model in OUT/model.")
@click.option(
    "--settings", "settings_path", type=click.Path(path_type=Path), help="YAML with fields of TrainingConfig; flags go before it."
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="config.json of the network.  [the --init model's, or the embedded one's]",
)
@click.option("--init", type=click.Path(path_type=Path), help="Start from this model folder; its classes keep their weights by name.")
@click.option("--queries", type=click.IntRange(min=1), help="Queries of the network, at least the --init model's.  [as there]")
@click.option("--steps", type=click.IntRange(min=1), help=f"Weight updates.  [default: {DEFAULTS.steps}]")
@click.option("--batch-size", type=click.IntRange(min=1), help=f"Views per step, of all processes.  [default: {DEFAULTS.batch_size}]")
@click.option("--accumulate", type=click.IntRange(min=1), help="Compute a batch in so many parts.  [default: 1]")
@click.option("--crop", type=click.IntRange(min=32), help=f"Side of the views, a multiple of 32.  [default: {DEFAULTS.crop}]")
@click.option("--view-scale", type=(float, float), help="A view's short side over the crop's, least and most.  [by source]")
@click.option("--quarter-turns", is_flag=True, help="Turn the data's pictures by quarters: right for microscopes and satellites.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help=f"[default: {DEFAULTS.learning_rate}]")
@click.option("--backbone-multiplier", type=click.FloatRange(min=0), help="The backbone's rate over the others'.  [default: 1]")
@click.option("--warmup-steps", type=click.IntRange(min=1), help=f"[default: {DEFAULTS.warmup_steps}]")
@click.option(
    "--decay-share", type=click.FloatRange(0, 1, min_open=True), help=f"Last share of falling rate.  [default: {DEFAULTS.decay_share}]"
)
@click.option("--pilots", type=click.IntRange(min=0), help=f"Queries per picture told their segment.  [default: {DEFAULTS.losses.pilots}]")
@click.option("--frozen-batch-norm", is_flag=True, default=None, help="Leave batch normalisation as it is.")
@click.option("--precision", type=click.Choice(PRECISIONS), help=f"What is computed in.  [default: {DEFAULTS.precision}]")
@click.option("--evaluate-every", type=click.IntRange(min=0), help="Measure on --val-split after so many steps; 0: never.  [default: 0]")
@click.option("--metric", default="pq", show_default=True, help="Figure by which OUT/best is chosen.")
@click.option("--tensorboard", is_flag=True, help="Log for TensorBoard as well, into OUT/tensorboard (extra `tensorboard`).")
@click.option("--evaluate-limit", type=click.IntRange(min=1), help="Measure on the first so many pictures alone.")
@click.option(
    "--depth-weight", "depth_weights", type=click.FloatRange(min=0), multiple=True, help="Of the last stage's depth 1, 2, ...; repeat."
)
@click.option("--scenes", type=click.IntRange(min=0), help="Add so many drawn scenes and their classes.  [default: 0]")
@click.option("--scene-share", type=click.FloatRange(0, 1), help=f"Views that show scenes.  [default: {DEFAULTS.scene_share}]")
@click.option("--crowding", type=click.FloatRange(min=0), help="Draw pictures by their segments to this power.  [default: 0, all alike]")
@click.option("--seed", type=int, help=f"[default: {DEFAULTS.seed}]")
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that prepare pictures.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--stop-after", type=click.IntRange(min=1), help="Stop after so many steps; --resume goes on.")
@click.option("--resume", is_flag=True, help="Go on with the run in OUT, started with the same options; rate and steps may differ.")
def train(
    out: Path, settings_path: Path | None, init: Path | None, workers: int, stop_after: int | None, resume: bool, **options: Any
) -> None:
    """Train a PRO-SCALE or Mask2Former model: from random weights, or further from a model folder (--init).

    The data set may be COCO, ADE20K, Cityscapes or Mapillary Vistas as downloaded, a COCO JSON, or folders of pictures and PNGs. Its ids,
    names and order of classes are the model's. Ctrl-C saves the state, and --resume goes on from it as if nothing had happened.

    \b
    proscale train --data coco --init converted/swin-t --out runs/mine --learning-rate 1e-5 --evaluate-every 500
    proscale train --data my-folder --out runs/mine --resume
    torchrun --nproc-per-node 2 --no-python proscale train --data coco --out runs/mine
    """
    from proscale.training.run import run  # here: `--help` should not wait for torch

    keep_freed_memory()
    try:
        settings = choose_settings(settings_path, options)
        stopped = run(out, settings, init, options, workers, stop_after, resume)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"{error}. What was saved before is still there; free space or mend the path, then use --resume."
        ) from error
    if stopped is not None:
        click.echo(f"\nstopped after step {stopped}; the state is saved. Go on with the same command and --resume.", err=True)
        raise SystemExit(130)
    click.echo(f"{out / 'model'} holds the trained model. Measure it: proscale evaluate --checkpoint {out / 'model'} --data FOLDER")


def choose_settings(path: Path | None, options: dict[str, Any]) -> TrainingConfig:
    """Defaults, then the YAML file, then flags."""
    settings = DEFAULTS if path is None else read_settings(path, DEFAULTS)
    names: tuple[str, ...] = (
        "steps",
        "batch_size",
        "accumulate",
        "crop",
        "learning_rate",
        "backbone_multiplier",
        "warmup_steps",
        "decay_share",
    )
    names += ("frozen_batch_norm", "precision", "evaluate_every", "scenes", "scene_share", "crowding", "seed")
    settings = replace(settings, **{name: options[name] for name in names if options[name] is not None})
    if options["pilots"] is not None:
        settings = replace(settings, losses=replace(settings.losses, pilots=options["pilots"]))
    if options["depth_weights"]:
        settings = replace(settings, depth_weights=tuple(options["depth_weights"]))
    if options["quarter_turns"]:
        settings = replace(settings, data_augmentation=replace(settings.data_augmentation, rotate=True))
    if (scale := options["view_scale"]) is not None:
        settings = replace(
            settings,
            data_augmentation=replace(settings.data_augmentation, scale=scale),
            scene_augmentation=replace(settings.scene_augmentation, scale=scale),
        )
    if settings.crop % 32:
        raise click.BadParameter("must be a multiple of 32", param_hint="--crop")
    if options["data"] is None and not settings.scenes:
        raise click.UsageError("nothing to train on: name a data set with --data, or draw scenes with --scenes N")
    return settings
