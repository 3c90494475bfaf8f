"""An ML backend for Label Studio: GET /health, POST /setup, /validate, /predict and /webhook. Errors are `{"error": ...}`."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proscale_service.annotation.label_config import ConfigError, Kind, read_config
from proscale_service.annotation.label_studio_tasks import Predictions, Source, Wanted
from proscale_service.client import AsyncClient
from proscale_service.errors import ServiceError


class _MalformedError(ValueError):
    pass


def label_studio_app(service: AsyncClient, source: Source, wanted: Wanted, preferred: Kind | None = None) -> Starlette:
    """The application. Args: preferred: kind of region, where a configuration has tags for several.

    `service` and `source` are closed when the application stops.
    """
    predictions = Predictions(service, source, wanted)

    async def model() -> tuple[str, list[str]]:
        found = (await service.models())[0]
        return found["name"], [category["name"] for category in found["categories"]]

    async def health(request: Request) -> Response:
        ready = await service.ready()
        return JSONResponse({"status": "UP" if ready else "DOWN", "model_class": "PROSCALE"}, 200 if ready else 503)

    async def setup(request: Request) -> Response:
        body = await _object(request)
        version, labels = await model()
        read_config(_text(body, "schema"), labels, preferred)
        return JSONResponse({"model_version": version})

    async def validate(request: Request) -> Response:
        body = await _object(request)
        read_config(_text(body, "config"), (await model())[1], preferred)
        return JSONResponse({"status": "ok"})

    async def predict(request: Request) -> Response:
        body = await _object(request)
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise _MalformedError("tasks: must be a list of tasks")
        version, labels = await model()
        target = read_config(_text(body, "label_config"), labels, preferred)
        results = await predictions.of(tasks, target, version)
        return JSONResponse({"results": results.predictions, "model_version": version, "errors": results.errors})

    async def webhook(request: Request) -> Response:
        # Events about annotations; nothing is trained here.
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await predictions.close()
        await source.close()
        await service.close()

    routes: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
        "/setup": setup,
        "/validate": validate,
        "/predict": predict,
        "/webhook": webhook,
    }
    posts = [Route(path, _in_form(route), methods=["POST"]) for path, route in routes.items()]
    return Starlette(routes=[Route("/health", health), Route("/", health), *posts], lifespan=lifespan)


async def _object(request: Request) -> dict[str, Any]:
    try:
        values = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise _MalformedError(f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise _MalformedError("the body must be a JSON object")
    return values


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _MalformedError(f"{name}: must be the labelling configuration, as XML")
    return value


def _in_form(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def wrapped(request: Request) -> Response:
        try:
            return await route(request)
        except (_MalformedError, ConfigError) as error:
            return JSONResponse({"error": str(error)}, 400)
        except ServiceError as error:
            return JSONResponse({"error": error.detail}, error.status)
        except httpx.TransportError as error:
            return JSONResponse({"error": f"the segmentation service does not answer: {error}"}, 503)

    return wrapped
