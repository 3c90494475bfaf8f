"""The application: routes, layers around them, errors as problem+json, and the life of the engine."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from proscale import __version__
from proscale.tracing import Tracer, make_tracer
from proscale_service import logs
from proscale_service.access.guard import Guard
from proscale_service.access.keyring import Keyring
from proscale_service.compression import Compression
from proscale_service.context import RequestContextMiddleware, context_of, note_refusal, retry_header
from proscale_service.dialects import huggingface, open_inference, roboflow
from proscale_service.engines.base import MakeEngine
from proscale_service.errors import PROBLEM_TYPE, ServiceError, encode_problem, form_at, plain_problem, problem
from proscale_service.lifecycle import Lifecycle
from proscale_service.limits import BodyLimit
from proscale_service.metrics import Metrics
from proscale_service.page import redirect_to_docs, serve_page
from proscale_service.picture_urls.fetching import Fetcher
from proscale_service.picture_urls.rules import UrlRules
from proscale_service.pipeline import Pipeline
from proscale_service.request_line import HeadAsGet, RootPath, route_path
from proscale_service.routes import admin, health, models, segment
from proscale_service.routes.doorway import Doorway
from proscale_service.routes.openapi import complete, limit_pictures
from proscale_service.settings import Settings

_LOG = logging.getLogger(__name__)
DIALECTS: Mapping[str, ModuleType] = {"huggingface": huggingface, "open_inference": open_inference, "roboflow": roboflow}
"""From a name in the setting `dialects` to its module."""
_ASSETS = "/docs/assets"


def create_app(
    settings: Settings | None = None,
    *,
    make_engine: MakeEngine | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_failure: Callable[[str], None] = lambda message: None,
) -> FastAPI:
    """The ASGI application.

    Args:
        settings: unset: from the environment.
        make_engine: unset: the engine that the settings name.
        on_ready: called when requests can be served.
        on_failure: called with the reason when the engine cannot be loaded, or cannot compute any more. Without it the application
            stays up and not ready, for an orchestrator to end.

    Raises:
        KeysError: the keys file cannot be used.
        TracingError: spans are wanted, and OpenTelemetry is not installed.
    """
    settings = settings or Settings()
    metrics = Metrics()
    tracer = make_tracer(settings.otlp_endpoint, "proscale", settings.trace_share)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pipeline = Pipeline(settings, metrics, make_engine, on_lost=on_failure)
        app.state.lifecycle = lifecycle = app.state.pipeline.lifecycle
        # Beside the server, not before it: /health/live must answer while the model loads.
        loading = asyncio.create_task(_start(lifecycle, on_ready, on_failure), name="loading")
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        await lifecycle.stop()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)

    app = FastAPI(
        title="PRO-SCALE Segmentation Service",
        summary="Panoptic, instance and semantic masks of pictures, at the least compute that the wanted quality allows.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        exception_handlers={ServiceError: _on_service_error, HTTPException: _on_http_error, RequestValidationError: _on_validation_error},
    )
    app.state.fetcher = _fetcher(settings)
    for router in (segment.router, models.router, health.router, admin.router):
        app.include_router(router)
    dialects = [DIALECTS[name] for name in settings.dialect_list]
    app.state.forms = {dialect.PATH: dialect.error_body for dialect in dialects}
    for dialect in dialects:
        app.include_router(dialect.router)
    _serve_docs(app)
    (serve_page if settings.page else redirect_to_docs)(app)
    _complete_openapi(app, max(2, settings.max_items))
    _add_layers(app, settings, metrics, tracer)
    return app


def _add_layers(app: FastAPI, settings: Settings, metrics: Metrics, tracer: Tracer | None) -> None:
    """What a request passes through before it meets a route; the last one added is the outermost."""
    app.add_middleware(Compression)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Doorway)
    if settings.keys_file is not None:
        keyring = Keyring(settings.keys_file, lambda stale: metrics.keys_stale.set(stale))
        # Inside the bounds of bodies, which also let a refusal reach a client that is still sending.
        app.add_middleware(Guard, keyring=keyring, forms=app.state.forms)
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_upload_bytes, max_total=settings.max_buffered_bytes, timeout_s=settings.upload_timeout_s
    )
    app.add_middleware(RequestContextMiddleware, metrics=metrics, tracer=tracer)
    app.add_middleware(RootPath, root_path=settings.root_path or "")
    if settings.cors_origin_list:
        # The outermost, so that errors of every layer carry its headers; without them a page could not even read what went wrong.
        app.add_middleware(CORSMiddleware, **_cors(settings.cors_origin_list))


def _fetcher(settings: Settings) -> Fetcher | None:
    if settings.picture_urls == "off":
        return None
    rules = UrlRules(
        schemes=("https", "http") if settings.picture_urls == "http" else ("https",),
        hosts=tuple(settings.picture_url_host_list),
        networks=settings.picture_url_network_list,
        max_bytes=settings.max_upload_bytes,
        timeout_s=settings.picture_url_timeout_s,
    )
    return Fetcher(rules, settings.max_concurrent_pictures)


def _cors(origins: list[str]) -> dict[str, Any]:
    """Arguments of Starlette's middleware. `https://*.example` stands for every host below example."""
    patterns = [re.escape(origin).replace(r"\*", r"[A-Za-z0-9.-]+") for origin in origins if "*" in origin[1:]]
    return {
        "allow_origins": [origin for origin in origins if "*" not in origin[1:]],
        "allow_origin_regex": "|".join(patterns) or None,
        "allow_methods": ["GET", "HEAD", "POST"],
        "allow_headers": ["*"],
        "expose_headers": ["x-request-id", "retry-after"],
    }


async def _start(lifecycle: Lifecycle, on_ready: Callable[[], None], on_failure: Callable[[str], None]) -> None:
    if await lifecycle.start():
        if lifecycle.state == "ready":  # not when it was told to stop meanwhile
            on_ready()
    else:
        logs.event(_LOG, logging.ERROR, "cannot start", reason=lifecycle.failure)
        on_failure(lifecycle.failure)


def _serve_docs(app: FastAPI) -> None:
    """Swagger UI at /docs from files of an installed package: it works on machines without internet and tells nobody who reads it."""
    spec = find_spec("fastapi_offline")
    if spec is not None and spec.origin is not None:
        app.mount(_ASSETS, StaticFiles(directory=Path(spec.origin).parent / "static"), name="docs-assets")

        @app.get("/docs", include_in_schema=False)
        async def docs(request: Request) -> HTMLResponse:
            root = request.scope.get("root_path", "")
            return get_swagger_ui_html(
                openapi_url=f"{root}/openapi.json",
                title=f"{app.title}: API",
                swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
                swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
                swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
            )


def _complete_openapi(app: FastAPI, max_pictures: int) -> None:
    """Put problems and labels into the OpenAPI document: routes refer to them in ways that FastAPI does not see."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        lifecycle: Lifecycle | None = getattr(app.state, "lifecycle", None)
        schema = build()
        limit_pictures(schema, max_pictures)
        return complete(schema, lifecycle.models.infos() if lifecycle else ())

    app.openapi = openapi  # type: ignore[method-assign]


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    context = context_of(request.scope)
    note_refusal(error, context)
    if error.status == 499:
        raise error  # nobody listens; the outermost layer only logs it
    return _problem_response(problem(error, request.url.path, context.id), retry_header(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = _DETAILS.get(error.status_code, str(error.detail))
    record = plain_problem(error.status_code, detail, request.scope["path"], context_of(request.scope).id)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request, headers.get("Allow", "")))
    if form := form_at(request.app.state.forms, route_path(request.scope)):
        return JSONResponse(dict(form(ServiceError(detail))), error.status_code, headers)
    return _problem_response(record, headers)


def _methods(request: Request, named: str) -> list[str]:
    """What a path takes: of all its routes, where Starlette names those of the first one, and HEAD where there is GET."""
    described = request.app.openapi()["paths"].get(route_path(request.scope), {})
    methods = {method.strip() for method in named.split(",")} | {method.upper() for method in described}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
    return _problem_response(plain_problem(422, detail, request.scope["path"], context_of(request.scope).id), {})


_DETAILS = {
    404: "there is nothing at this path; GET /docs lists what there is",
    405: "this path does not take this method; GET /docs lists what there is",
}


def _problem_response(record: dict[str, object], headers: Mapping[str, str]) -> Response:
    return Response(encode_problem(record), status_code=int(str(record["status"])), headers=dict(headers), media_type=PROBLEM_TYPE)
