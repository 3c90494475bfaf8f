"""Results of a model in this process."""

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from proscale.config import Task
from proscale.datasets import AnnotatedPicture
from proscale.evaluation.class_matching import ClassMatch
from proscale.evaluation.picture_reading import read_rgb
from proscale.evaluation.predicted import Predicted, predicted_from
from proscale.results import SegmentationOptions

if TYPE_CHECKING:
    from proscale.predictor import Predictor  # torch: `--help` should not wait for it


class ModelSource:
    """A predictor; AP wants every candidate, so that instances are not cut at the model's own threshold."""

    concurrency = 1

    def __init__(
        self, predictor: "Predictor", match: ClassMatch, threshold: float | None = None, overlap_threshold: float | None = None
    ) -> None:
        """Thresholds are of panoptic results; None: the model's own."""
        self.predictor, self.match = copy(predictor), match
        self.tasks = predictor.info.tasks
        own = predictor.config.postprocess
        limits = replace(
            own,
            threshold=own.threshold if threshold is None else threshold,
            overlap_threshold=own.overlap_threshold if overlap_threshold is None else overlap_threshold,
            instance_threshold=0.0,
        )
        self.predictor.config = replace(predictor.config, postprocess=limits)
        self._stuff = frozenset(category.id for category in match.judged if not category.isthing)

    def predict(self, picture: AnnotatedPicture, tasks: Sequence[Task]) -> Predicted:
        """Results for one picture.

        Raises:
            DataError: the picture cannot be read.
        """
        image = read_rgb(picture)
        started = time.perf_counter()
        prediction = self.predictor.segment([image], [SegmentationOptions(tuple(tasks))])[0]
        seconds = time.perf_counter() - started
        predicted = predicted_from(prediction.results, self.match.to_data, self._stuff)
        plan = prediction.plan
        return replace(predicted, seconds=seconds, flops=plan.flops, baseline_flops=plan.baseline_flops)
