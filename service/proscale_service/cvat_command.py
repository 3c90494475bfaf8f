"""`proscale cvat`: annotates tasks, names the agent function, and stands in for nuclio."""

import sys
from pathlib import Path

import click

from proscale_service.annotation_options import run_app, service_options

INSTALL = "pip install 'proscale-segmentation-service[cvat]'"


@click.group("cvat")
def cvat() -> None:
    """Pre-label pictures in CVAT.

    \b
    proscale cvat annotate 42 --cvat-url https://app.cvat.ai      annotate whole tasks, many frames at once
    proscale cvat function                                        print how to start an agent, for CVAT's own menu
    proscale cvat nuclio                                          serve a self-hosted CVAT with serverless functions

    All of them use a running `proscale serve`.
    """


@cvat.command("annotate")
@click.argument("task_ids", metavar="TASK...", type=int, nargs=-1, required=True)
@service_options
@click.option("--cvat-url", envvar="CVAT_URL", default="http://localhost:8080", show_default=True, help="Address of CVAT.")
@click.option("--cvat-token", envvar="CVAT_ACCESS_TOKEN", help="Personal access token of CVAT. Better use CVAT_ACCESS_TOKEN.")
@click.option("--user", envvar="CVAT_USER", help="User name, instead of a token. The password is CVAT_PASSWORD, or is prompted for.")
@click.option("--password", envvar="CVAT_PASSWORD", hidden=True)
@click.option("--organization", help="Slug of the organization that the tasks belong to.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Minimum score of a segment. Default: the model's own.")
@click.option("--label", "labels", multiple=True, help="Keep only segments of this label. May be repeated.")
@click.option("--polygons", is_flag=True, help="Upload polygons instead of masks. CVAT polygons have no holes, so holes are filled.")
@click.option("--simplify", type=click.FloatRange(0), default=1.0, show_default=True, help="Tolerance of polygons in pixels; 0: exact.")
@click.option("--concurrency", type=click.IntRange(1), default=4, show_default=True, help="Number of frames in progress at once.")
@click.option(
    "--all-frames",
    is_flag=True,
    help="Also annotate frames that have shapes already. Without it, a second run does the frames that are left.",
)
def annotate(
    task_ids: tuple[int, ...],
    url: str,
    api_key: str | None,
    task: str | None,
    cvat_url: str,
    cvat_token: str | None,
    user: str | None,
    password: str | None,
    organization: str | None,
    threshold: float | None,
    labels: tuple[str, ...],
    polygons: bool,
    simplify: float,
    concurrency: int,
    all_frames: bool,
) -> None:
    """Annotate every frame of TASKs that has no shapes yet.

    A frame's shapes are uploaded as soon as they are there. After Ctrl-C, or when frames failed, the same command does what is left.
    """
    import httpx

    _check_sdk()
    from cvat_sdk import make_client
    from cvat_sdk.core.exceptions import CvatSdkException
    from cvat_sdk.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    from proscale_service.annotation.cvat_tasks import Annotator, CvatTaskError, Wanted
    from proscale_service.client import Client
    from proscale_service.errors import ServiceError

    if cvat_token is None and user is None:
        raise click.UsageError("no credentials for CVAT: set CVAT_ACCESS_TOKEN, or give --user")
    if cvat_token is None and password is None:
        password = click.prompt("Password", hide_input=True, err=True)
    wanted = Wanted(task, threshold, polygons, simplify, concurrency, all_frames, labels)
    failed = False
    try:
        credentials = None if cvat_token is not None else (user or "", password or "")
        with make_client(cvat_url, credentials=credentials, access_token=cvat_token) as server, Client(url, api_key=api_key) as service:
            if organization is not None:
                server.organization_slug = organization
            for task_id in task_ids:
                done = Annotator(server, service, task_id, wanted).run(progress=sys.stderr.isatty())
                click.echo(f"task {task_id}: {done.annotated} frames annotated with {done.shapes} shapes, {done.skipped} had some already")
                if done.unknown:
                    click.echo(f"  left out, because the task has no such label: {', '.join(sorted(done.unknown))}", err=True)
                for failure in done.failures:
                    click.echo(f"Error: {failure}", err=True)
                failed |= bool(done.failures)
    except CvatTaskError as error:
        raise click.ClickException(str(error)) from error
    except (ServiceError, httpx.TransportError) as error:
        raise click.ClickException(f"the segmentation service at {url}: {error}") from error
    except (ApiException, HTTPError, CvatSdkException) as error:
        raise click.ClickException(f"CVAT at {cvat_url}: {error}") from error
    if failed:
        click.echo("Run the same command again for the frames that are left.", err=True)
        sys.exit(1)


@cvat.command("function")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the segmentation service.")
def function(url: str) -> None:
    """Print the path of the agent function, and the commands that make and run it."""
    _check_sdk()
    path = Path(__file__).parent / "annotation" / "cvat_function.py"
    arguments = f"--function-file {path} -p url=str:{url}"
    click.echo(str(path))
    click.echo(f"# once:   cvat-cli --server-host CVAT function create-native PRO-SCALE {arguments}", err=True)
    click.echo(f"# always: cvat-cli --server-host CVAT function run-agent ID {arguments}", err=True)


@cvat.command("nuclio")
@service_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8070, show_default=True, help="Port to listen on; 8070 is the port of nuclio's dashboard.")
def nuclio(url: str, api_key: str | None, task: str | None, host: str, port: int) -> None:
    """Serve nuclio's API to a self-hosted CVAT with serverless functions.

    CVAT needs CVAT_SERVERLESS=1, CVAT_NUCLIO_HOST and CVAT_NUCLIO_PORT, which name this address.
    """
    from proscale_service.annotation.cvat_nuclio import nuclio_app
    from proscale_service.client import AsyncClient

    run_app(nuclio_app(AsyncClient(url, api_key=api_key), port, task), host, port, "nuclio for CVAT")


def _check_sdk() -> None:
    try:
        import cvat_sdk  # noqa: F401
    except ModuleNotFoundError as error:
        raise click.ClickException(f"this needs cvat-sdk: {INSTALL}") from error
