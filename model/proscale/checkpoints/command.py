"""`proscale convert` and `proscale models`."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import click

from proscale.checkpoints.published_models import PublishedModel, published_models
from proscale.checkpoints.stated_settings import StatedSettings
from proscale.config import TASKS, ProScaleEncoderConfig, Task
from proscale.errors import ProscaleError
from proscale.labels import table_names

DTYPES = ("float32", "float16", "bfloat16")


def parse_layers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int, int] | None:
    """'3,3,3' -> (3, 3, 3)."""
    if value is None:
        return None
    try:
        p1, p2, p3 = (int(part) for part in value.split(","))
        if min(p1, p2, p3) < 0 or p3 < 1:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{value!r} is not P1,P2,P3, such as 3,3,3, with at least one layer that sees all levels") from None
    return p1, p2, p3


def parse_size(_: click.Context, __: click.Parameter, value: str | None) -> StatedSettings | None:
    """'800,1333' -> sides, '512x512' -> a fixed size, 'own' -> no resizing."""
    if value is None:
        return None
    if value == "own":
        return StatedSettings(resize=False)
    match = re.fullmatch(r"([1-9]\d{0,4})([,x])([1-9]\d{0,4})", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not SHORT,LONG such as 800,1333, nor HEIGHTxWIDTH such as 512x512, nor own")
    first, second = int(match[1]), int(match[3])
    if match[2] == "x":
        return StatedSettings(size=(first, second))
    if first > second:
        raise click.BadParameter(f"the short side {first} is longer than the long side {second}")
    return StatedSettings(short_side=first, long_side=second)


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(["proscale", "transformers"]), default="proscale", show_default=True, help="Form of OUT.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="detectron2 YAML, mmsegmentation .py or transformers config.json that belongs to SOURCE. Default: the one beside it.",
)
@click.option("--labels", help=f"What the classes are: {', '.join(table_names())}, numbered, or a file. Default: what SOURCE says.")
@click.option(
    "--order",
    help="Put the classes, and their rows in the weights, into the order of a table or labels.json, with its ids and things, or of a "
    "file with a name per line.",
)
@click.option("--task", type=click.Choice(TASKS), help="Task that SOURCE was trained for, if nothing else says so.")
@click.option("--name", help="Name of the model in the service's answers.")
@click.option(
    "--size",
    callback=parse_size,
    help="How pictures are resized, instead of what SOURCE says: SHORT,LONG sides, one HEIGHTxWIDTH, or own for no resizing.",
)
@click.option("--weights", help="Which weights of a file that holds several: model, ema, or their path in it.  [default: model]")
@click.option(
    "--temperature", type=float, help="Temperature of the token re-calibration, if no YAML states it.  [default: 0.1, as published]"
)
@click.option("--base", help="EoMT's DINOv3 deltas: DINOv3's weights (a file, a folder, hf:OWNER/NAME), or none if yours are complete.")
@click.option("--allow-missing-auxiliary", is_flag=True, help="Accept a SETR without its auxiliary heads, which only training needs.")
@click.option(
    "--residual/--no-residual", default=None, help="Whether a PRO-SCALE encoder adds the inputs of its stages.  [default: no, as published]"
)
@click.option(
    "--encoder", type=click.Choice(["proscale"]), help="Warm start: turn the Mask2Former encoder of SOURCE into a PRO-SCALE encoder."
)
@click.option("--layers", callback=parse_layers, help="With --encoder: numbers of layers that see 1, 2 and 3 levels.  [default: 3,3,3]")
@click.option(
    "--recalibration",
    type=click.Choice(["linear", "conv", "none"]),
    help="With --encoder: form of the token re-calibration.  [default: linear]",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="dtype of the weights on disk.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def convert(
    source: str,
    out: Path,
    target: str,
    config: Path | None,
    labels: str | None,
    order: str | None,
    task: Task | None,
    name: str | None,
    size: StatedSettings | None,
    weights: str | None,
    temperature: float | None,
    base: str | None,
    allow_missing_auxiliary: bool,
    residual: bool | None,
    encoder: str | None,
    layers: tuple[int, int, int] | None,
    recalibration: str | None,
    dtype: str,
    force: bool,
) -> None:
    """Convert a checkpoint (Mask2Former, PRO-SCALE, EoMT, SegFormer, SETR, SegViT) into a model folder OUT that can be served.

    SOURCE is a file (.pkl, .pth, .bin, .safetensors), a folder, or hf:OWNER/NAME[@revision] on the Hugging Face hub. Nothing in it is run.
    """
    if encoder is None and (layers is not None or recalibration is not None):
        raise click.UsageError("--layers and --recalibration need --encoder proscale")
    if target == "transformers" and dtype != "float32":
        raise click.UsageError("--dtype needs --to proscale; for transformers weights are written as float32")
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not force:
        raise click.ClickException(f"{out} exists; give --force to replace it")
    import torch  # here: `--help` and mistakes in options should not wait for it

    from proscale.checkpoints.convert import Request, put_in_order, start_warm
    from proscale.checkpoints.convert import convert as read_source
    from proscale.checkpoints.write_folders import write, write_transformers

    try:
        request = Request(config, labels, task, name, size, temperature, residual, weights, base, allow_missing_auxiliary)
        converted = read_source(source, request)
        if encoder is not None:
            converted = start_warm(converted, _encoder(layers, recalibration, temperature, residual), name)
        if order is not None:
            converted = put_in_order(converted, order)
        if target == "transformers":
            write_transformers(converted, out)
        else:
            write(converted, out, getattr(torch, dtype))
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error}") from error
    for note in converted.notes:
        click.echo(note)
    click.echo(f"source: {converted.provenance.name}, sha256 {converted.provenance.sha256}")
    click.echo(f"written: {out} ({converted.config.name})")
    if target == "proscale":
        click.echo(f"serve it: PROSCALE_CHECKPOINT={out} proscale serve")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--dataset", help="Only models whose data set has this in its name, such as coco.")
def models(as_json: bool, dataset: str | None) -> None:
    """List published models with their authors' figures, and the command that converts each."""
    listed = published_models()
    if dataset is not None:
        listed = tuple(model for model in listed if dataset.lower() in f"{model.dataset} {model.labels}".lower())
    if as_json:
        click.echo(json.dumps([asdict(model) | {"commands": model.commands} for model in listed], indent=1))
        return
    for model in listed:
        click.echo(_described(model))


def _encoder(
    layers: tuple[int, int, int] | None, recalibration: str | None, temperature: float | None, residual: bool | None
) -> ProScaleEncoderConfig:
    default = ProScaleEncoderConfig()
    return ProScaleEncoderConfig(
        layers or default.layers,
        recalibration or default.recalibration,  # type: ignore[arg-type]  # click has checked it
        default.temperature if temperature is None else temperature,
        default.residual if residual is None else residual,
    )


def _described(model: PublishedModel) -> str:
    numbers = ", ".join(f"{metric} {value}" for metric, value in model.metrics.items())
    lines = [f"{model.name}: {numbers}", f"    {model.licence}; {model.reference}"]
    return "\n".join([*lines, *(f"    {command}" for command in model.commands), ""])
