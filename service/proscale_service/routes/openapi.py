"""What OpenAPI says about bodies that FastAPI cannot see, because the routes read them themselves."""

from typing import Any

from pydantic import BaseModel

from proscale.formats.files import FORMATS
from proscale_service.responses import Problem

_BINARY = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
_FILE = _BINARY | {"description": "A JPEG, PNG, WebP, TIFF, BMP or GIF file."}
_FILES = {"type": "array", "items": _BINARY, "description": "JPEG, PNG, WebP, TIFF, BMP or GIF files."}
_BASE64 = {
    "type": "object",
    "properties": {"base64": {"type": "string", "contentEncoding": "base64", "description": "The picture's file, base64."}},
    "required": ["base64"],
    "additionalProperties": False,
}


FILE_TYPES = sorted({each.media_type for each in FORMATS.values()} - {"application/json"} | {"application/zip"})
"""Media types of answers in other formats than JSON."""


def picture_request(parameters: type[BaseModel], *, many: bool = False, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that takes pictures in the three ways.

    Args:
        parameters: the model of its parameters; flat, so that its schema needs no definitions.
        many: several pictures, not as a raw body.
        required: whether there must be a picture.
    """
    fields = {name: _simple(schema) for name, schema in parameters.model_json_schema()["properties"].items()}
    name = "images" if many else "image"
    file = _FILES if many else _FILE
    picture = {"type": "array", "items": _BASE64} if many else _BASE64
    example = {name: [{"base64": "..."}] if many else {"base64": "..."}, "task": ["panoptic"]}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": _object({"image": file} | fields, ["image"] if required else [])},
        "application/json": {"schema": _object({name: picture} | fields, [name] if required else []), "example": example},
    }
    if not many:
        content |= {kind: {"schema": _BINARY} for kind in ("image/*", "application/octet-stream")}
    query = [
        {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": _without(schema, "description")}
        for name, schema in fields.items()
    ]
    return {"requestBody": {"required": required, "content": content}, "parameters": query}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may answer with these errors."""
    content = {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    return {status: {"description": _MEANING[status], "content": content} for status in statuses}


FILES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Segments, as JSON or in the asked format", "content": {kind: {"schema": _BINARY} for kind in FILE_TYPES}}
}
"""`responses` of a route that answers in other formats than JSON too."""

_MEANING = {
    400: "The body is empty or not what its content type says",
    408: "The body came too slowly",
    413: "Too many bytes or pixels",
    415: "Content type or encoding not taken",
    422: "Not a picture, a broken one, or a wrong parameter",
    429: "Too much work is waiting; see Retry-After",
    500: "The service's own fault",
    503: "Loading or shutting down; see Retry-After",
    504: "Not done by the deadline",
}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _simple(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without null and default: forms would fill them in, and what is meant by them is to leave it out."""
    chosen = next((each for each in schema.get("anyOf", []) if each.get("type") != "null"), schema)
    return _without(chosen, "default", "title") | {"description": schema["description"]}


def _without(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in names}
