"""Results on disk, of any tool: a COCO panoptic JSON with its PNGs, a COCO results JSON, a folder of semantic PNGs."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.datasets import VOID, AnnotatedPicture, Dataset, PanopticMap, PanopticSegment
from proscale.datasets.coco_instances import parse_segmentation
from proscale.datasets.coco_panoptic import parse_annotation
from proscale.datasets.json_fields import field_of, integer_of, read_json, rows_of
from proscale.datasets.png_maps import read_id_map, read_map
from proscale.errors import DataError
from proscale.evaluation.average_precision import ScoredInstance
from proscale.evaluation.predicted import Predicted

KINDS = """
  panoptic: a JSON with annotations of segments_info, and the folder of PNGs beside it that has its name (or its folder)
  instance: a JSON list of {image_id, category_id, segmentation, score}
  semantic: a folder of PNGs named as the pictures, with the numbers that the data set's own maps use"""


class FileSource:
    """Predictions found at a path; a folder may hold several kinds."""

    concurrency = 1

    def __init__(self, path: Path, dataset: Dataset, offset: int | None = None) -> None:
        """Find out what is there, and read the index files.

        Args:
            offset: semantic PNGs hold the category id plus this; None: as the data set's own do.

        Raises:
            DataError: nothing known, or malformed; the text names file, field and remedy.
        """
        self.path, self._offset = path, dataset.map_offset if offset is None else offset
        self._known = {category.id for category in dataset.categories}
        self._by_image = {str(picture.id): picture for picture in dataset.pictures}
        self._panoptic: dict[str, Callable[[], PanopticMap]] = {}
        self._instances: defaultdict[str, list[tuple[int, dict[str, Any]]]] | None = None
        self._semantic: dict[str, Path] = {}
        self._source = path
        for file in [path] if path.is_file() else sorted(path.glob("*.json")) if path.is_dir() else []:
            self._read_index(file)
        if path.is_dir() and not self._panoptic:
            self._semantic = {file.stem: file for file in sorted(path.rglob("*.png"))}
        kinds: list[tuple[Task, Any]] = [
            ("panoptic", self._panoptic),
            ("instance", self._instances is not None),
            ("semantic", self._semantic),
        ]
        self.tasks: tuple[Task, ...] = tuple(task for task, there in kinds if there)
        if not self.tasks:
            raise DataError(f"{path} has no known predictions. Looked for:{KINDS}")

    def predict(self, picture: AnnotatedPicture, tasks: Sequence[Task]) -> Predicted:
        """Results for one picture; a picture that a list of objects does not name has none.

        Raises:
            DataError: a map is missing or malformed.
        """
        panoptic = semantic = instances = None
        if "panoptic" in tasks:
            if str(picture.id) not in self._panoptic:
                raise DataError(f"{self.path} has no panoptic annotation of the image {picture.id!r} ({picture.name})")
            panoptic = self._panoptic[str(picture.id)]()
        if "semantic" in tasks:
            semantic = self._semantic_map(picture)
        if "instance" in tasks and self._instances is not None:
            instances = tuple(self._scored(i, row, picture) for i, row in self._instances[str(picture.id)])
        size = panoptic.ids.shape if panoptic is not None else semantic.shape if semantic is not None else None
        return Predicted(None if size is None else (size[0], size[1]), panoptic, instances, semantic)

    def _read_index(self, file: Path) -> None:
        values = read_json(file)
        if isinstance(values, list):
            self._instances = defaultdict(list)
            self._source = file
            for i, row in enumerate(values):
                image = field_of(row, "image_id", (int, str), file, f"[{i}]")
                if str(image) not in self._by_image:
                    raise DataError(f"{file}: [{i}] is of the image {image!r}, which the data set does not have")
                self._instances[str(image)].append((i, row))
            return
        maps = next((folder for folder in (file.with_suffix(""), file.parent) if _has_first(folder, values)), file.with_suffix(""))
        for i, row in enumerate(rows_of(values, "annotations", file)):
            where = f"annotations[{i}]"
            name, segments = parse_annotation(row, file, where, self._known)
            image = field_of(row, "image_id", (int, str), file, where)
            self._panoptic[str(image)] = partial(_read_panoptic, maps / name, segments)

    def _scored(self, i: int, row: dict[str, Any], picture: AnnotatedPicture) -> ScoredInstance:
        where = f"[{i}]"
        category = integer_of(row, "category_id", self._source, where)
        if category not in self._known:
            raise DataError(f"{self._source}: {where} is of category {category}, which the data set does not have")
        score = field_of(row, "score", (int, float), self._source, where, "AP needs a score for every object.")
        value = field_of(row, "segmentation", (dict, list), self._source, where, "Boxes alone cannot judge masks.")
        size = picture.size or (tuple(value["size"]) if isinstance(value, dict) and "size" in value else None)
        if size is None:
            raise DataError(f"{self._source}: {where} has polygons, but the data set does not say how large {picture.name} is")
        return ScoredInstance(category, float(score), parse_segmentation(value, (size[0], size[1]), self._source, where))

    def _semantic_map(self, picture: AnnotatedPicture) -> NDArray[np.int32]:
        names = [str(picture.id), Path(picture.name).stem, picture.path.stem, picture.path.stem.removesuffix("_leftImg8bit")]
        ends = ("", "_leftImg8bit", "_gtFine_labelIds", "_pred", "_prediction")
        file = next((self._semantic[name + end] for name in names for end in ends if name + end in self._semantic), None)
        if file is None:
            raise DataError(f"{self.path} has no PNG for the picture {picture.name}; looked for {names[1]}.png")
        values = read_map(file) - self._offset
        values[~np.isin(values, list(self._known))] = VOID  # 255 and the like: no prediction
        return values


def _has_first(folder: Path, values: Any) -> bool:
    rows = values.get("annotations") if isinstance(values, dict) else None
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    return isinstance(first.get("file_name"), str) and (folder / first["file_name"]).is_file()


def _read_panoptic(path: Path, segments: tuple[PanopticSegment, ...]) -> PanopticMap:
    """As the published evaluation asks of predictions: every id of the map is listed, and every listed id is in the map."""
    ids = read_id_map(path)
    there, listed = set(np.unique(ids).tolist()), {segment.id for segment in segments}
    if unlisted := there - listed - {0}:
        raise DataError(f"{path} has the id {min(unlisted)}, which segments_info does not list")
    if empty := listed - there:
        raise DataError(f"{path} has no pixel of the id {min(empty)}, which segments_info lists")
    return PanopticMap(ids, segments)
