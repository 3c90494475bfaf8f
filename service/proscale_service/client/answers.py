"""What comes back: segments with their masks as arrays, polygons or supervision's Detections, and files of other formats."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from proscale import results
from proscale.formats.polygons import Polygon, trace
from proscale.rle import decode
from proscale_service.errors import InvalidParameter

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Segment(results.Segment):
    """One segment, with its mask."""

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool, at the size of the oriented picture; decoded when first asked for."""
        return decode(self.segmentation)

    @cached_property
    def polygons(self) -> list[Polygon]:
        """The mask's pieces with their holes, exact along pixel edges: filling them gives the mask bit for bit."""
        return trace(self.segmentation)


@dataclass(frozen=True)
class Answer:
    """What came back for one picture."""

    results: Mapping[str, tuple[Segment, ...]]
    """Task -> segments."""
    raw: Mapping[str, Any]
    """The whole JSON answer: image, model, compute, timings_ms ..."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, when one task was asked.

        Raises:
            ValueError: several were; use `results`.
        """
        if len(self.results) != 1:
            raise ValueError(f"several tasks were asked ({', '.join(self.results)}); use results[task]")
        return next(iter(self.results.values()))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the oriented picture and of every mask."""
        return self.raw["image"]["height"], self.raw["image"]["width"]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the server says about the picture, such as that it is dark."""
        return tuple(self.raw["image"].get("warnings", ()))

    def detections(self, task: str | None = None) -> "supervision.Detections":
        """The segments as supervision's Detections: boxes, masks, scores, category ids, and labels as `data["class_name"]`.

        Args:
            task: whose; None: of the one task that was asked.

        Raises:
            ModuleNotFoundError: supervision is not installed; the text says how to.
            ValueError: several tasks were asked, and none is named.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("detections() needs supervision: pip install supervision", name=error.name) from error
        segments = self.segments if task is None else self.results[task]
        if not segments:
            return supervision.Detections.empty()
        boxes = np.array([segment.bbox for segment in segments], np.float32)
        return supervision.Detections(
            xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            mask=np.stack([segment.mask for segment in segments]),
            confidence=np.array([segment.score for segment in segments], np.float32),
            class_id=np.array([segment.category_id for segment in segments]),
            data={"class_name": np.array([segment.label for segment in segments])},
        )


@dataclass(frozen=True)
class Files(Mapping[str, bytes]):
    """Files of other formats, by their relative names."""

    contents: Mapping[str, bytes] = field(repr=False)

    def __getitem__(self, name: str) -> bytes:
        return self.contents[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.contents)

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def answer(self) -> Answer | None:
        """The JSON answer; None when the service sent a single file of another format."""
        return parse_answer(json.loads(self.contents["answer.json"])) if "answer.json" in self.contents else None

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Write all of them into a folder, which is made when it is missing; their paths.

        Raises:
            ValueError: a name that leads out of the folder.
            OSError: it cannot be written.
        """
        for name in self.contents:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise ValueError(f"the server names a file {name!r}, which leads out of the folder")
        paths = []
        for name, data in self.contents.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            paths.append(path)
        return paths


def parse_answer(values: Mapping[str, Any]) -> Answer:
    """The JSON of POST /segment -> an answer."""
    tasks = {values["task"]: values} if "task" in values else values["results"]
    return Answer({name: tuple(map(_segment, result["segments"])) for name, result in tasks.items()}, values)


def parse_files(content: bytes, media_type: str, name: str) -> Files:
    """An answer in other formats. Args: media_type, name: of the answer."""
    if media_type == "application/zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return Files({each: archive.read(each) for each in archive.namelist()})
    return Files({name: content})


def names_of(parameter: str, given: Any) -> Any:
    """One name as it is, several of any collection as a list.

    Raises:
        InvalidParameter: an empty collection, which a query cannot say.
    """
    if given is None or isinstance(given, str):
        return given
    names = list(given)
    if not names:
        raise InvalidParameter(f"{parameter}: name at least one, or leave it out (it is {given!r})")
    return names


def _segment(values: Mapping[str, Any]) -> Segment:
    mask = values["segmentation"]
    x, y, width, height = values["bbox"]
    height_px, width_px = mask["size"]
    return Segment(
        id=values["id"],
        category_id=values["category_id"],
        label=values["label"],
        isthing=values["isthing"],
        score=values["score"],
        bbox=(x, y, width, height),
        area=values["area"],
        segmentation=results.RLE((height_px, width_px), mask["counts"]),
    )
