"""Health and metrics: for orchestrators and Prometheus, not for users.

- live: the process answers. Failing means: restart it.
- startup: the model is loaded. Not yet: wait before asking for live or ready.
- ready: send traffic. Not so while loading, while no worker can compute, and from the first moment of shutting down.
"""

from fastapi import APIRouter, Request, Response

from proscale_service.errors import Draining, Loading, Unavailable
from proscale_service.responses import HealthResponse
from proscale_service.routes.dependencies import GetLifecycle, GetPipeline
from proscale_service.routes.openapi import problems

router = APIRouter(tags=["operations"])


@router.get("/health/live", summary="Liveness", responses=problems(guarded=False))
async def live() -> HealthResponse:
    """200 as long as the process responds, also while loading and draining."""
    return HealthResponse(status="ok")


@router.get("/health/startup", summary="Startup", responses=problems(503, guarded=False))
async def startup(lifecycle: GetLifecycle) -> HealthResponse:
    """200 once the model is loaded and warm, 503 before. In front of Triton: 200 once the gateway runs, with or without a worker."""
    if lifecycle.state == "loading":
        raise Loading("the model is being loaded", retry_after=5)
    if lifecycle.state == "failed":
        raise Unavailable("the model could not be loaded or its GPU failed; see the server's log", retry_after=60)
    return HealthResponse(status="ok")


@router.get("/health/ready", summary="Readiness", responses=problems(503, guarded=False))
async def ready(lifecycle: GetLifecycle) -> HealthResponse:
    """200 if requests are served. 503 while loading, while no worker can compute, and while shutting down."""
    if lifecycle.state == "draining":
        raise Draining("the server is shutting down", retry_after=5)
    await startup(lifecycle)
    lifecycle.models.any()
    return HealthResponse(status="ready")


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses=problems(guarded=False) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request, pipeline: GetPipeline) -> Response:
    """Metrics in the text exposition format; in OpenMetrics with exemplars if tracing is on and `Accept` asks for it."""
    if pipeline.settings.otlp_endpoint and "application/openmetrics-text" in request.headers.get("accept", ""):
        return Response(pipeline.metrics.openmetrics(), media_type="application/openmetrics-text; version=1.0.0; charset=utf-8")
    return Response(pipeline.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
