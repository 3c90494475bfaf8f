"""The Open Inference Protocol (v2, REST) with its binary extension, as KServe and `tritonclient.http` speak it.

One input `IMAGE`, BYTES, of shape [N] or [N, 1]: encoded pictures; in JSON, which holds no bytes, as base64. One output `SEGMENTS`, BYTES,
of the same shape: the JSON of POST /segment for each. The request's `parameters` are those of POST /segment.
"""

import struct
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from proscale import __version__
from proscale.formats.geojson import dumps
from proscale_service.context import context_of
from proscale_service.dialects.asking import body_of, in_form, json_object, pipeline_of, segment
from proscale_service.errors import InvalidParameter, MalformedRequest, ServiceError, UnknownModel
from proscale_service.pipeline import SegmentedPicture
from proscale_service.rendering import segment_response
from proscale_service.responses import Cleaning
from proscale_service.routes.base64_text import from_base64

PATH = "/v2"
INPUT, OUTPUT, VERSION = "IMAGE", "SEGMENTS", "1"
LENGTH_HEADER = "inference-header-content-length"
_PROTOCOLS_OWN = {
    *("binary_data_output", "sequence_id", "sequence_start", "sequence_end"),
    *("priority", "timeout", "triton_enable_empty_final_response"),
}
"""Parameters of a request that are not for the model."""

router = APIRouter(prefix=PATH, include_in_schema=False)


def error_body(error: ServiceError) -> dict[str, Any]:
    """The dialect's JSON of an error."""
    return {"error": error.detail}


@router.get("")
@router.get("/")
async def server_metadata() -> dict[str, Any]:
    """What this server is."""
    return {"name": "proscale", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Whether the server runs."""
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> JSONResponse:
    """Whether pictures can be computed."""
    is_ready = pipeline_of(request).lifecycle.state == "ready"
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
@in_form(error_body)
async def model_metadata(request: Request) -> Response:
    """Inputs and outputs of the model."""
    name = _check_model(request)
    tensor = {"datatype": "BYTES", "shape": [-1]}
    return JSONResponse(
        {
            "name": name,
            "versions": [VERSION],
            "platform": "proscale",
            "inputs": [{"name": INPUT} | tensor],
            "outputs": [{"name": OUTPUT} | tensor],
        }
    )


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
@in_form(error_body)
async def model_ready(request: Request) -> Response:
    """Whether the model can compute."""
    return JSONResponse({"name": _check_model(request), "ready": True})


@router.post("/models/{name}/infer")
@router.post("/models/{name}/versions/{version}/infer")
@in_form(error_body)
async def infer(request: Request) -> Response:
    """Segments of N pictures."""
    name = _check_model(request)
    body = await body_of(request)
    in_pool = pipeline_of(request).in_pool
    head, shape, pictures = await in_pool(_read, body, request.headers.get(LENGTH_HEADER), pipeline_of(request).settings.max_items)
    parameters = _parameters(head, "parameters")
    binary = _wants_binary(head, parameters)
    asked = {key: value for key, value in parameters.items() if key not in _PROTOCOLS_OWN}
    done = await segment(request, pictures, asked | {"model": name})
    answer = {"model_name": name, "model_version": VERSION, "id": head.get("id") or context_of(request.scope).id}
    content, length = await in_pool(_write, answer, shape, done, context_of(request.scope).id, binary)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={LENGTH_HEADER: str(length)})


def _check_model(request: Request) -> str:
    name, version = request.path_params["name"], request.path_params.get("version", VERSION)
    served = pipeline_of(request).models.find(name).name
    if version != VERSION:
        raise UnknownModel(f"there is no version {version[:20]!r} of {served!r} here, only {VERSION}")
    return served


def _read(body: bytes, header_length: str | None, most: int) -> tuple[dict[str, Any], list[int], list[bytes]]:
    """The request's JSON, the input's shape, and its pictures."""
    if header_length is None:
        text, binary = body, b""
    elif header_length.isdecimal() and int(header_length) <= len(body):
        text, binary = body[: int(header_length)], body[int(header_length) :]
    else:
        raise MalformedRequest(
            f"{LENGTH_HEADER}: must be the length of the JSON in front of the binary data, at most the body's {len(body)}"
        )
    head = json_object(text)
    if not isinstance(head.get("id", ""), str):
        raise MalformedRequest("id: must be a string")
    inputs = head.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict) or inputs[0].get("name") != INPUT:
        raise MalformedRequest(f"inputs: must be one tensor called {INPUT}")
    tensor = inputs[0]
    shape = tensor.get("shape")
    if tensor.get("datatype") != "BYTES":
        raise MalformedRequest(f"{INPUT}: its datatype must be BYTES, one element per encoded picture")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or shape[1:] not in ([], [1]) or not _is_count(shape[0]):
        raise MalformedRequest(f"{INPUT}: its shape must be [N] or [N, 1], N the number of pictures")
    if shape[0] > most:
        raise MalformedRequest(f"{INPUT}: at most {most} pictures in one request")
    size = _parameters(tensor, f"{INPUT}: its parameters").get("binary_data_size")
    pictures = _from_json(tensor.get("data")) if size is None else _from_binary(binary, size)
    if len(pictures) != shape[0]:
        raise MalformedRequest(f"{INPUT}: its shape says {shape[0]} pictures, its data holds {len(pictures)}")
    return head, shape, pictures


def _parameters(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """An object of the protocol's free parameters; one that is left out is empty."""
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise MalformedRequest(f"{name}: must be an object")
    return parameters


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _from_json(data: Any) -> list[bytes]:
    if not isinstance(data, list):
        raise MalformedRequest(f"{INPUT}: its data must be a list of pictures as base64")
    flat = [item for row in data for item in (row if isinstance(row, list) else [row])]
    if not all(isinstance(item, str) for item in flat):
        raise MalformedRequest(f"{INPUT}: its data must be a list of pictures as base64")
    return [from_base64(item) for item in flat]


def _from_binary(binary: bytes, size: Any) -> list[bytes]:
    """Elements of a BYTES tensor: each has its length in front, 4 bytes, little-endian."""
    if not _is_count(size) or size != len(binary):
        raise MalformedRequest(f"{INPUT}: binary_data_size is {size!r}, but {len(binary)} bytes follow the JSON")
    pictures, position = [], 0
    while position < len(binary):
        end = position + 4
        length = struct.unpack_from("<I", binary, position)[0] if end <= len(binary) else len(binary)
        if end + length > len(binary):
            raise MalformedRequest(f"{INPUT}: an element says {length} bytes and is cut off")
        pictures.append(binary[end : end + length])
        position = end + length
    return pictures


def _wants_binary(head: dict[str, Any], parameters: dict[str, Any]) -> bool:
    outputs = head.get("outputs")
    if not outputs:
        return parameters.get("binary_data_output") is True
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict) or outputs[0].get("name") != OUTPUT:
        raise InvalidParameter(f"outputs: there is one, {OUTPUT}")
    wish = _parameters(outputs[0], f"{OUTPUT}: its parameters").get("binary_data", parameters.get("binary_data_output", False))
    return bool(wish)


def _write(
    answer: dict[str, Any], shape: list[int], done: Sequence[tuple[SegmentedPicture, Cleaning | None]], request_id: str, binary: bool
) -> tuple[bytes, int | None]:
    """The body, and the length of the JSON in front of binary data; None: all of it is JSON."""
    texts = [segment_response(picture, request_id, cleaning).model_dump_json() for picture, cleaning in done]
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "BYTES", "shape": shape}
    if not binary:
        return dumps(answer | {"outputs": [output | {"data": texts}]}), None
    elements = b"".join(struct.pack("<I", len(data)) + data for data in (text.encode() for text in texts))
    head = dumps(answer | {"outputs": [output | {"parameters": {"binary_data_size": len(elements)}}]})
    return head + elements, len(head)
