"""Results of windows -> the result of the picture, row of windows by row of windows, in runs; `dense.py` has the definition.

- Stuff, and every segment of a semantic result, is one segment per class.
- Things of two windows are one when their class is equal and their parts inside the strip that both windows see agree: IoU above
  `AGREE`. Each thing of a window agrees with at most one of another window, the best pairs first. What is one with the same is one.
- A fragment is a thing that its window's border cuts, all of which another window sees, and further. If it agrees with nothing there,
  it is one with the thing that covers more than `COVERED` of it.
- Of every segment those pixels stay that lie in its window's core (`layout.py`), so that a panoptic result has no overlaps.
- A fragment that is one with nothing is dropped: the other window saw no such thing.

Between rows, only the segments of windows that later ones overlap are kept, beside the answer.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from proscale.config import Task
from proscale.formats.runs import ColumnRuns, column_runs, to_rle
from proscale.results import Plan, Prediction, Segment, Segmentation
from proscale.rle import measure
from proscale.tiles.layout import Box, Layout
from proscale.tiles.runs import Runs, area, bounds, common, cut, joined, placed, to_columns

AGREE = 0.5
"""IoU, inside the strip that two windows see, above which two things are one."""
COVERED = 0.8
"""Share of a fragment, inside the strip, that the other window's thing must cover to be one with it."""


@dataclass(eq=False)
class _Part:
    """One segment of one window."""

    segment: Segment
    runs: Runs
    """All that the window saw."""
    box: Box
    """Around them."""
    node: int
    fragment: bool
    """A border cuts it, and another window sees all of it, and further."""
    confirmed: bool = False
    """It is one with a thing of another window."""


@dataclass(frozen=True)
class _Inside:
    """What of a part lies in a strip."""

    part: _Part
    runs: Runs
    area: int
    box: Box


@dataclass(frozen=True)
class MergedSegment:
    """A segment of the picture."""

    category_id: int
    label: str
    isthing: bool
    score: float
    """Mean over its parts, by area."""
    runs: ColumnRuns


@dataclass(eq=False)
class _Node:
    """What is known of one thing of one window, or of one class of stuff."""

    category_id: int
    label: str
    isthing: bool
    area: int = 0
    weighted_score: float = 0.0
    pieces: list[Runs] = field(default_factory=list)


class Merger:
    """One task of one picture. Give it the windows in their order."""

    def __init__(self, task: Task, layout: Layout) -> None:
        self._task, self.layout = task, layout
        self._nodes: list[_Node] = []
        self._parents: list[int] = []
        self._united: dict[int, int] = {}
        """Category id -> the node of all segments of a class that has one."""
        self._kept: dict[int, list[_Part]] = {}
        """Window -> its things, as long as later windows overlap it."""
        self._next = 0
        self._confidence: Image.Image | None = None

    def add(self, segments: Sequence[Segment], confidence: bytes | None = None) -> None:
        """Take in the segments of the next window; masks in its pixels. Raises ValueError when an RLE is broken.

        Args:
            confidence: a greyscale PNG of the window's size: how sure a semantic result is of every pixel.
        """
        index, self._next = self._next, self._next + 1
        if confidence is not None:
            self._paste(index, confidence)
        window, core = self.layout.window(index), self.layout.core(index)
        others = [self.layout.window(other) for other in self.layout.around(index)]
        parts = []
        for segment in segments:
            runs = placed(column_runs(segment.segmentation), window.top, window.left)
            if not runs.shape[1]:
                continue
            if self._task == "semantic" or not segment.isthing:
                self._give(self._class_node(segment), segment, cut(runs, core))
                continue
            box = bounds(runs)
            fragment = any(other.covers(box) and cuts(window, other, box) for other in others)
            parts.append(_Part(segment, runs, box, self._new_node(segment), fragment))
        for other, earlier in self._kept.items():
            if earlier and window.meets(box := self.layout.window(other)):
                self._unite(parts, earlier, window, box)
        self._kept[index] = parts
        if self._next < len(self.layout):
            self._settle(self.layout.window(self._next).top)

    @property
    def windows_kept(self) -> int:
        """Windows whose segments are kept because later ones overlap them."""
        return len(self._kept)

    def finish(self) -> Iterator[MergedSegment]:
        """The segments of the picture, by the first window that saw them; once, after the last window."""
        if self._next != len(self.layout):
            raise RuntimeError(f"{self._next} of {len(self.layout)} windows were given")
        self._settle(self.layout.size[0])
        groups: dict[int, list[_Node]] = {}
        for number in range(len(self._nodes)):
            groups.setdefault(self._root(number), []).append(self._nodes[number])
        self._nodes = []
        while groups:
            nodes = groups.pop(next(iter(groups)))
            if total := sum(node.area for node in nodes):
                runs = joined([piece for node in nodes for piece in node.pieces])
                score = sum(node.weighted_score for node in nodes) / total
                first = nodes[0]
                columns = to_columns(runs, self.layout.size)
                yield MergedSegment(first.category_id, first.label, first.isthing, min(1.0, score), columns)

    @property
    def confidence(self) -> bytes | None:
        """The windows' maps of confidence as one greyscale PNG; None where they had none."""
        if self._confidence is None:
            return None
        stored = io.BytesIO()
        self._confidence.save(stored, "PNG", compress_level=1)
        return stored.getvalue()

    def _paste(self, index: int, confidence: bytes) -> None:
        if self._confidence is None:
            self._confidence = Image.new("L", self.layout.size[::-1])
        window, core = self.layout.window(index), self.layout.core(index)
        box = (core.left - window.left, core.top - window.top, core.right - window.left, core.bottom - window.top)
        with Image.open(io.BytesIO(confidence)) as picture:
            self._confidence.paste(picture.crop(box), (core.left, core.top))

    def _unite(self, parts: Sequence[_Part], others: Sequence[_Part], window: Box, other_window: Box) -> None:
        """Find the things that two windows both see. Args: parts: of `window`; others: of `other_window`."""
        strip = window.shared(other_window)
        ours, theirs = _inside(parts, strip), _inside(others, strip)
        pairs = []
        for i, one in enumerate(ours):
            for j, other in enumerate(theirs):
                if one.part.segment.category_id == other.part.segment.category_id and one.box.meets(other.box):
                    pairs.append((common(one.runs, other.runs), i, j))
        free_ours, free_theirs = set(range(len(ours))), set(range(len(theirs)))
        alike = ((-shared / (ours[i].area + theirs[j].area - shared), i, j) for shared, i, j in pairs)
        for disagreement, i, j in sorted(alike):
            if -disagreement > AGREE and i in free_ours and j in free_theirs:
                free_ours.discard(i)
                free_theirs.discard(j)
                self._are_one(ours[i].part, theirs[j].part)
        for shared, i, j in pairs:
            ours_cut = (
                i in free_ours and ours[i].part.fragment and cuts(window, other_window, ours[i].box) and shared > COVERED * ours[i].area
            )
            theirs_cut = (
                j in free_theirs
                and theirs[j].part.fragment
                and cuts(other_window, window, theirs[j].box)
                and shared > COVERED * theirs[j].area
            )
            if ours_cut or theirs_cut:
                self._are_one(ours[i].part, theirs[j].part)

    def _are_one(self, one: _Part, other: _Part) -> None:
        one.confirmed = other.confirmed = True
        first, second = sorted((self._root(one.node), self._root(other.node)))
        self._parents[second] = first

    def _settle(self, top: int) -> None:
        """Put away the things of windows that end above the next window. Args: top: of the next window; the picture's end without one."""
        for number in [kept for kept in self._kept if self.layout.window(kept).bottom <= top]:
            core = self.layout.core(number)
            for part in self._kept.pop(number):
                if part.confirmed or not part.fragment:
                    self._give(part.node, part.segment, cut(part.runs, core))

    def _class_node(self, segment: Segment) -> int:
        if segment.category_id not in self._united:
            self._united[segment.category_id] = self._new_node(segment)
        return self._united[segment.category_id]

    def _new_node(self, segment: Segment) -> int:
        self._nodes.append(_Node(segment.category_id, segment.label, segment.isthing))
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def _give(self, number: int, segment: Segment, runs: Runs) -> None:
        if runs.shape[1]:
            node, pixels = self._nodes[number], area(runs)
            node.area += pixels
            node.weighted_score += pixels * segment.score
            node.pieces.append(runs)

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def cuts(window: Box, other: Box, box: Box) -> bool:
    """Whether a window's border cuts what it saw in `box`, where the other window sees further."""
    return (
        box.top == window.top > other.top
        or box.left == window.left > other.left
        or box.bottom == window.bottom < other.bottom
        or box.right == window.right < other.right
    )


def _inside(parts: Sequence[_Part], strip: Box) -> list[_Inside]:
    near = ((part, cut(part.runs, strip)) for part in parts if part.box.meets(strip))
    return [_Inside(part, runs, area(runs), bounds(runs)) for part, runs in near if runs.shape[1]]


def merged_prediction(
    mergers: Mapping[Task, Merger], plan: Plan, timings: Mapping[str, float], max_segments: int | None, min_area: int = 0
) -> Prediction:
    """What the windows' results are together.

    Args:
        plan: the layout's.
        max_segments: keep only so many per task, the best; None: all.
        min_area: drop segments of fewer pixels.
    """
    results: dict[Task, Segmentation] = {}
    for task, merger in mergers.items():
        size = merger.layout.size
        found = [(merged, to_rle(merged.runs)) for merged in merger.finish() if merged.runs.area >= min_area]
        if max_segments is not None:
            best = sorted(range(len(found)), key=lambda i: -found[i][0].score)[:max_segments]
            found = [found[i] for i in sorted(best)]
        segments = []
        for number, (merged, rle) in enumerate(found, start=1):
            pixels, bbox = measure(rle)
            segments.append(Segment(number, merged.category_id, merged.label, merged.isthing, merged.score, bbox, pixels, rle))
        results[task] = Segmentation(task, size, tuple(segments), merger.confidence)
    return Prediction(results, plan, dict(timings))
