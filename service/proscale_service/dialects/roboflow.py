"""Roboflow's instance segmentation, at POST /infer/instance_segmentation, as `supervision.Detections.from_inference` reads it.

Masks are COCO RLE (`response_mask_format: "rle"`) or, as there by default, `points`: one outline, which holds neither holes nor several
pieces, so that the largest piece's outline is given.
"""

import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from proscale.formats.polygons import signed_area, trace
from proscale.results import Segment
from proscale_service.context import context_of
from proscale_service.dialects.asking import body_of, in_form, in_names, json_object, pipeline_of, segment
from proscale_service.errors import InvalidParameter, MalformedRequest, ServiceError, UnknownModel
from proscale_service.pipeline import SegmentedPicture
from proscale_service.routes.base64_text import from_base64

PATH = "/infer/instance_segmentation"
MASK_FORMATS = ("polygon", "rle")
NAMES = {"threshold": "confidence", "labels": "class_filter", "model": "model_id"}
"""From our names of parameters to Roboflow's."""

router = APIRouter(include_in_schema=False)


def error_body(error: ServiceError) -> dict[str, Any]:
    """The dialect's JSON of an error."""
    return {"message": in_names(error.detail, NAMES)}


@router.post(PATH)
@in_form(error_body)
async def instance_segmentation(request: Request) -> Response:
    """Instances of one picture, or of a list of them."""
    values = await pipeline_of(request).in_pool(json_object, await body_of(request))
    model_id = values.get("model_id")
    try:
        model = pipeline_of(request).models.find(None if model_id is None else str(model_id))
    except UnknownModel as error:
        raise InvalidParameter(error.detail) from error
    mask_format = values.get("response_mask_format") or "polygon"
    if mask_format not in MASK_FORMATS:
        raise InvalidParameter(f"response_mask_format: must be one of {', '.join(MASK_FORMATS)}")
    many = isinstance(values.get("image"), list)
    images = values["image"] if many else [values.get("image")]
    if not 0 < len(images) <= pipeline_of(request).settings.max_items:
        raise MalformedRequest(f"image: 1 to {pipeline_of(request).settings.max_items} pictures in one request")
    pictures = await pipeline_of(request).in_pool(lambda: [_picture(image) for image in images])
    asked = {"task": "instance", "threshold": values.get("confidence"), "labels": values.get("class_filter") or None}
    asked["model"] = model.name
    done = await segment(request, pictures, asked)
    seed = context_of(request.scope).id
    answers = [await pipeline_of(request).in_pool(_answer, each, mask_format, f"{seed}/{i}") for i, (each, _) in enumerate(done)]
    return JSONResponse(answers if many else answers[0])


def _picture(image: Any) -> bytes:
    if not isinstance(image, dict) or image.get("type") != "base64" or not isinstance(image.get("value"), str):
        raise MalformedRequest('image: must be {"type": "base64", "value": the picture as base64}')
    return from_base64(image["value"])


def _answer(picture: SegmentedPicture, mask_format: str, seed: str) -> dict[str, Any]:
    segments = picture.computed.prediction.results["instance"].segments
    return {
        "inference_id": seed.partition("/")[0],
        "image": {"width": picture.header.width, "height": picture.header.height},
        # One entry without a mask would make supervision drop all masks.
        "predictions": [_prediction(each, mask_format, seed) for each in segments if each.area],
    }


def _prediction(segment: Segment, mask_format: str, seed: str) -> dict[str, Any]:
    x, y, width, height = segment.bbox
    found: dict[str, Any] = {
        "x": x + width / 2,
        "y": y + height / 2,
        "width": width,
        "height": height,
        "confidence": round(segment.score, 6),
        "class": segment.label,
        "class_id": segment.category_id,
        "detection_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}/{segment.id}")),
        "mask_format": mask_format,
    }
    if mask_format == "rle":
        return found | {"rle": {"size": list(segment.segmentation.size), "counts": segment.segmentation.counts}}
    largest = max(trace(segment.segmentation), key=lambda polygon: signed_area(polygon.exterior))
    return found | {"points": [{"x": x, "y": y} for x, y in largest.exterior.tolist()]}
