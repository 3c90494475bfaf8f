"""`proscale flops`: what a model costs at a picture size, beside its baseline."""

from dataclasses import asdict

import click

from proscale.config import (
    MASK2FORMER,
    RESNET_50,
    RESNET_101,
    SWIN_B,
    SWIN_L,
    SWIN_S,
    SWIN_T,
    ModelConfig,
    NetworkConfig,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
)
from proscale.config import ProScaleEncoderConfig as ProScale
from proscale.errors import ProscaleError
from proscale.flops import Flops
from proscale.geometry import padded_size, resized_size
from proscale.network_flops import HeadFlops, baseline_name, count_baseline, count_network
from proscale.published import PUBLISHED

BACKBONES: dict[str, ResNetConfig | SwinConfig] = {
    "r50": RESNET_50,
    "r101": RESNET_101,
    "swin-t": SWIN_T,
    "swin-s": SWIN_S,
    "swin-b": SWIN_B,
    "swin-l": SWIN_L,
}


def parse_size(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int]:
    """'WIDTHxHEIGHT' -> (height, width)."""
    try:
        width, height = (int(part) for part in value.lower().split("x"))
        if min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{value!r} is not WIDTHxHEIGHT, for instance 640x480") from None
    return height, width


def parse_layers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """'3,3,3' -> (3, 3, 3); '6' -> (6,)."""
    if value is None:
        return None
    try:
        layers = tuple(int(part) for part in value.split(","))
        if len(layers) not in (1, 3) or min(layers) < 0:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither P1,P2,P3 (PRO-SCALE) nor one number (Mask2Former)") from None
    return layers


@click.command()
@click.argument("size", callback=parse_size, default="640x480")
@click.option("--checkpoint", type=click.Path(), help="Model folder. Default: the model in the package.")
@click.option(
    "--backbone", type=click.Choice(list(BACKBONES)), help="Count a published architecture with this backbone instead of a checkpoint."
)
@click.option(
    "--layers", callback=parse_layers, help="With --backbone: P1,P2,P3 of PRO-SCALE, or one number for Mask2Former.  [default: 3,3,3]"
)
@click.option("--network", type=click.Choice(list(PUBLISHED)), help="Count another published network instead of a checkpoint.")
@click.option("--classes", type=int, help="With --backbone or --network: number of classes.  [default: 133; 150 for semantic networks]")
def flops(
    size: tuple[int, int],
    checkpoint: str | None,
    backbone: str | None,
    layers: tuple[int, ...] | None,
    network: str | None,
    classes: int | None,
) -> None:
    """Count the FLOPs of a model for a picture of SIZE (WIDTHxHEIGHT, default 640x480), for all its tasks.

    1 FLOP is 1 multiply-accumulate, as in the papers. Baseline: Mask2Former with 6 encoder layers, all else equal; of EoMT, SegFormer, SETR
    and SegViT the network as published.
    """
    if layers is not None and backbone is None:
        raise click.UsageError("--layers needs --backbone")
    if sum(given is not None for given in (checkpoint, backbone, network)) > 1:
        raise click.UsageError("--checkpoint, --backbone and --network exclude each other")
    try:
        config = _chosen(checkpoint, backbone, layers or (3, 3, 3), network, classes)
    except ProscaleError as error:
        raise click.ClickException(str(error)) from error
    resized = resized_size(*size, config.preprocess)
    padded = padded_size(*resized, config.preprocess)
    counts, baseline = (count(config, padded, size, config.tasks) for count in (count_network, count_baseline))
    click.echo(f"{config.name}: picture {size[1]}x{size[0]}, padded {padded[1]}x{padded[0]} (width x height)")
    click.echo(_table(counts, baseline))
    click.echo(f"baseline: {baseline_name(config)}")


def _chosen(
    checkpoint: str | None, backbone: str | None, layers: tuple[int, ...], network: str | None, classes: int | None
) -> NetworkConfig:
    if network is not None:
        return PUBLISHED[network](classes or (133 if network.startswith("eomt") else 150))
    from proscale.checkpoints.model_folder import DEFAULT_FOLDER, load_folder  # here: published networks are counted without torch

    return load_folder(checkpoint or DEFAULT_FOLDER)[0] if backbone is None else _published(backbone, layers, classes or 133)


def _published(backbone: str, layers: tuple[int, ...], classes: int) -> ModelConfig:
    if len(layers) == 1:
        return ModelConfig(f"Mask2Former {backbone} ({layers[0]})", classes, BACKBONES[backbone], MASK2FORMER)
    p1, p2, p3 = layers
    return ModelConfig(f"PRO-SCALE {backbone} ({p1}, {p2}, {p3})", classes, BACKBONES[backbone], PixelDecoderConfig(ProScale((p1, p2, p3))))


def _table(counts: Flops | HeadFlops, baseline: Flops | HeadFlops) -> str:
    lines = [f"{'GFLOPs':<22}{'model':>10}{'baseline':>10}{'saved':>8}"]
    rows = {name: (value, asdict(baseline)[name]) for name, value in asdict(counts).items()}
    if isinstance(counts, Flops) and isinstance(baseline, Flops):
        rows["pixel_decoder, all"] = (counts.pixel_decoder, baseline.pixel_decoder)
    rows["total"] = (counts.total, baseline.total)
    for name, (value, reference) in rows.items():
        saved = f"{1 - value / reference:>8.1%}" if value != reference else ""
        lines.append(f"{name:<22}{value / 1e9:>10.2f}{reference / 1e9:>10.2f}{saved}")
    return "\n".join(lines)
