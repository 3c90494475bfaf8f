"""The command `proscale`: what it offers, and nothing else; every command is loaded only when it is used.

Packages built on this one add commands of their own by entry points of the group `proscale.commands`.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import click

from proscale import __version__
from proscale.processors import configure_openmp

COMMANDS = {
    "convert": (
        "proscale.checkpoints.command:convert",
        "Convert a checkpoint of Mask2Former, PRO-SCALE, EoMT, SegFormer, SETR or SegViT into a model folder.",
    ),
    "models": ("proscale.checkpoints.command:models", "List published models and the commands that convert them."),
    "flops": ("proscale.flops_command:flops", "Count the FLOPs of a model per part, for any picture size."),
    "quantize": ("proscale.quantize_command:quantize", "Calibrate a model for int8 on some pictures."),
    "train": ("proscale.training.command:train", "Train or fine-tune a model on an annotated data set."),
    "evaluate": (
        "proscale.evaluation.command:evaluate",
        "Measure PQ, AP, mIoU, cost and speed of a model, a service or predictions in files on annotated data sets.",
    ),
    "reproduce": ("proscale.evaluation.reproduce_command:reproduce", "Evaluate a published model and compare with its authors' figures."),
    "bulk": ("proscale.bulk.command:bulk", "Segment folders of pictures into Parquet files, on this machine or on a Ray cluster."),
    "worker": ("proscale.worker_command:worker", "Start a Triton server with the network in its Python backend."),
    "doctor": ("proscale.doctor_command:doctor", "Show what is active on this machine, and why."),
}
"""Name -> (module:attribute, one line of help). The help is here so that `--help` does not import torch."""


MODEL_PACKAGES = ("torch", "safetensors", "scipy", "huggingface_hub")
"""What the extra `model` installs beyond the gateway."""
GATEWAY_PACKAGES = (
    *("certifi", "fastapi", "fastapi_offline", "httpcore", "prometheus_client", "pycocotools", "pydantic", "pydantic_settings"),
    *("python_multipart", "yaml", "shapely", "simplejpeg", "tritonclient", "uvicorn"),
)
"""What the extra `gateway` installs beyond the client."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; when it lacks a package of the extra `model`, say how to install it."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in (*MODEL_PACKAGES, *GATEWAY_PACKAGES):
                raise
            missing = without_model if package in MODEL_PACKAGES else without_gateway
            raise click.ClickException(missing(f"`proscale {ctx.invoked_subcommand}`", package)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Own commands in the order of the table, then those that other packages add."""
        return [*COMMANDS, *sorted(point.name for point in entry_points(group="proscale.commands"))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when nobody knows the name."""
        configure_openmp()  # before a command imports torch
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            return _command(getattr(import_module(module), attribute))
        points = entry_points(group="proscale.commands", name=cmd_name)
        return _command(next(iter(points)).load()) if points else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands; only those of other packages are imported for their help."""
        rows = []
        for name in self.list_commands(ctx):
            if name in COMMANDS:
                rows.append((name, COMMANDS[name][1]))
                continue
            try:
                command = self.get_command(ctx, name)
                rows.append((name, "" if command is None else command.get_short_help_str(limit=100)))
            except ModuleNotFoundError as error:
                rows.append((name, f"Needs {error.name}: pip install 'proscale-segmentation-service[gateway]'"))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def without_model(what: str, package: str = "torch") -> str:
    """The message for `what`, which needs the network, in an installation without it."""
    return (
        f"{what} needs {package}, which this installation does not have. "
        "Install the network: pip install 'proscale-segmentation-service[model]'"
    )


def without_gateway(what: str, package: str) -> str:
    """The message for `what`, which needs the gateway's packages, in an installation of the client alone."""
    return (
        f"{what} needs {package}, but only the client is installed. "
        "Install the gateway: pip install 'proscale-segmentation-service[gateway]', or the network too: [model]"
    )


def _command(loaded: object) -> click.Command:
    if not isinstance(loaded, click.Command):
        raise TypeError(f"{loaded!r} is not a click command")
    return loaded


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="proscale")
def main() -> None:
    """Panoptic, instance and semantic segmentation with PRO-SCALE and Mask2Former: as an HTTP service, on files, from Python."""
