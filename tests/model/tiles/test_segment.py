"""Windows through a real predictor."""

import numpy as np
import pytest

from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.tiles import AUTO, Merger, lay_out, merged_prediction, parse_tiling, segment_picture, segment_windows


@pytest.fixture
def large() -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (12, 16, 3), np.uint8)
    return coarse.repeat(20, 0).repeat(20, 1)


def test_the_result_is_the_merge_of_the_windows_predictions(small_predictor: Predictor, large: np.ndarray) -> None:
    options = SegmentationOptions(("panoptic", "semantic"))
    layout = lay_out(parse_tiling("120,24"), 240, 320, small_predictor.plan, options.tasks)
    assert layout is not None
    found = segment_picture(small_predictor, layout, large, options)
    mergers = {task: Merger(task, layout) for task in options.tasks}
    for index in range(len(layout)):
        box = layout.window(index)
        (alone,) = small_predictor.segment([large[box.top : box.bottom, box.left : box.right]], [options])
        for task, merger in mergers.items():
            merger.add(alone.results[task].segments)
    expected = merged_prediction(mergers, layout.plan, {}, None)
    for task, result in found.results.items():
        assert len(result.segments) == len(expected.results[task].segments) >= 1
        for one, other in zip(result.segments, expected.results[task].segments, strict=True):
            assert (one.id, one.category_id, one.segmentation) == (other.id, other.category_id, other.segmentation)
            assert one.score == pytest.approx(other.score, abs=1e-5)  # batches sum in another order
    (whole,) = small_predictor.segment([large], [options])
    assert found.results["semantic"].size == whole.results["semantic"].size
    assert sum(segment.area for segment in found.results["semantic"].segments) == large.shape[0] * large.shape[1]


def test_cost_timings_and_the_best_segments_alone(small_predictor: Predictor, large: np.ndarray) -> None:
    options = SegmentationOptions(("instance",), threshold=0.05, max_segments=1)
    layout = lay_out(AUTO, 240, 320, small_predictor.plan, options.tasks)
    assert layout is not None
    windows: list[None] = []
    mergers, seconds = segment_windows(
        small_predictor, layout, lambda box: large[box.top : box.bottom, box.left : box.right], options, lambda: windows.append(None)
    )
    assert len(windows) == len(layout) == layout.plan.tiles.windows
    assert set(seconds) == {"preprocess", "infer", "postprocess", "encode"}
    everything = merged_prediction(mergers, layout.plan, seconds, None).results["instance"].segments
    best = segment_picture(small_predictor, layout, large, options).results["instance"].segments
    assert len(everything) > 1
    # Two runs of one window may differ in the last bits: where its memory lies decides how it is summed up.
    assert [segment.score for segment in best] == pytest.approx([max(segment.score for segment in everything)], abs=1e-6)
    assert layout.plan.flops == len(layout) * small_predictor.plan(96, 96, options.tasks).flops
