"""What OpenAPI says about bodies and errors that FastAPI cannot see, because the routes read them themselves.

What it allows is accepted: a client made from it, or a gateway that checks requests by it, meets no surprise. Only bytes that are no
picture cannot be told apart by a schema.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from proscale.formats.files import FORMATS
from proscale.results import ModelInfo
from proscale_service.errors import ServiceError, all_errors
from proscale_service.responses import EXAMPLE_ID, Problem

LABEL = "Label"
"""Schema of a label: those of the served model, once there is one."""
MODEL = "ModelName"
"""Schema of a model's name: those of the served models, once there are some."""

_MEDIA_TYPES = "image/png, image/jpeg, image/webp, image/tiff, image/bmp, image/gif, application/octet-stream"
_BINARY = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
_FILE = _BINARY | {"description": "A picture's file: JPEG, PNG, WebP, TIFF, BMP, GIF ..."}
_FILES = {"type": "array", "minItems": 1, "items": _BINARY, "description": "Pictures' files: JPEG, PNG, WebP, TIFF, BMP, GIF ..."}
_BASE64 = {
    "type": "object",
    "properties": {
        "base64": {
            "type": "string",
            "format": "byte",
            "contentEncoding": "base64",
            "pattern": r"^(data:[^,]*;base64,)?[A-Za-z0-9+/_-]+={0,2}$",
            "description": "The picture's file in base64 or base64url, padded or not; also as a data URL.",
        }
    },
    "required": ["base64"],
    "additionalProperties": False,
}
_EXAMPLE_PICTURE = {  # a violet disc, 32x24, PNG
    "base64": "iVBORw0KGgoAAAANSUhEUgAAACAAAAAYAQMAAAChnW13AAAABlBMVEXm4etaKIJOcI7GAAAAM0lEQVR42mNgwA/YPzAwMXBwMDAxCLAwMDEoMDEwMTAw4CMe/"
    "GNgYvjwh4GJ4ccP3OYCACh9BxAwATdkAAAAAElFTkSuQmCC"
}
_OVERRIDDEN = " What a body says counts before the query."


FILE_TYPES = sorted({each.media_type for each in FORMATS.values()} - {"application/json"} | {"application/zip", "multipart/mixed"})
"""Media types of answers in other formats than JSON."""


def picture_request(parameters: type[BaseModel], *, many: bool = False, instead: Sequence[str] = ()) -> dict[str, Any]:
    """`openapi_extra` of a route that takes pictures in the three ways.

    Args:
        parameters: the model of its parameters; flat, so that its schema needs no definitions.
        many: several pictures, not as a raw body.
        instead: parameters that together may stand in the place of a picture, in JSON.
    """
    fields = _fields(parameters)
    size = {name: fields.pop(name) for name in instead}
    name = "images" if many else "image"
    file = _FILES if many else _FILE
    picture = {"type": "array", "minItems": 1, "items": _BASE64} if many else _BASE64
    example = {name: [_EXAMPLE_PICTURE] if many else _EXAMPLE_PICTURE, "task": ["panoptic"]}
    nullable = {field: _as_json(schema) for field, schema in fields.items()}
    as_json = _object({name: picture} | nullable, [name])
    if instead:
        as_json = {"oneOf": [as_json, _object(size | {name: {"type": "null"}} | nullable, list(size))]}
    content: dict[str, Any] = {
        "multipart/form-data": {
            "schema": _object({"image": file} | fields, ["image"]),
            "encoding": {"image": {"contentType": _MEDIA_TYPES}},
        },
        "application/json": {"schema": as_json, "example": example},
    }
    if not many:
        content |= {kind: {"schema": _BINARY} for kind in ("image/*", "application/octet-stream")}
    return {"requestBody": {"required": True, "content": content}, "parameters": _query(fields, note=_OVERRIDDEN)}


def query_request(parameters: type[BaseModel], required: Sequence[str]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes parameters in the query alone."""
    return {"parameters": _query(_fields(parameters), required)}


def _fields(parameters: type[BaseModel]) -> dict[str, dict[str, Any]]:
    fields = {name: _simple(schema) for name, schema in parameters.model_json_schema()["properties"].items()}
    if "labels" in fields:
        fields["labels"]["items"] = {"$ref": f"#/components/schemas/{LABEL}"}
    fields["model"] = {"$ref": f"#/components/schemas/{MODEL}", "description": fields["model"]["description"]}
    return fields


def _query(fields: dict[str, dict[str, Any]], required: Sequence[str] = (), note: str = "") -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "allowEmptyValue": name not in required,
            "description": schema["description"] + note,
            "schema": _without(schema, "description"),
        }
        for name, schema in fields.items()
    ]


def problems(*statuses: int, guarded: bool = True) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: with these errors, those that any route has, and those of API keys where they are asked for."""
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    return {
        status: {"description": f"{MEANING[status]}: {', '.join(reasons(status))}", "headers": _headers(status), "content": content}
        for status in sorted({*statuses, *_ANYWHERE, *(_GUARDED if guarded else ())})
    }


FILES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Segments, as JSON or in the asked format", "content": {kind: {"schema": _BINARY} for kind in FILE_TYPES}}
}
"""`responses` of a route that answers in other formats than JSON too."""

MEANING = {
    400: "The body is empty or not what its content type says",
    401: "The API key is missing or unknown",
    403: "The API key does not have the right to do this",
    404: "No such model is served here",
    406: "Accept-Encoding forbids both gzip and no compression",
    408: "The body came too slowly",
    409: "The model cannot be changed now",
    413: "Too many bytes or pixels",
    415: "Content type or encoding is not supported",
    422: "Not a picture, a broken one, or a wrong parameter",
    429: "Too much work is waiting, or the API key's quota is used up; see Retry-After",
    500: "A fault of the service",
    503: "Loading, shutting down, or no worker can compute; see Retry-After",
    504: "Not done by the deadline",
    507: "The model would not fit into memory",
}
_ANYWHERE = (406, 500)
_GUARDED = (401, 403, 429)


def reasons(status: int) -> list[str]:
    """The last parts of `type` that problems of a status may have."""
    return sorted({error.reason.replace("_", "-") for error in all_errors(ServiceError) if error.status == status})


def _headers(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "X-Request-Id": {"description": "Id of the request, also in the log.", "schema": {"type": "string"}, "example": EXAMPLE_ID}
    }
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
    if status == 401:
        headers["WWW-Authenticate"] = {"description": "How to send the key.", "schema": {"type": "string"}}
    return headers


def complete(schema: dict[str, Any], infos: Sequence[ModelInfo]) -> dict[str, Any]:
    """A document with what routes refer to: problems, models and labels. Args: infos: of the served models; empty: not known yet."""
    components = schema.get("components", {})
    label: dict[str, Any] = {"type": "string", "minLength": 1, "description": "A label of the served model; see `GET /models`."}
    model: dict[str, Any] = {"type": "string", "minLength": 1, "description": "A served model; see `GET /models`."}
    if infos:
        label["enum"] = list(dict.fromkeys(category.name for info in infos for category in info.categories))
        model["enum"] = [info.name for info in infos]
    schemas = components.get("schemas", {}) | {Problem.__name__: Problem.model_json_schema(), LABEL: label, MODEL: model}
    return schema | {"components": components | {"schemas": schemas}}


def limit_pictures(schema: dict[str, Any], most: int) -> None:
    """Write into a document how many pictures a batch may have."""
    for content in schema["paths"]["/segment/batch"]["post"]["requestBody"]["content"].values():
        for name in {"image", "images"} & content["schema"]["properties"].keys():
            content["schema"]["properties"][name]["maxItems"] = most


def _as_json(schema: dict[str, Any]) -> dict[str, Any]:
    """In JSON one of several may stand without its brackets, and null says that something is left out."""
    single = [schema["items"]] if "items" in schema else []
    return {"anyOf": [_without(schema, "description"), *single, {"type": "null"}], "description": schema["description"]}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _simple(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without null and default: forms would fill them in, and what is meant by them is to leave it out."""
    chosen = next((each for each in schema.get("anyOf", []) if each.get("type") != "null"), schema)
    return _without(chosen, "default", "title") | {"description": schema["description"]}


def _without(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in names}
