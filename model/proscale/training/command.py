"""`proscale train`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from proscale.allocator import keep_freed_memory
from proscale.config import FLOAT_PRECISIONS
from proscale.errors import ProscaleError
from proscale.training.config import TrainingConfig
from proscale.training.settings_file import read_settings

DEFAULTS = TrainingConfig()


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Data set: its folder as downloaded, or an annotation JSON.")
@click.option("--split", default="train", show_default=True, help="Split to train on.")
@click.option("--val-split", help="Split to evaluate on.  [default: val]")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures, if they are not beside the annotation.")
@click.option("--labels", type=click.Path(path_type=Path), help="File of class names, for a plain folder of PNGs.")
@click.option("--reduce-labels", is_flag=True, help="Plain folder of PNGs: 0 is void, and class k is stored as k + 1.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the run: training state, log, and the model in OUT/model."
)
@click.option(
    "--settings", "settings_path", type=click.Path(path_type=Path), help="YAML with fields of TrainingConfig; options override it."
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="config.json of the network.  [default: the --init model's, else the embedded model's]",
)
@click.option("--init", type=click.Path(path_type=Path), help="Start from this model folder; classes of the same name keep their weights.")
@click.option("--queries", type=click.IntRange(min=1), help="Number of queries, at least the --init model's.  [default: the same]")
@click.option("--steps", type=click.IntRange(min=1), help=f"Number of weight updates.  [default: {DEFAULTS.steps}]")
@click.option("--batch-size", type=click.IntRange(min=1), help=f"Crops per step, over all processes.  [default: {DEFAULTS.batch_size}]")
@click.option("--accumulate", type=click.IntRange(min=1), help="Compute a batch in this many parts.  [default: 1]")
@click.option("--crop", type=click.IntRange(min=32), help=f"Side of the crops in pixels, a multiple of 32.  [default: {DEFAULTS.crop}]")
@click.option(
    "--view-scale",
    type=(float, float),
    help="Random scale, least and most: the picture's short side over the crop's side.  [default: by data]",
)
@click.option("--quarter-turns", is_flag=True, help="Rotate pictures by 90 degrees at random: for microscopy and satellite pictures.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help=f"[default: {DEFAULTS.learning_rate}]")
@click.option(
    "--backbone-multiplier", type=click.FloatRange(min=0), help="Learning rate of the backbone, relative to the rest.  [default: 1]"
)
@click.option("--warmup-steps", type=click.IntRange(min=1), help=f"[default: {DEFAULTS.warmup_steps}]")
@click.option(
    "--decay-share",
    type=click.FloatRange(0, 1, min_open=True),
    help=f"Last share of the steps, in which the rate falls.  [default: {DEFAULTS.decay_share}]",
)
@click.option("--pilots", type=click.IntRange(min=0), help=f"Mask-piloted queries per picture.  [default: {DEFAULTS.losses.pilots}]")
@click.option("--frozen-batch-norm", is_flag=True, default=None, help="Keep the statistics of batch normalisation fixed.")
@click.option("--precision", type=click.Choice(FLOAT_PRECISIONS), help=f"Number format of the network.  [default: {DEFAULTS.precision}]")
@click.option("--evaluate-every", type=click.IntRange(min=0), help="Evaluate on --val-split after every N steps; 0: never.  [default: 0]")
@click.option("--metric", default="pq", show_default=True, help="Metric that chooses OUT/best.")
@click.option("--tensorboard", is_flag=True, help="Also log for TensorBoard, into OUT/tensorboard (extra `tensorboard`).")
@click.option("--evaluate-limit", type=click.IntRange(min=1), help="Evaluate on the first N pictures only.")
@click.option(
    "--depth-weight",
    "depth_weights",
    type=click.FloatRange(min=0),
    multiple=True,
    help="Weight of depth 1, 2, ... of the last stage; repeat the option.",
)
@click.option("--scenes", type=click.IntRange(min=0), help="Add this many drawn scenes and their classes.  [default: 0]")
@click.option("--scene-share", type=click.FloatRange(0, 1), help=f"Share of crops from drawn scenes.  [default: {DEFAULTS.scene_share}]")
@click.option(
    "--crowding", type=click.FloatRange(min=0), help="Sample pictures by their number of segments to this power.  [default: 0, uniform]"
)
@click.option("--seed", type=int, help=f"[default: {DEFAULTS.seed}]")
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that prepare pictures.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--stop-after", type=click.IntRange(min=1), help="Stop after this many steps; --resume continues.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT, with the same options; learning rate and steps may differ.")
def train(
    out: Path, settings_path: Path | None, init: Path | None, workers: int, stop_after: int | None, resume: bool, **options: Any
) -> None:
    """Train a PRO-SCALE or Mask2Former model from random weights, or fine-tune a model folder (--init).

    The data set may be COCO, ADE20K, Cityscapes or Mapillary Vistas as downloaded, a COCO JSON, or folders of pictures and PNGs. The model
    gets its class ids, names and order. Ctrl-C saves the training state, and --resume continues from it with the same result.

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
            f"{error}. The last saved state is intact. Free disk space or correct the path, then use --resume."
        ) from error
    if stopped is not None:
        click.echo(f"\nstopped after step {stopped}; the state is saved. To continue, use the same command with --resume.", err=True)
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
        raise click.UsageError("no training data: name a data set with --data, or draw scenes with --scenes N")
    return settings
