"""Results of windows -> the result of the picture, row of windows by row of windows, in runs; `dense.py` has the definition.

- Stuff, and every segment of a semantic result, is one segment per class.
- Things of two windows are the same when their class is equal and their parts inside the strip that both windows see agree
  (`parts.py`). A thing that lies whole in its window, and deeper there than the other one in its own, stands for both, with all pixels
  that its window saw. Where neither is whole, or one goes beyond the other's window, they are one, and each gives the pixels of its
  window's core (`layout.py`). What is one with the same is one.
- A thing that no other window confirms is dropped when another window sees its place deeper.
- Where two things of a panoptic result want a pixel, it goes to the window in whose core it lies, then to the earlier window.
- What a dropped thing leaves, and nothing else wants, is the stuff that other windows saw there.

Between rows, only the segments of windows are kept whose pixels are not decided yet, beside the answer.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from proscale.config import Task
from proscale.formats.runs import ColumnRuns, column_runs, to_rle
from proscale.results import Plan, Prediction, Segment, Segmentation
from proscale.rle import measure
from proscale.tiles.layout import Layout
from proscale.tiles.parts import Part, cuts, depth_in, same
from proscale.tiles.runs import Runs, area, bounds, cut, joined, placed, shared, to_columns, without


@dataclass(frozen=True)
class MergedSegment:
    """A segment of the picture."""

    category_id: int
    label: str
    isthing: bool
    score: float
    """Mean over its parts, by area."""
    runs: ColumnRuns


@dataclass(frozen=True)
class _Stuff:
    """Stuff of one window, all that it saw."""

    node: int
    segment: Segment
    runs: Runs


@dataclass(frozen=True)
class _Seen:
    """What one window saw."""

    things: list[Part]
    stuff: list[_Stuff]


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
        self._kept: dict[int, _Seen] = {}
        """Window -> what it saw, as long as pixels that it overlaps are not decided."""
        self._next = 0
        self._decided = 0
        """Rows of windows whose cores are decided."""
        self._confidence: Image.Image | None = None

    def add(self, segments: Sequence[Segment], confidence: bytes | None = None) -> None:
        """Take in the segments of the next window; masks in its pixels. Raises ValueError when an RLE is broken.

        Args:
            confidence: a greyscale PNG of the window's size: how sure a semantic result is of every pixel.
        """
        index, self._next = self._next, self._next + 1
        if confidence is not None:
            self._paste(index, confidence)
        window, core, seen = self.layout.window(index), self.layout.core(index), _Seen([], [])
        for segment in segments:
            runs = placed(column_runs(segment.segmentation), window.top, window.left)
            if not runs.shape[1]:
                continue
            if self._task == "semantic":
                self._give(self._class_node(segment), segment, cut(runs, core))
            elif segment.isthing:
                seen.things.append(self._part(segment, index, runs))
            else:
                seen.stuff.append(_Stuff(self._class_node(segment), segment, runs))
        for other in self.layout.around(index):
            if other in self._kept:
                self._unite(index, seen.things, other, self._kept[other].things)
        self._kept[index] = seen
        self._decide(self.layout.window(self._next).top if self._next < len(self.layout) else None)

    @property
    def windows_kept(self) -> int:
        """Windows whose segments are kept because pixels that they overlap are not decided yet."""
        return len(self._kept)

    def finish(self) -> Iterator[MergedSegment]:
        """The segments of the picture, by the first window that saw them; once, after the last window."""
        if self._next != len(self.layout):
            raise RuntimeError(f"{self._next} of {len(self.layout)} windows were given")
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

    def _part(self, segment: Segment, index: int, runs: Runs) -> Part:
        window, box, size = self.layout.window(index), bounds(runs), self.layout.size
        depth = depth_in(window, box, size)
        others = [other for other in map(self.layout.window, self.layout.around(index)) if other.covers(box)]
        fragment = any(cuts(window, other, box) for other in others)
        doubtful = any(depth_in(other, box, size) > depth for other in others)
        return Part(segment, index, runs, box, self._new_node(segment), depth, fragment, doubtful)

    def _unite(self, index: int, parts: Sequence[Part], other: int, others: Sequence[Part]) -> None:
        """Find the things that two windows both see."""
        for one, another in same(parts, others, self.layout.window(index), self.layout.window(other)):
            one.confirmed = another.confirmed = True
            better, worse = (one, another) if (-one.depth, one.window) < (-another.depth, another.window) else (another, one)
            if better.depth and self.layout.window(better.window).covers(worse.box):
                worse.beaten = True
            else:
                one.united = another.united = True
                first, second = sorted((self._root(one.node), self._root(another.node)))
                self._parents[second] = first

    def _decide(self, top: int | None) -> None:
        """Give away the pixels of cores around which all is known. Args: top: of the next window; None: there is none."""
        rows, across = self.layout.rows, self.layout.across
        while self._decided < len(rows.starts):
            # What becomes of a thing depends on all windows that overlap its own.
            last = rows.starts[rows.overlapping(self._decided)[-1]] + rows.window
            if top is not None and last > top:
                return
            for index in range(self._decided * across, (self._decided + 1) * across):
                self._decide_core(index)
            self._decided += 1
            for index in [kept for kept in self._kept if rows.overlapping(kept // across).stop <= self._decided]:
                del self._kept[index]

    def _decide_core(self, index: int) -> None:
        core, seen = self.layout.core(index), self._kept[index]
        if self._task != "panoptic":
            for part in seen.things:
                if part.kept:
                    self._give(part.node, part.segment, part.runs if part.whole else cut(part.runs, core))
            return
        around = [self._kept[other] for other in self.layout.around(index)]
        own = [(part, cut(part.runs, core)) for part in seen.things]
        for part, runs in own:
            if part.kept:
                self._give(part.node, part.segment, runs)
        claimed = inside = joined([runs for part, runs in own if part.kept])
        for part in (part for other in around for part in other.things if part.whole and part.box.meets(core)):
            runs = without(cut(part.runs, core), claimed)
            self._give(part.node, part.segment, runs)
            claimed = joined([claimed, runs])
        from_outside = without(claimed, inside)
        for stuff in seen.stuff:
            self._give(stuff.node, stuff.segment, without(cut(stuff.runs, core), from_outside))
        left = without(joined([runs for part, runs in own if not part.kept]), claimed)
        for stuff in (stuff for other in around for stuff in other.stuff):
            if not left.shape[1]:
                return
            found = shared(cut(stuff.runs, core), left)
            self._give(stuff.node, stuff.segment, found)
            left = without(left, found)

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
