"""Annotated pictures and somebody's results for them -> every figure. Memory holds sums, and for AP the objects' RLE."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from proscale.config import Task
from proscale.datasets import VOID, AnnotatedPicture, Dataset, PanopticMap
from proscale.datasets.annotation import semantic_of
from proscale.errors import DataError
from proscale.evaluation.average_precision import InstanceJudge, Library
from proscale.evaluation.boundary_iou import BoundaryCount
from proscale.evaluation.cityscapes_ap import CityscapesJudge
from proscale.evaluation.confusion import ConfusionMatrix
from proscale.evaluation.panoptic_quality import ClassCount, count_picture, mean_quality
from proscale.evaluation.predicted import Predicted, Source, check_size
from proscale.labels import Category


class Judge:
    """Takes pictures one by one and gives the report at the end."""

    def __init__(self, judged: Sequence[Category], tasks: Sequence[Task], boundary: bool = True) -> None:
        """Args: categories that are judged, what of, and whether boundary IoU is among it."""
        self.judged, self.tasks = tuple(judged), tuple(tasks)
        self._ids = [category.id for category in judged]
        self._counts: defaultdict[int, ClassCount] = defaultdict(ClassCount)
        self._union = ConfusionMatrix(self._ids)
        self._union_per_picture: defaultdict[int, list[float]] = defaultdict(list)
        self._found_per_picture: defaultdict[int, list[float]] = defaultdict(list)
        things = [category for category in judged if category.isthing]
        self._instances, self._cityscapes = InstanceJudge(things), CityscapesJudge(things)
        self._confusion = ConfusionMatrix(self._ids)
        self._boundary = BoundaryCount(self._ids) if boundary else None
        self.pictures = 0
        self._flops: list[tuple[int, int]] = []
        self.seconds = 0.0
        self.quality: float | None = None
        """PQ of the last picture alone; None where it has none."""

    def add(self, picture: AnnotatedPicture, predicted: Predicted) -> None:
        """Judge one picture.

        Raises:
            DataError: result and annotation differ in size, or the annotation is malformed.
        """
        self.pictures, self.quality = self.pictures + 1, None
        self.seconds += predicted.seconds or 0.0
        if predicted.flops is not None and predicted.baseline_flops is not None:
            self._flops.append((predicted.flops, predicted.baseline_flops))
        if "panoptic" in self.tasks and picture.read_panoptic is not None and predicted.panoptic is not None:
            self._add_panoptic(picture, picture.read_panoptic(), predicted.panoptic)
        if "instance" in self.tasks and picture.read_instances is not None and predicted.instances is not None:
            self._add_instances(picture, predicted)
        if "semantic" in self.tasks and picture.read_semantic is not None:
            own = predicted.semantic
            if own is None and predicted.panoptic is not None:
                own = semantic_of(predicted.panoptic)
            if own is not None:
                self._add_semantic(picture, picture.read_semantic(), own)

    def _add_panoptic(self, picture: AnnotatedPicture, truth: PanopticMap, predicted: PanopticMap) -> None:
        check_size(picture, _size(predicted.ids), _size(truth.ids))
        truth = _without_others(truth, self._ids)
        own: defaultdict[int, ClassCount] = defaultdict(ClassCount)
        count_picture(own, truth, predicted)
        self.quality = mean_quality(own, self._ids)["pq"]
        for category, count in own.items():
            self._counts[category].add(count)
            objects = count.true_positives + count.false_negatives
            if objects:
                self._found_per_picture[category].append(count.true_positives / objects)
        picture_union = ConfusionMatrix(self._ids)
        picture_union.add(semantic_of(truth), semantic_of(predicted))
        self._union.pixels += picture_union.pixels
        for category, iou in picture_union.ious().items():
            if iou is not None:
                self._union_per_picture[category].append(iou)

    def _add_instances(self, picture: AnnotatedPicture, predicted: Predicted) -> None:
        assert picture.read_instances is not None  # the caller has looked
        assert predicted.instances is not None
        truth = [instance for instance in picture.read_instances() if instance.category_id in self._ids]
        sizes = [*(one.mask.size for one in truth), *(one.mask.size for one in predicted.instances)]
        size = picture.size or (sizes[0] if sizes else predicted.size or (1, 1))
        for other in sizes:
            check_size(picture, other, size)
        things = {category.id for category in self._instances.categories}
        found = [p for p in predicted.instances if p.category_id in things]
        self._instances.add(size, [one for one in truth if one.category_id in things], found)
        if picture.read_cityscapes_void is not None and picture.read_panoptic is not None:
            self._cityscapes.add(picture.read_panoptic(), picture.read_cityscapes_void(), found)

    def _add_semantic(self, picture: AnnotatedPicture, truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> None:
        check_size(picture, _size(predicted), _size(truth))
        truth = np.where(np.isin(truth, self._ids), truth, VOID)
        predicted = np.where(np.isin(predicted, self._ids), predicted, VOID)
        self._confusion.add(truth, predicted)
        if self._boundary is not None:
            self._boundary.add(truth, predicted)

    def report(self, library: Library | None = None) -> dict[str, Any]:
        """Every figure, in 0..1 and unrounded; None for what cannot be said. See `docs/evaluate.md`."""
        report: dict[str, Any] = {"pictures": self.pictures}
        classes: dict[str, dict[str, Any]] = {c.name: {"id": c.id, "isthing": c.isthing} for c in self.judged}
        if "panoptic" in self.tasks:
            kinds = {"": (True, False), "_things": (True,), "_stuff": (False,)}
            for suffix, kind in kinds.items():
                means = mean_quality(self._counts, [c.id for c in self.judged if c.isthing in kind])
                report |= {name + suffix: value for name, value in means.items()}
            for category in self.judged:
                classes[category.name] |= self._panoptic_of(category)
        if "instance" in self.tasks:
            figures, per_class = self._instances.figures(library)
            report |= figures
            for category in self._instances.categories:
                classes[category.name]["ap"] = per_class[category.id]
            if self._cityscapes.pictures:
                figures, per_class = self._cityscapes.figures()
                report |= figures
                for category in self._instances.categories:
                    classes[category.name]["cityscapes_ap"] = per_class[category.id]
        if "semantic" in self.tasks:
            report |= {"miou": self._confusion.mean_iou(), "pixel_accuracy": self._confusion.accuracy()}
            ious = self._confusion.ious()
            for category in self.judged:
                classes[category.name]["iou"] = ious[category.id]
            if self._boundary is not None:
                report["boundary_iou"] = self._boundary.mean()
                rims = self._boundary.ious()
                for category in self.judged:
                    classes[category.name]["boundary_iou"] = rims[category.id]
        if self._flops:
            report["gflops"], report["baseline_gflops"] = (float(np.mean(values)) / 1e9 for values in zip(*self._flops, strict=True))
        return report | {"classes": classes}

    def _panoptic_of(self, category: Category) -> dict[str, float | None]:
        count = self._counts[category.id]
        values: dict[str, float | None] = dict.fromkeys(("pq", "sq", "rq"))
        if count.present:
            values = {"pq": count.quality, "sq": count.segmentation_quality, "rq": count.recognition_quality}
        values["union_iou"] = self._union.ious()[category.id]
        per_picture = self._union_per_picture[category.id]
        values["union_iou_per_picture"] = float(np.mean(per_picture)) if per_picture else None
        if category.isthing:
            found, predicted = self._found_per_picture[category.id], count.true_positives + count.false_positives
            values["found"] = float(np.mean(found)) if found else None
            values["precision"] = count.true_positives / predicted if predicted else None
        return values


def evaluate(
    dataset: Dataset,
    source: Source,
    judged: Sequence[Category],
    progress: bool = True,
    boundary: bool = True,
    limit: int | None = None,
    on_picture: Callable[[float, AnnotatedPicture], None] = lambda quality, picture: None,
) -> dict[str, Any]:
    """Judge a source on a data set: `Judge.report`, and `pictures_per_second`.

    Args:
        judged: the data set's categories that the source knows.
        limit: judge the first so many pictures alone.
        on_picture: called with the PQ of every picture that has one.

    Raises:
        DataError: nothing that both the data set and the source have; or what a picture raises, with its name.
    """
    tasks = [task for task in dataset.tasks if task in source.tasks]
    if "semantic" in dataset.tasks and "panoptic" in source.tasks and "semantic" not in tasks:
        tasks.append("semantic")
    if "instance" in tasks and not any(category.isthing for category in judged):
        tasks.remove("instance")
    if not tasks:
        raise DataError(f"the data set has annotation for {', '.join(dataset.tasks)}; the results are {', '.join(source.tasks)} alone")
    judge = Judge(judged, tasks, boundary)
    pictures = dataset.pictures[:limit]
    asked = [task for task in tasks if task in source.tasks]
    started = time.perf_counter()
    for picture, predicted in tqdm(_predictions(pictures, source, asked), total=len(pictures), unit="picture", disable=not progress):
        judge.add(picture, predicted)
        if judge.quality is not None:
            on_picture(judge.quality, picture)
    elapsed = time.perf_counter() - started
    report = judge.report()
    if judge.seconds:
        # One at a time: the time of the results themselves. Several at once: the wall clock's.
        report["pictures_per_second"] = judge.pictures / (judge.seconds if source.concurrency == 1 else elapsed)
    return report


def _predictions(
    pictures: Sequence[AnnotatedPicture], source: Source, tasks: Sequence[Task]
) -> Iterator[tuple[AnnotatedPicture, Predicted]]:
    """Results in order, at most `concurrency` ahead, so that memory stays bounded."""
    if source.concurrency == 1:
        for picture in pictures:
            yield picture, source.predict(picture, tasks)
        return
    waiting: deque[tuple[AnnotatedPicture, Future[Predicted]]] = deque()
    with ThreadPoolExecutor(source.concurrency) as pool:
        try:
            for picture in pictures:
                waiting.append((picture, pool.submit(source.predict, picture, tasks)))
                if len(waiting) > source.concurrency:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _without_others(truth: PanopticMap, known: Sequence[int]) -> PanopticMap:
    """Segments of categories that are not judged become void."""
    others = [segment.id for segment in truth.segments if segment.category_id not in known]
    if not others:
        return truth
    ids = np.where(np.isin(truth.ids, others), 0, truth.ids)
    return PanopticMap(ids.astype(np.int32), tuple(segment for segment in truth.segments if segment.category_id in known))


def _size(values: NDArray[Any]) -> tuple[int, int]:
    return values.shape[0], values.shape[1]
