"""`proscale label-studio`: an ML backend in front of a running service."""

import click

from proscale_service.annotation_options import run_app, service_options


@click.command("label-studio")
@service_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9090, show_default=True, help="Port to listen on; 0 picks a free one.")
@click.option("--label-studio-url", envvar="LABEL_STUDIO_URL", help="Address of Label Studio, to fetch its uploads.")
@click.option("--label-studio-key", envvar="LABEL_STUDIO_API_KEY", help="Access token of Label Studio. Better use LABEL_STUDIO_API_KEY.")
@click.option(
    "--region",
    type=click.Choice(["brush", "polygon", "bitmask"]),
    help="Kind of region. Default: the first matching tag of the labelling configuration.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="Minimum score of a segment. Default: the model's own.")
@click.option("--simplify", type=click.FloatRange(0), default=1.0, show_default=True, help="Tolerance of polygons in pixels; 0: exact.")
@click.option("--concurrency", type=click.IntRange(1), default=4, show_default=True, help="Number of pictures in progress at once.")
@click.option("--within", type=click.FloatRange(1), default=80.0, show_default=True, help="Seconds within which to answer Label Studio.")
def label_studio(
    url: str,
    api_key: str | None,
    task: str | None,
    host: str,
    port: int,
    label_studio_url: str | None,
    label_studio_key: str | None,
    region: str | None,
    threshold: float | None,
    simplify: float,
    concurrency: int,
    within: float,
) -> None:
    """Pre-label pictures in Label Studio.

    Start `proscale serve`, then this command, then add http://HOST:PORT in Label Studio under Settings, Model. Segments become regions of
    the project's BrushLabels, PolygonLabels or BitmaskLabels. A failed task does not affect the others. The result of a task that is not
    done in time is returned when Label Studio asks again.
    """
    from proscale_service.annotation.label_studio import label_studio_app
    from proscale_service.annotation.label_studio_tasks import Source, Wanted
    from proscale_service.client import AsyncClient

    wanted = Wanted(task, threshold, simplify, concurrency, within)
    source = Source(label_studio_url, label_studio_key)
    app = label_studio_app(AsyncClient(url, api_key=api_key), source, wanted, region)  # type: ignore[arg-type]
    run_app(app, host, port, "Label Studio's ML backend")
