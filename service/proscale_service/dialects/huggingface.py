"""The image-segmentation task of Hugging Face's Inference API, at POST /hf: `InferenceClient(model=".../hf").image_segmentation(...)`.

With several models, POST /hf/NAME asks one of them.

The body is a picture, or `{"inputs": base64, "parameters": {...}}`; parameters may also stand in the address.
The answer is a list of label, score and a black-and-white PNG.
"""

import base64
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from proscale.formats.mask_png import mask_png
from proscale.results import Segmentation
from proscale_service.dialects.asking import body_of, in_form, in_names, json_object, pipeline_of, segment
from proscale_service.errors import InvalidParameter, MalformedRequest, ServiceError
from proscale_service.routes.base64_text import from_base64

PATH = "/hf"
PARAMETERS = {
    "threshold": "threshold",
    "mask_threshold": "mask_threshold",
    "overlap_mask_area_threshold": "overlap_threshold",
    "subtask": "task",
}
"""From the task's names to ours."""

router = APIRouter(include_in_schema=False)


def error_body(error: ServiceError) -> dict[str, Any]:
    """The dialect's JSON of an error."""
    return {"error": in_names(error.detail, {ours: theirs for theirs, ours in PARAMETERS.items()})}


@router.post(PATH)
@router.post(PATH + "/{name}")
@in_form(error_body)
async def image_segmentation(request: Request) -> Response:
    """Segments of one picture."""
    body = await body_of(request)
    values = _ours(request.query_params, "query")
    if request.headers.get("content-type", "").startswith("application/json"):
        body, in_body = await pipeline_of(request).in_pool(_from_json, body)
        values |= in_body
    if not body:
        raise MalformedRequest("there is no picture: send its bytes, or JSON with `inputs`, the picture as base64")
    ((picture, _),) = await segment(request, [body], values | {"model": request.path_params.get("name")})
    (result,) = picture.computed.prediction.results.values()
    return JSONResponse(await pipeline_of(request).in_pool(_segments, result))


def _from_json(text: bytes) -> tuple[bytes, dict[str, Any]]:
    values = json_object(text)
    inputs, parameters = values.get("inputs"), values.get("parameters") or {}
    if not isinstance(inputs, str):
        raise MalformedRequest("inputs: must be the picture as base64")
    if not isinstance(parameters, dict):
        raise MalformedRequest("parameters: must be an object")
    return from_base64(inputs), _ours(parameters, "parameters")


def _ours(parameters: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The task's parameters by our names. Raises InvalidParameter: there are others in `place`."""
    if unknown := sorted(name for name in parameters.keys() - PARAMETERS.keys() if parameters[name] is not None):
        raise InvalidParameter(f"{place}: unknown {', '.join(unknown)[:200]}; known are {', '.join(PARAMETERS)}")
    return {PARAMETERS[name]: value for name, value in parameters.items() if name in PARAMETERS}


def _segments(result: Segmentation) -> list[dict[str, Any]]:
    return [
        {"label": each.label, "score": round(each.score, 6), "mask": base64.b64encode(mask_png(each, bits=8)).decode()}
        for each in result.segments
    ]
