"""Measuring while training: figures on the validation split, the best model so far, and pictures to look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from proscale.datasets import Dataset
from proscale.errors import DataError
from proscale.evaluation.class_matching import match_classes
from proscale.evaluation.evaluate import evaluate
from proscale.evaluation.from_model import ModelSource
from proscale.evaluation.picture_reading import read_rgb
from proscale.overlay import draw_overlay
from proscale.predictor import Predictor
from proscale.results import Provenance, SegmentationOptions
from proscale.training.export import export, inference_network
from proscale.training.loop import Trainer


@dataclass(frozen=True)
class Watch:
    """What is measured on, and what decides which model is best."""

    dataset: Dataset
    metric: str = "pq"
    """A figure of the report; more is better."""
    limit: int | None = None
    """Judge the first so many pictures alone."""
    overlays: int = 4
    """How many pictures are drawn at every evaluation."""

    def measure(self, trainer: Trainer, provenance: Provenance | None = None) -> dict[str, Any]:
        """Judge the averaged network, log the figures, draw overlays, and keep the model in `best/` if it is.

        Raises:
            DataError: the report has no such metric; lists those it has.
        """
        predictor = Predictor(inference_network(trainer.average), trainer.categories)
        match = match_classes(trainer.categories, self.dataset.categories)
        report = evaluate(self.dataset, ModelSource(predictor, match), match.judged, boundary=False, limit=self.limit, progress=False)
        figures = {name: value for name, value in report.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
        if self.metric not in report:
            raise DataError(f"the evaluation has no figure {self.metric!r}; it has {', '.join(figures)}")
        value = report[self.metric]
        trainer.log({"step": trainer.step, "evaluation": figures})
        self._draw(predictor, trainer)
        if value is not None and (trainer.best is None or value > trainer.best):
            trainer.best = float(value)
            export(trainer.average, trainer.folder / "best", trainer.categories, provenance)
        return figures

    def _draw(self, predictor: Predictor, trainer: Trainer) -> None:
        folder = trainer.folder / "overlays"
        folder.mkdir(exist_ok=True)
        task = "panoptic" if "panoptic" in predictor.info.tasks else predictor.info.tasks[0]
        for picture in self.dataset.pictures[: self.overlays]:
            image = read_rgb(picture)
            found = predictor.segment([image], [SegmentationOptions((task,))])[0].results[task]
            path = folder / f"{Path(picture.name).stem}-step-{trainer.step:06d}.jpg"
            overlay = draw_overlay(image, found)
            Image.fromarray(overlay).save(path, quality=85)
            if trainer.events is not None:
                trainer.events.picture(f"overlays/{Path(picture.name).stem}", overlay, trainer.step)
