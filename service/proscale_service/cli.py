"""`proscale serve`."""

import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import click
from pydantic import ValidationError

from proscale.allocator import keep_freed_memory
from proscale.cli import without_model
from proscale.config import PRECISIONS
from proscale.log_lines import json_line
from proscale.tracing import TracingError
from proscale_service import logs
from proscale_service.access.keys import KeysError
from proscale_service.certificate import CertificateError
from proscale_service.settings import PREFIX, RENAMED, Settings, describe_invalid, former_variables, unknown_variables

_LOG = logging.getLogger(__name__)
_HELP = {name: field.description or "" for name, field in Settings.model_fields.items()}


class _StartFailure(click.ClickException):
    """Ends the command with its message, without a traceback."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message; where logs are JSON, as a record of theirs."""
        if logs.in_json():
            logs.event(_LOG, logging.ERROR, self.message)
        else:
            super().show(file)


@click.command("serve")
@click.option("--host", help=_HELP["host"])
@click.option("--port", type=int, help=_HELP["port"])
@click.option("--keys-file", type=click.Path(path_type=Path), help=_HELP["keys_file"])
@click.option("--public", is_flag=True, default=None, help=_HELP["public"])
@click.option("--checkpoint", type=click.Path(path_type=Path), help=_HELP["checkpoint"])
@click.option("--models", help=_HELP["models"])
@click.option("--admin-port", type=int, help=_HELP["admin_port"])
@click.option("--device", help=_HELP["device"])
@click.option("--precision", type=click.Choice(PRECISIONS), help=_HELP["precision"])
@click.option("--threads", type=int, help=_HELP["threads"])
@click.option("--max-concurrent-pictures", type=int, help=_HELP["max_concurrent_pictures"])
@click.option("--max-queue", "max_queue", type=int, hidden=True)
@click.option("--deadline-ms", type=int, help=_HELP["deadline_ms"])
@click.option("--log-level", type=click.Choice(logs.LEVELS), help=_HELP["log_level"])
@click.option("--log-format", type=click.Choice(["plain", "json"]), help=_HELP["log_format"])
def serve(**options: Any) -> None:
    """Serve segmentation over HTTP.

    Every setting can also be an environment variable: PROSCALE_ and its name in capitals. Options override it. When the server is ready
    for requests, it writes `Serving on URL` to standard output, or a JSON object if logs are JSON.
    """
    given = {name: value for name, value in options.items() if value is not None}
    # JSON from the first line on, also when the settings turn out wrong.
    asked = {name: given.get(name, os.environ.get(PREFIX + name.upper())) for name in ("log_level", "log_format")}
    if asked["log_format"] == "json":
        logs.configure(asked["log_level"] if asked["log_level"] in logs.LEVELS else "info", "json")
    for former in RENAMED.keys() & given.keys():
        click.echo(f"Warning: --{_option(former)} is now called --{_option(RENAMED[former])}", err=True)
        given.setdefault(RENAMED[former], given[former])
        del given[former]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise _fail(describe_invalid(error, given)) from error
    computes = settings.engine == "in_process"
    if computes and not _torch_is_there():
        raise _fail(without_model("The engine in_process") + f", or serve in front of Triton servers: {PREFIX}ENGINE=triton")
    missing = [model for model in settings.model_list if computes and model.folder is not None and not model.folder.exists()]
    if missing:
        # The loader would say it too, but only after seconds of importing torch.
        option = "checkpoint" if missing[0].name is None else "models"
        raise _fail(
            f"no checkpoint at {missing[0].folder}. Name an existing model folder with --{option} or {PREFIX}{option.upper()}, "
            "or leave both unset to use the model in the package."
        )
    if not logs.in_json():
        logs.configure(settings.log_level, settings.log_format)
    for former, name in former_variables(os.environ).items():
        click.echo(f"Warning: {former} is now called {name}", err=True)
    for name in unknown_variables(os.environ):
        logs.event(_LOG, logging.WARNING, f"{name} is set, but no such setting exists")

    if computes:
        keep_freed_memory()
    from proscale_service.server import run  # only now: --help should not wait for the web framework

    try:
        failure = run(settings, _announce)
    except (KeysError, CertificateError, TracingError) as error:
        raise _fail(f"{error}. The server does not start without it.") from error
    except OSError as error:
        raise _fail(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}. Choose another --host or --port.") from error
    if failure:
        raise _fail(failure)


def _announce(url: str) -> None:
    click.echo(json_line(time.time(), "info", "serving", {"url": url}) if logs.in_json() else f"Serving on {url}")


def _torch_is_there() -> bool:
    return find_spec("torch") is not None


def _option(name: str) -> str:
    return name.replace("_", "-")


def _fail(message: str) -> click.ClickException:
    return _StartFailure(message)
