"""The records that a prediction is made of: plain values, no torch, so that every layer of the service can hold them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from proscale.config import TASKS, Task
from proscale.labels import Category


@dataclass(frozen=True)
class RLE:
    """A binary mask as COCO run-length encoding: column-major runs, the first of them zeros.

    `counts` is pycocotools' compressed ASCII string.
    """

    size: tuple[int, int]
    """(height, width) in pixels of the output."""
    counts: str


@dataclass(frozen=True)
class Segment:
    """One segment of a result. Frame: pixels of the output size, which is the oriented input picture."""

    id: int
    """1, 2, ... in the order of the network's queries; unique within one result."""
    category_id: int
    label: str
    isthing: bool
    score: float
    """Confidence in 0..1."""
    bbox: tuple[int, int, int, int]
    """(x, y, width, height) of the mask; all zero for an empty mask."""
    area: int
    """Pixels of the mask."""
    segmentation: RLE


@dataclass(frozen=True)
class Segmentation:
    """The answer to one task for one picture."""

    task: Task
    size: tuple[int, int]
    """(height, width) of every mask."""
    segments: tuple[Segment, ...]
    confidence: bytes | None = None
    """A greyscale PNG of `size`: how sure a semantic result is of every pixel, 255 means 1; None: not asked for."""


@dataclass(frozen=True)
class SegmentationOptions:
    """What is asked of one picture. None stands for the model's own default (its `PostprocessConfig`)."""

    tasks: tuple[Task, ...] = ("panoptic",)
    threshold: float | None = None
    mask_threshold: float | None = None
    overlap_threshold: float | None = None
    labels: tuple[str, ...] | None = None
    """Keep only segments with these labels."""
    max_segments: int | None = None
    """Keep only the segments of highest score, at most this many per task."""
    confidence: bool = False
    """Whether a semantic result has its map of confidence."""


@dataclass(frozen=True)
class Tiles:
    """How a large picture is looked at: window by window. Sizes in pixels of the picture."""

    windows: int
    size: tuple[int, int]
    """(height, width) of every window."""
    overlap: tuple[int, int]
    """(down, across): least number of pixels that neighbouring windows share; 0 along an axis with one window."""
    scale: float
    """Pixels of the network's input per pixel of the picture, along the side of a window that is scaled least."""
    joint: bool = False
    """The windows are apart in the backbone alone; the decoders see the whole picture."""


@dataclass(frozen=True)
class JointWindows:
    """Windows of a network's input that are apart in the backbone. Along each axis in cells of 32 pixels, the coarsest stride."""

    size: tuple[int, int]
    """(rows, columns) of every window."""
    starts: tuple[tuple[int, ...], tuple[int, ...]]
    """(down, across): first cells of the windows, ascending."""
    edges: tuple[tuple[int, ...], tuple[int, ...]]
    """(down, across): where what each window decides begins, and where the last one's ends."""


@dataclass(frozen=True)
class Plan:
    """What a picture of one size costs before anything is computed. FLOPs: 1 FLOP = 1 multiply-accumulate."""

    resized: tuple[int, int]
    """(height, width) of the picture as the network sees it."""
    padded: tuple[int, int]
    """(height, width) of the network's input; pictures share a batch only when this is equal."""
    flops: int
    baseline_flops: int
    """Of the baseline, for the same picture and outputs."""
    baseline: str = "Mask2Former with 6 encoder layers, all else equal"
    """What the baseline is: that, or the network as published."""
    tiles: Tiles | None = None
    """The picture is segmented window by window: sizes are those of a window (`joint`: of all together), FLOPs those of all.
    None: as a whole."""
    joint: JointWindows | None = None
    """The windows of a picture that the decoders see as a whole; None: it has none, or they are merged."""
    training_side: int | None = None
    """Of the model's `PreprocessConfig`."""


@dataclass(frozen=True)
class Prediction:
    """Everything that is known about one picture after inference."""

    results: Mapping[Task, Segmentation]
    plan: Plan
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent per stage: `preprocess`, `infer` (these two for the whole batch), `postprocess`, `encode`."""


@dataclass(frozen=True)
class Provenance:
    """What a converted model was made from, and how."""

    name: str
    """A file name, or hf:OWNER/NAME@commit."""
    sha256: str
    """Of the weight file as it was read; of all shards one after the other."""
    layout: str
    """`detectron2`, `transformers` or `proscale`."""
    changes: tuple[str, ...] = ()
    """What makes the network another than the source's, such as a warm start; empty for a faithful copy."""


@dataclass(frozen=True)
class ModelInfo:
    """What is being served."""

    name: str
    encoder: str
    """`proscale` or `mask2former`; of networks without a pixel decoder the family: `eomt`, `segformer`, `setr` or `segvit`."""
    layers: tuple[int, ...]
    """(p1, p2, p3) of a PRO-SCALE encoder, (n,) of a Mask2Former encoder; else the backbone's blocks, per stage."""
    backbone: str
    categories: tuple[Category, ...]
    loaded_from: str
    """The model folder, as the user named it; `memory` for a network that was made in place."""
    provenance: Provenance | None = None
    """What the weights were converted from; None for a model trained here."""
    tasks: tuple[Task, ...] = TASKS
    """What can be asked for; the first is what is done when nothing is asked for."""
