"""The agent function for CVAT: `cvat-cli function create-native` and `run-agent` import this module and call `create`.

cvat-cli function create-native PRO-SCALE --function-module proscale_service.annotation.cvat_function -p url=str:http://127.0.0.1:8000
cvat-cli function run-agent ID --function-module proscale_service.annotation.cvat_function -p url=str:http://127.0.0.1:8000
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import PIL.Image

from proscale_service.annotation.shapes import cvat_points, outlines
from proscale_service.client import Client, Segment

URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "PROSCALE_API_KEY"
SIMPLIFY = 1.0
"""Pixels: an exact outline has a corner at every step, which nobody can edit."""


class Detector:
    """A detection function as `cvat_sdk.auto_annotation` wants it, around a client of the service."""

    def __init__(self, client: Client, task: str | None = None, simplify: float = SIMPLIFY) -> None:
        """Args: task: panoptic, instance or semantic; None: the model's own; simplify: tolerance of polygons in pixels.

        Raises:
            ServiceError, httpx.TransportError: the service cannot be asked what it knows.
        """
        self._client, self._task, self._simplify = client, task, simplify
        names = dict.fromkeys(category["name"] for category in client.models()[0]["categories"])
        self._ids: Mapping[str, int] = {name: number for number, name in enumerate(names)}
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(name, number, type="mask") for name, number in self._ids.items()]
        )

    def close(self) -> None:
        """Close the connections to the service."""
        self._client.close()

    def detect(self, context: cvataa.DetectionFunctionContext, image: PIL.Image.Image) -> Sequence[Any]:
        """Shapes of one frame: masks, or polygons where the context asks for them."""
        answer = self._client.segment(image, task=self._task, threshold=context.conf_threshold)
        least = context.conf_threshold or 0.0
        return [
            shape
            for segment in answer.segments
            if segment.score >= least and segment.area and segment.label in self._ids
            for shape in self._shapes(segment, context.conv_mask_to_poly)
        ]

    def _shapes(self, segment: Segment, as_polygons: bool) -> list[Any]:
        number = self._ids[segment.label]
        if not as_polygons:
            return [cvataa.mask(number, cvat_points(segment))]
        return [cvataa.polygon(number, ring.ravel().tolist()) for ring in outlines(segment.segmentation, self._simplify)]


def create(url: str = URL, task: str = "", simplify: float = SIMPLIFY, api_key: str = "") -> Detector:
    """What cvat-cli calls; every argument is a `-p NAME=TYPE:VALUE`.

    Args:
        url: of the service.
        task: panoptic, instance or semantic; empty: the model's own.
        simplify: tolerance of polygons in pixels.
        api_key: of the service; better given as PROSCALE_API_KEY, which no list of processes shows.
    """
    return Detector(Client(url, api_key=api_key or os.environ.get(KEY_VARIABLE) or None), task or None, simplify)
