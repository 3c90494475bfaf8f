"""Annotates a whole CVAT task with many frames in flight; what was uploaded stays, and a second run does the rest."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cvat_sdk import Client as CvatClient
from cvat_sdk import models
from cvat_sdk.exceptions import ApiException
from urllib3.exceptions import HTTPError

from proscale_service.annotation.shapes import cvat_points, outlines
from proscale_service.client import Answer, Client, Segment

POLYGON, MASK, ANY = "polygon", "mask", "any"


class CvatTaskError(Exception):
    """The task cannot be annotated; the text says what to do."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of an annotator."""

    task: str | None = None
    """panoptic, instance or semantic; None: the model's own."""
    threshold: float | None = None
    polygons: bool = False
    """Polygons instead of masks; without their holes, which CVAT does not have."""
    simplify: float = 1.0
    concurrency: int = 4
    all_frames: bool = False
    """Frames that have shapes, too."""
    labels: Sequence[str] = field(default_factory=tuple)


@dataclass
class Done:
    """What became of a task."""

    annotated: int = 0
    skipped: int = 0
    """Had shapes already."""
    shapes: int = 0
    unknown: set[str] = field(default_factory=set)
    """Labels of the model that the task does not have."""
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Frame:
    """A frame that is downloaded when it is read: on the thread that sends it on."""

    number: int
    name: str
    download: Callable[[int], bytes]

    def read(self) -> bytes:
        """The frame's picture file. Raises OSError, so that it is this frame's error."""
        try:
            return self.download(self.number)
        except (ApiException, HTTPError) as error:
            raise OSError(f"cannot be downloaded: {_reason(error)}") from error


class Annotator:
    """Segments the frames of one task and uploads each frame's shapes as soon as they are there."""

    def __init__(self, cvat: CvatClient, service: Client, task_id: int, wanted: Wanted) -> None:
        """Raises CvatTaskError: there is no such task, it has no data, or none of its labels fits."""
        self._cvat, self._service, self._id, self._wanted = cvat, service, task_id, wanted
        try:
            self._task = cvat.tasks.retrieve(task_id)
            self._labels = {label.name: (label.id, str(getattr(label, "type", ANY))) for label in self._task.get_labels()}
            self._meta = self._task.get_meta()
        except ApiException as error:
            raise CvatTaskError(f"task {task_id} cannot be read: {_reason(error)}") from error
        if not self._meta.size:
            raise CvatTaskError(f"task {task_id} has no data yet")
        kind = POLYGON if wanted.polygons else MASK
        fitting = sorted(name for name, (_, of) in self._labels.items() if of in (ANY, kind))
        known = {category["name"] for category in service.models()[0]["categories"]}
        self._used = {name for name in fitting if name in known and (not wanted.labels or name in wanted.labels)}
        if not self._used:
            raise CvatTaskError(
                f"task {task_id} has no label for a {kind} that the model knows. Its labels: {', '.join(sorted(self._labels)) or 'none'}; "
                f"the model's: {', '.join(sorted(known)[:40])}. Add one of these, of type any or {kind}, to the task"
            )

    def frames(self) -> list[Frame]:
        """The frames to do, in order."""
        # Of a video, all frames share the one name.
        names = [frame.name for frame in self._meta.frames]
        taken = set() if self._wanted.all_frames else self._with_shapes()
        gone = set(self._meta.deleted_frames)
        return [
            Frame(number, names[number] if number < len(names) else names[0], self._download)
            for number in range(self._meta.size)
            if number not in taken and number not in gone
        ]

    def run(self, progress: bool = False) -> Done:
        """Annotate all frames that need it. A frame that fails is reported and left for the next run."""
        frames = self.frames()
        done = Done(skipped=self._meta.size - len(set(self._meta.deleted_frames)) - len(frames))
        for frame, answer, error in self._answers(frames, progress):
            try:
                shapes = [] if answer is None else self._shapes(frame.number, answer, done)
                if shapes:
                    self._upload(shapes)
            except (ApiException, HTTPError) as failure:
                error = OSError(f"its shapes cannot be uploaded: {_reason(failure)}")
            if error is not None:
                done.failures.append(f"frame {frame.number} ({frame.name}): {error}")
                continue
            done.annotated += 1
            done.shapes += len(shapes)
        return done

    def _answers(self, frames: Sequence[Frame], progress: bool) -> Iterator[tuple[Frame, Answer | None, Exception | None]]:
        wanted = self._wanted
        many = self._service.segment_many(
            frames,
            concurrency=wanted.concurrency,
            ordered=False,
            progress=progress,
            task=wanted.task,
            threshold=wanted.threshold,
            priority="bulk",
        )
        for outcome in many:
            yield frames[outcome.index], outcome.answer, outcome.error

    def _download(self, number: int) -> bytes:
        _, response = self._cvat.api_client.tasks_api.retrieve_data(
            self._id, number=number, quality="original", type="frame", _parse_response=False
        )
        data: bytes = response.data
        return data

    def _with_shapes(self) -> set[int]:
        annotations = self._task.get_annotations()
        return {each.frame for each in (*annotations.shapes, *annotations.tags)} | {
            shape.frame for track in annotations.tracks for shape in track.shapes
        }

    def _shapes(self, frame: int, answer: Answer, done: Done) -> list[Any]:
        shapes = []
        for segment in answer.segments:
            if segment.label not in self._labels:
                done.unknown.add(segment.label)
            if segment.area and segment.label in self._used:
                shapes += self._of_segment(frame, segment)
        return shapes

    def _of_segment(self, frame: int, segment: Segment) -> list[Any]:
        label_id = self._labels[segment.label][0]
        if not self._wanted.polygons:
            points: list[list[float]] = [[float(each) for each in cvat_points(segment)]]
        else:
            points = [ring.ravel().tolist() for ring in outlines(segment.segmentation, self._wanted.simplify)]
        kind = POLYGON if self._wanted.polygons else MASK
        return [
            models.LabeledShapeRequest(
                type=models.ShapeType(kind), label_id=label_id, frame=frame, points=each, source="auto", occluded=False
            )
            for each in points
        ]

    def _upload(self, shapes: Sequence[Any]) -> None:
        """One request per frame, so that a frame has all of its shapes or none."""
        self._cvat.tasks.api.partial_update_annotations(
            "create", self._id, patched_labeled_data_request=models.PatchedLabeledDataRequest(tags=[], shapes=list(shapes), tracks=[])
        )


def _reason(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"HTTP status {error.status} {error.reason or ''}".strip()
    return str(error)
