"""The service in nuclio's clothes, for a self-hosted CVAT: the two paths of nuclio's dashboard that CVAT calls, and a function's own port.

CVAT lists functions at GET /api/functions, reads one at GET /api/functions/NAME, and runs it at POST /api/function_invocations with the
header `x-nuclio-function-name`, or at POST / where it calls functions directly. Errors have nuclio's form, `{"error": ...}`.
"""

import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proscale.rle import decode
from proscale_service.client import AsyncClient, Segment
from proscale_service.errors import ServiceError

NAME = "proscale"
FUNCTION_HEADER = "x-nuclio-function-name"


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def nuclio_app(service: AsyncClient, port: int, task: str | None = None) -> Starlette:
    """The application.

    Args:
        port: that this application itself listens on; it is sent to CVAT.
        task: panoptic, instance or semantic; None: the model's own.
        service: is closed when the application stops.
    """

    async def functions(request: Request) -> Response:
        return JSONResponse({NAME: await _function(service, port)})

    async def one(request: Request) -> Response:
        _check_name(request.path_params["name"])
        return JSONResponse(await _function(service, port))

    async def invoke(request: Request) -> Response:
        _check_name(request.headers.get(FUNCTION_HEADER, NAME))
        picture, threshold = _asked(await request.body())
        answer = await service.segment(picture, task=task, threshold=threshold)
        return JSONResponse([_detection(each) for each in answer.segments if each.area and each.score >= (threshold or 0)])

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "UP" if await service.ready() else "DOWN"})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.close()

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/api/functions", _in_form(functions)),
            Route("/api/functions/{name}", _in_form(one)),
            Route("/api/function_invocations", _in_form(invoke), methods=["POST"]),
            Route("/", _in_form(invoke), methods=["POST"]),
            Route("/health", health),
        ],
    )


async def _function(service: AsyncClient, port: int) -> dict[str, Any]:
    model = (await service.models())[0]
    names = dict.fromkeys(category["name"] for category in model["categories"])
    spec = [{"id": number, "name": name, "type": "mask", "attributes": []} for number, name in enumerate(names)]
    annotations = {"name": f"PRO-SCALE: {model['name']}", "type": "detector", "version": "1", "spec": json.dumps(spec)}
    return {
        "metadata": {"name": NAME, "namespace": "nuclio", "labels": {"nuclio.io/project-name": "cvat"}, "annotations": annotations},
        "spec": {"description": f"{model['encoder']} on {model['backbone']}", "handler": "main:handler", "runtime": "python"},
        "status": {"state": "ready", "httpPort": port},
    }


def _check_name(name: str) -> None:
    if name != NAME:
        raise _RefusedError(404, f"no function {name!r} here; there is {NAME!r}")


def _asked(body: bytes) -> tuple[bytes, float | None]:
    try:
        values = json.loads(body)
        picture = base64.b64decode(values["image"], validate=True)
        threshold = values.get("threshold")
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise _RefusedError(400, 'the body must be JSON with the picture as base64: {"image": "...", "threshold": 0.5}') from error
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1):
        raise _RefusedError(400, f"threshold: must be a number from 0 to 1 (it is {threshold!r})")
    return picture, threshold


def _detection(segment: Segment) -> dict[str, Any]:
    """One segment: the outline for tools that show it, and the box's pixels, row by row, with the box behind them."""
    x, y, width, height = segment.bbox
    crop = decode(segment.segmentation, segment.bbox).astype(np.uint8).ravel().tolist()
    ring = max(segment.polygons, key=lambda polygon: len(polygon.exterior)).exterior
    return {
        "confidence": f"{segment.score:.6f}",
        "label": segment.label,
        "type": "mask",
        "points": ring.ravel().tolist(),
        "mask": [*crop, x, y, x + width - 1, y + height - 1],
    }


def _in_form(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def wrapped(request: Request) -> Response:
        try:
            return await route(request)
        except _RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)
        except ServiceError as error:
            headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
            return JSONResponse({"error": error.detail}, error.status, headers)
        except httpx.TransportError as error:
            return JSONResponse({"error": f"the segmentation service does not answer: {error}"}, 503)

    return wrapped
