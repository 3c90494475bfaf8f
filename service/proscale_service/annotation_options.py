"""What the commands for annotation tools share: the service to ask, and a server of their own."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from proscale.config import TASKS
from proscale_service.settings import CLIENT_KEY as KEY_VARIABLE

F = TypeVar("F", bound=Callable[..., Any])

_SERVICE = (
    click.option(
        "--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the segmentation service, which must be running."
    ),
    click.option(
        "--api-key",
        envvar=KEY_VARIABLE,
        help=f"API key of the service. Better use {KEY_VARIABLE}, which the list of processes does not show.",
    ),
    click.option("--task", type=click.Choice(TASKS), help="Default: the model's first task, mostly panoptic."),
)


def service_options(command: F) -> F:
    """Add --url, --api-key and --task."""
    for option in reversed(_SERVICE):
        command = option(command)
    return command


def run_app(app: Any, host: str, port: int, what: str) -> None:
    """Serve until Ctrl-C.

    Raises:
        click.ClickException: the address is taken.
    """
    import uvicorn

    from proscale_service.server import bind, url_of

    try:
        listener = bind(host, port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host} port {port}: {error.strerror}. Choose another --host or --port.") from error
    click.echo(f"{what} on {url_of(listener)}")
    uvicorn.Server(uvicorn.Config(app, log_level=os.environ.get("LOG_LEVEL", "warning").lower())).run(sockets=[listener])
