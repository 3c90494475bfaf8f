"""What a data set says of a picture: a panoptic map, instances, a semantic map. Category ids are the data set's own everywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proscale.config import Task
from proscale.errors import DataError
from proscale.labels import Category
from proscale.results import RLE

VOID = -1
"""In semantic maps: a pixel without a class, left out of every count."""


@dataclass(frozen=True)
class PanopticSegment:
    """One segment that an annotation lists."""

    id: int
    """Its value in the map."""
    category_id: int
    iscrowd: bool = False
    area: int | None = None
    """Pixels, as the annotation says; None where it does not."""


@dataclass(frozen=True)
class PanopticMap:
    """One id per pixel, so that segments never overlap."""

    ids: NDArray[np.int32]
    """(H, W). 0 is void. An id that no segment has is no segment's, and is not void either."""
    segments: tuple[PanopticSegment, ...]
    """As the annotation lists them; one may have no pixels."""


@dataclass(frozen=True)
class Instance:
    """One object. Masks of different objects may overlap."""

    category_id: int
    mask: RLE
    iscrowd: bool = False
    area: float | None = None
    """Pixels, as the annotation says: COCO's is the polygons' area, which is not quite the mask's. None: the mask's."""


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture file and ways to its annotation; None where the data set has no annotation of that kind."""

    name: str
    """Unique in the data set; for messages, and to find a prediction for the picture."""
    id: int | str
    """The data set's own id of the picture."""
    path: Path
    size: tuple[int, int] | None
    """(height, width) in pixels, where an index file says it."""
    read_panoptic: Callable[[], PanopticMap] | None = None
    read_instances: Callable[[], tuple[Instance, ...]] | None = None
    read_semantic: Callable[[], NDArray[np.int32]] | None = None
    """(H, W): category ids, or VOID."""
    read_cityscapes_void: Callable[[], NDArray[np.bool_]] | None = None
    """(H, W): pixels that Cityscapes' own AP calls void; None in other data sets."""

    def data(self) -> bytes:
        """The picture file's bytes.

        Raises:
            DataError: the file is missing or cannot be read.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"the picture {self.path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Dataset:
    """One split of a data set."""

    layout: str
    """Which layout was recognised, for people: `COCO panoptic`, `Cityscapes`, ..."""
    root: Path
    split: str
    categories: tuple[Category, ...]
    """In the data set's order, with its ids."""
    pictures: Sequence[AnnotatedPicture]
    notes: tuple[str, ...] = field(default=())
    """What was left out, and why."""

    map_offset: int = 0
    """What the data set's own PNGs of class numbers hold: the category id plus this."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What its annotation can be asked for."""
        first = self.pictures[0]
        ways = (("panoptic", first.read_panoptic), ("instance", first.read_instances), ("semantic", first.read_semantic))
        return tuple(task for task, read in ways if read is not None)  # type: ignore[misc]  # the names are Task's


def instances_of(panoptic: PanopticMap, categories: Sequence[Category]) -> tuple[Instance, ...]:
    """The things of a panoptic map, those without pixels left out."""
    from proscale.rle import encode_id_map, measure

    things = {category.id for category in categories if category.isthing}
    segments = [segment for segment in panoptic.segments if segment.category_id in things]
    masks = encode_id_map(panoptic.ids, [segment.id for segment in segments])
    found = [(segment, masks[segment.id]) for segment in segments]
    return tuple(Instance(s.category_id, mask, s.iscrowd) for s, mask in found if measure(mask)[0])


def semantic_of(panoptic: PanopticMap) -> NDArray[np.int32]:
    """The category of every pixel of a panoptic map, crowds included; VOID where there is none."""
    values, inverse = np.unique(panoptic.ids, return_inverse=True)
    category = {segment.id: segment.category_id for segment in panoptic.segments if segment.id != 0}
    table = np.array([category.get(value, VOID) for value in values.tolist()], np.int32)
    return table[inverse].reshape(panoptic.ids.shape)
