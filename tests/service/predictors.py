"""A real, tiny predictor: what is bright is a blob, the rest is ground; tests can tell its predictions from the picture."""

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.errors import DeviceError, ImageError, ParameterError
from proscale.geometry import ResizedPicture
from proscale.labels import Category
from proscale.results import ModelInfo, Plan, Prediction, Segment, Segmentation, SegmentationOptions
from proscale.rle import encode, measure
from proscale.tiles import Tiling

from .pictures import encoded

BLOB, GROUND = Category(7, "blob", True), Category(9, "ground", False)
CELL = 32


class ThresholdPredictor:
    """Records its batches; `gate` holds it up, `delay_s` slows it, pictures with certain colours in their corner break it."""

    POISON = (255, 0, 255)
    REFUSED = (255, 255, 0)
    FATAL = (0, 255, 255)

    def __init__(self, delay_s: float = 0.0) -> None:
        self.info = ModelInfo("threshold", "proscale", (1, 1, 1), "none", (BLOB, GROUND), "memory")
        self.batches: list[list[tuple[int, int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.delay_s = delay_s
        self.calls = 0
        self.threads: set[str] = set()

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        padded = (-(-height // CELL) * CELL, -(-width // CELL) * CELL)
        return Plan((height, width), padded, flops=3 * padded[0] * padded[1], baseline_flops=4 * padded[0] * padded[1])

    def plan_joint(self, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        raise ParameterError("tile: joint is not for this model; take windows that are merged: tile=auto")

    def resize(self, image: NDArray[np.uint8], plan: Plan | None = None) -> ResizedPicture:
        return ResizedPicture(image, (image.shape[0], image.shape[1]))

    def segment_resized(
        self,
        pictures: Sequence[ResizedPicture],
        options: Sequence[SegmentationOptions],
        plans: Sequence[Plan],
        resize_seconds: float = 0.0,
    ) -> list[Prediction]:
        images = [picture.pixels for picture in pictures]
        self.calls += 1
        assert self.gate.wait(120)
        time.sleep(self.delay_s)
        self.threads.add(threading.current_thread().name)
        self.batches.append([image.shape[:2] for image in images])
        padded = {plan.padded for plan in plans}
        assert len(padded) == 1, f"padded sizes mixed: {padded}"
        for image in images:
            if tuple(image[0, 0]) == self.POISON:
                raise RuntimeError("poison")
            if tuple(image[0, 0]) == self.REFUSED:
                raise ImageError("this picture is refused")
            if tuple(image[0, 0]) == self.FATAL:
                raise DeviceError("cuda:0 failed")
        return [self._predict(*each) for each in zip(images, options, plans, strict=True)]

    def _predict(self, image: NDArray[np.uint8], options: SegmentationOptions, plan: Plan) -> Prediction:
        threshold = 0.5 if options.mask_threshold is None else options.mask_threshold
        bright = image.mean(axis=2) > threshold * 255
        segments = []  # type: ignore[var-annotated]
        for category, mask in ((BLOB, bright), (GROUND, ~bright)):
            if mask.any() and (options.labels is None or category.name in options.labels):
                rle = encode(mask)
                area, bbox = measure(rle)
                score = float(area / mask.size)
                segments.append(Segment(len(segments) + 1, category.id, category.name, category.isthing, score, bbox, area, rle))
        kept = tuple(segments[: options.max_segments])
        size = (image.shape[0], image.shape[1])
        timings = {"preprocess": 0.001, "infer": 0.002, "postprocess": 0.003, "encode": 0.004}
        confidence = encoded(np.where(bright, 200, 100).astype(np.uint8)) if options.confidence else None
        results = {task: Segmentation(task, size, kept, confidence if task == "semantic" else None) for task in options.tasks}
        return Prediction(results, plan, timings)
