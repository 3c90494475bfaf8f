"""Parameters of requests, with their ranges: pydantic models, documented for OpenAPI."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from proscale.config import Task
from proscale.errors import ParameterError
from proscale.formats.cleaning import CleaningOptions
from proscale.pictures import FULL, INTENSITY_PATTERN, Intensity, parse_intensity
from proscale.results import ModelInfo
from proscale.tiles import OFF, TILING_PATTERN, Tiling, parse_tiling
from proscale_service.errors import InvalidParameter

P = TypeVar("P", bound=BaseModel)


def _split(value: Any) -> Any:
    """`"a,b"` and `["a,b", "c"]` -> list of names; anything else is left for the type check."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [name.strip() for part in value for name in part.split(",")]
    return value


def _split_merges(value: Any) -> Any:
    """As `_split`, but only at commas behind which another merge begins, as labels may hold commas: "a=b, c,d=e" -> ["a=b, c", "d=e"]."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [merge.strip() for part in value for merge in re.split(r",(?=[^,=|]*=)", part)]
    return value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_bool(value: Any) -> Any:
    # To Python, and so to pydantic, true is the number 1.
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


_number = BeforeValidator(_not_bool)
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _number]
Probability = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), _number]
Count = Annotated[int, Field(ge=1, le=1_000_000_000), _number]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000), _number]
Side = Annotated[int, Field(ge=1, le=1_000_000), _number]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
Priority = Literal["interactive", "normal", "bulk"]
Spread = Annotated[str, Field(pattern=INTENSITY_PATTERN)]


def _possible(text: str) -> str:
    try:
        parse_tiling(text)
    except ParameterError as error:
        raise ValueError(str(error).removeprefix("tile: ")) from error
    return text


Tile = Annotated[str, Field(pattern=TILING_PATTERN), AfterValidator(_possible)]
_TILE = (
    "Cut a large picture into windows: `off` (default), `auto` (windows as large as the model's training pictures, or of its own size if "
    "those are not known; not if a whole picture is seen at half the windows' scale or more), or `SIZE[,OVERLAP[,SCALE]]` in pixels: "
    "windows of SIZE x SIZE with at least OVERLAP (default: a fifth), cut from the picture as if it were resized by SCALE (default: 1). "
    "`joint`, or `joint,` and such windows: only the backbone works per window, and the decoders see the whole picture (PRO-SCALE and "
    "Mask2Former, in-process engine only)."
)
Tasks = Annotated[tuple[Task, ...], Field(min_length=1), BeforeValidator(_split)]
Labels = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_one_or_many)]

Area = Annotated[int, Field(ge=0), _number]
Pixels = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False), _number]
Overlap = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), _number]
FormatName = Literal[
    "json",
    "rle_counts",
    "coco_results",
    "coco_panoptic",
    "geojson",
    "semantic_png",
    "semantic_colours",
    "confidence_png",
    "ids_png",
    "ids_tiff",
    "masks",
    "overlay_png",
    "overlay_webp",
    "csv",
]
"""`json` and the names in `proscale.formats.files.FORMATS`."""
Formats = Annotated[tuple[FormatName, ...], Field(min_length=1), BeforeValidator(_split)]
Merges = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^=|]+=[^=|]+(\|[^=|]+)*$")], ...], Field(min_length=1), BeforeValidator(_split_merges)
]
_NUMBER = r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,2})?"
Affine = Annotated[str, Field(pattern=rf"^\s*{_NUMBER}(\s*,\s*{_NUMBER}){{5}}\s*$")]


FORMS = {
    "tile": "off, auto, SIZE[,OVERLAP[,SCALE]] such as 1024,128, or joint",
    "intensity": "full, minmax, percentile, or LOW,HIGH such as 0,4095",
    "merge_labels": "NEW=OLD|OLD such as vehicle=car|truck",
    "affine": "six numbers a,b,c,d,e,f",
}
"""What parameters with a pattern look like, for messages."""


class SegmentParameters(BaseModel):
    """Parameters of a request. What is left out has the model's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Tasks | None = Field(
        default=None,
        description="`panoptic`, `instance`, `semantic`; several (repeated or comma separated) share one pass of the network. "
        "Default: `panoptic`, or `semantic` if that is the model's only task (see `tasks` in `GET /models`).",
    )
    threshold: Share | None = Field(
        default=None,
        description="Minimum confidence of a segment, 0 to 1. Panoptic: of its query; instance: its score; semantic: not used. "
        "Default: the model's own.",
    )
    mask_threshold: Probability | None = Field(
        default=None,
        description="Minimum probability of a pixel in a mask (panoptic, instance). Default: the model's own.",
    )
    overlap_threshold: Share | None = Field(
        default=None,
        description="Panoptic: a segment is dropped if it keeps less than this share of its mask. Default: the model's own.",
    )
    labels: Labels | None = Field(
        default=None,
        description="Keep only segments with these labels (see `GET /models`); repeated or comma separated.",
    )
    max_segments: Count | None = Field(
        default=None,
        description="Keep only this many segments of highest score per task. Default: all.",
    )
    priority: Priority = Field(
        default="normal",
        description="`interactive`, `normal` or `bulk`. A higher priority is computed first and, under overload, refused last.",
    )
    intensity: Spread | None = Field(
        default=None,
        description="Sample values of black and white: `full` (default: the range of the sample type), `minmax` (smallest and largest "
        "sample of the picture), `percentile` (its 0.1% and 99.9%), or `LOW,HIGH`, such as `0,4095` for 12-bit data in a 16-bit file.",
        examples=["minmax"],
    )
    tile: Tile | None = Field(default=None, description=_TILE, examples=["auto", "1024,128"])
    deadline_ms: Milliseconds | None = Field(
        default=None,
        description="Time for the answer in milliseconds from the request's arrival; refused at once (429) if it cannot be done in time.",
    )
    model: ModelName | None = Field(default=None, description="Name of a served model (see `GET /models`). Default: the first.")

    min_area: Area | None = Field(default=None, description="Drop segments of fewer pixels than this.")
    fill_holes: Area | None = Field(
        default=None,
        description="Fill holes of at most this many pixels; in panoptic and semantic results only where no other segment is.",
    )
    largest_piece: bool = Field(default=False, description="Keep only the largest connected piece of every thing.")
    deduplicate: Overlap | None = Field(
        default=None,
        description="Drop an instance whose mask has an IoU above this with an instance of higher score, of any label.",
    )
    merge_labels: Merges | None = Field(
        default=None,
        description="Replace several labels by one: `vehicle=car|truck`; repeated or comma separated. Stuff of one label becomes one "
        "segment; in semantic results everything of it does.",
    )

    @property
    def confidence(self) -> bool:
        """Whether the answer shows how sure a semantic result is of every pixel."""
        return False

    @property
    def spread(self) -> Intensity:
        """`intensity`, understood."""
        return parse_intensity(self.intensity) if self.intensity else FULL

    @property
    def tiling(self) -> Tiling:
        """`tile`, understood."""
        return parse_tiling(self.tile) if self.tile else OFF

    def tasks_of(self, info: ModelInfo) -> tuple[Task, ...]:
        """The asked tasks, each once, in the order of the request; the model's first if none is named."""
        return tuple(dict.fromkeys(self.task or info.tasks[:1]))

    @field_validator("merge_labels")
    @classmethod
    def _merged_once(cls, merges: tuple[str, ...] | None) -> tuple[str, ...] | None:
        olds = [old.strip() for text in dict.fromkeys(merges or ()) for old in text.partition("=")[2].split("|")]
        if twice := sorted({old for old in olds if olds.count(old) > 1}):
            raise ValueError(f"{', '.join(map(repr, twice))} can be merged into one label only")
        return merges

    @property
    def cleaning(self) -> CleaningOptions | None:
        """The cleaning that is asked for; None when none is."""
        merges: dict[str, tuple[str, ...]] = {}
        for text in self.merge_labels or ():
            new, _, olds = text.partition("=")
            merges[new.strip()] = (*merges.get(new.strip(), ()), *(old.strip() for old in olds.split("|")))
        options = CleaningOptions(self.min_area or 0, self.fill_holes or 0, self.largest_piece, self.deduplicate, merges)
        return None if options == CleaningOptions() else options


class PictureParameters(SegmentParameters):
    """Parameters of /segment, which answers in other formats too."""

    format: Formats = Field(
        default=("json",),
        description="Format of the answer: `json` (masks as COCO RLE) or others. Several (repeated or comma separated) come as one ZIP "
        "archive, or as multipart/mixed if `Accept` names it. Default: what `Accept` names, else `json`.",
    )
    simplify: Pixels | None = Field(default=None, description="geojson: tolerance in pixels; 0, the default, is exact along pixel edges.")
    affine: Affine | None = Field(
        default=None,
        description="geojson: six numbers a,b,c,d,e,f for map coordinates: x' = a x + b y + c, y' = d x + e y + f.",
    )
    opacity: Share | None = Field(default=None, description="Overlays: opacity of the colours, 0 to 1. Default: 0.45.")
    outlines: bool = Field(default=True, description="Overlays: draw outlines.")
    names: bool = Field(default=True, description="Overlays: write labels and scores.")

    @property
    def confidence(self) -> bool:
        """Whether the answer shows how sure a semantic result is of every pixel."""
        return "confidence_png" in self.format

    def formats(self, accept: str) -> tuple[str, ...]:
        """The formats to answer in: those asked for, each once, else the one that `Accept` prefers, else JSON.

        Args:
            accept: the request's `Accept` header; empty: none.
        """
        if "format" in self.model_fields_set:
            return tuple(dict.fromkeys(self.format))
        for media_type in _preferred(accept):
            if media_type in ACCEPTED:
                return (ACCEPTED[media_type],)
            if media_type in ("*/*", "application/*", "application/json"):
                break
        return ("json",)

    @staticmethod
    def packing(accept: str) -> Literal["zip", "multipart"]:
        """How several files become one answer. Args: accept: the request's `Accept` header."""
        wanted = _preferred(accept)
        multipart = wanted.index("multipart/mixed") if "multipart/mixed" in wanted else len(wanted)
        return "multipart" if multipart < len(wanted) and "application/zip" not in wanted[:multipart] else "zip"


LIST_PARAMETERS = {"task", "labels", "format", "merge_labels"}


ACCEPTED = {
    "application/geo+json": "geojson",
    "text/csv": "csv",
    "image/png": "overlay_png",
    "image/webp": "overlay_webp",
    "image/tiff": "ids_tiff",
}
"""Media types in `Accept` that stand for a format, where no `format` is given."""


class PlanParameters(BaseModel):
    """Parameters of /segment/plan: the tasks; width and height instead of a picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Tasks | None = Field(default=None, description="Tasks to plan for. Default: the default of /segment.")
    width: Side | None = Field(
        default=None, description="Width in pixels, after orientation. Needs `height`; send either both or a picture."
    )
    height: Side | None = Field(default=None, description="Height in pixels, after orientation.")
    model: ModelName | None = Field(default=None, description="Name of a served model (see `GET /models`). Default: the first.")
    tile: Tile | None = Field(default=None, description=_TILE, examples=["auto", "1024,128"])

    @property
    def tiling(self) -> Tiling:
        """`tile`, understood."""
        return parse_tiling(self.tile) if self.tile else OFF

    def tasks_of(self, info: ModelInfo) -> tuple[Task, ...]:
        """The asked tasks, each once, in the order of the request; the model's first if none is named."""
        return tuple(dict.fromkeys(self.task or info.tasks[:1]))


def parse_parameters(cls: type[P], values: Mapping[str, Any]) -> P:
    """Validate parameters.

    Raises:
        InvalidParameter: all that is wrong, in one sentence each, unknown names together with the known ones.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors()
        # Of a list whose only names are wrong, the names are reported, not that the list is then empty.
        named = {problem["loc"][0] for problem in problems if len(problem["loc"]) > 1}
        reported = [problem for problem in problems if problem["type"] != "too_short" or problem["loc"][0] not in named]
        raise InvalidParameter("; ".join(dict.fromkeys(_explain(cls, problem) for problem in reported))) from error


def _preferred(accept: str) -> list[str]:
    """Media types of an `Accept` header, the most wanted first; without those that it forbids or spells wrong."""
    wanted = []
    for part in accept.split(","):
        media_type, *options = (piece.strip().lower() for piece in part.split(";"))
        try:
            quality = float(next((option[2:] for option in options if option.startswith("q=")), "1"))
        except ValueError:
            continue
        if quality > 0:
            wanted.append((quality, media_type))
    return [media_type for _, media_type in sorted(wanted, key=lambda each: -each[0])]


def _explain(cls: type[BaseModel], problem: Any) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {name!r}; known are {', '.join(cls.model_fields)}"
    if problem["type"] == "too_short":
        return f"{name}: should name at least one; leave it out, or send null, for the default"
    shown = repr(problem["input"])
    if problem["type"] == "string_pattern_mismatch" and name in FORMS:
        message = f"should be {FORMS[name]}"
    else:
        message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("a valid tuple", "a text or a list of texts")
    return f"{name}: {message} (it is {shown if len(shown) <= 80 else shown[:77] + '...'})"
