"""Windows: they cover the picture, overlap as asked, and every pixel belongs to the window in which it lies deepest."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import SMALL_CONFIG

from proscale.config import MIT_B0, NetworkConfig, PreprocessConfig, SegformerHeadConfig, SemanticModelConfig
from proscale.errors import ParameterError
from proscale.planning import plan_picture
from proscale.results import Plan
from proscale.tiles import AUTO, OFF, Layout, Tiling, lay_out, parse_tiling
from proscale.tiles.dense import owners


def as_it_is(height: int, width: int, tasks: object = ()) -> Plan:
    """A model that sees pictures at 100 x 100 pixels."""
    return Plan((100, 100), (128, 128), 10, 20)


def layout(height: int, width: int, side: int, overlap: int) -> Layout:
    made = lay_out(Tiling("fixed", side, overlap), height, width, as_it_is, ("panoptic",))
    assert made is not None
    return made


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(0, 20))
def test_every_pixel_belongs_to_the_window_in_which_it_lies_deepest(height: int, width: int, side: int, overlap: int) -> None:
    made = layout(height, width, side, min(overlap, side // 2))
    counted = np.full((height, width), -1)
    for index in range(len(made)):
        window, core = made.window(index), made.core(index)
        assert window.covers(core)
        assert (window.bottom - window.top, window.right - window.left) == made.window_size == (min(side, height), min(side, width))
        assert window.top >= 0
        assert window.bottom <= height
        assert (counted[core.top : core.bottom, core.left : core.right] == -1).all()
        counted[core.top : core.bottom, core.left : core.right] = index
        overlapping = {other for other in range(len(made)) if other != index and not window.shared(made.window(other)).empty}
        assert set(made.around(index)) == overlapping
    assert (counted == owners(made)).all()
    for axis in (made.rows, made.columns):
        assert len(axis.starts) == 1 or axis.overlap >= min(overlap, side // 2)


def test_the_plan_counts_every_window() -> None:
    made = layout(1000, 300, 300, 50)
    assert made.rows.starts == (0, 233, 467, 700)
    assert (len(made), made.plan.flops, made.plan.baseline_flops, made.pixels) == (4, 40, 80, 4 * 300 * 300)
    tiles = made.plan.tiles
    assert tiles is not None
    assert (tiles.windows, tiles.size, tiles.overlap, tiles.scale) == (4, (300, 300), (66, 0), 0.333333)


def planned(config: NetworkConfig) -> "object":
    return lambda height, width, tasks: plan_picture(config, height, width, tasks)


def test_auto_cuts_windows_of_the_models_own_size_and_leaves_small_pictures_whole() -> None:
    plan = planned(SMALL_CONFIG)  # short side 96
    assert lay_out(AUTO, 191, 191, plan, ("panoptic",)) is None
    assert lay_out(OFF, 5000, 5000, plan, ("panoptic",)) is None
    made = lay_out(AUTO, 400, 300, plan, ("panoptic",))
    assert made is not None
    assert (made.window_size, made.plan.tiles.scale) == ((96, 96), 1.0)
    assert made.rows.overlap >= 32


def test_auto_windows_are_as_large_as_the_training_pictures() -> None:
    plan = planned(replace(SMALL_CONFIG, preprocess=replace(SMALL_CONFIG.preprocess, training_side=64)))
    assert lay_out(AUTO, 127, 127, plan, ("panoptic",)) is None
    made = lay_out(AUTO, 400, 300, plan, ("panoptic",))
    assert made is not None
    assert (made.window_size, made.plan.tiles.scale) == ((64, 64), 1.5)
    squeezed = replace(SMALL_CONFIG.preprocess, size=(96, 192), training_side=64)
    wide = lay_out(AUTO, 400, 600, planned(replace(SMALL_CONFIG, preprocess=squeezed)), ("panoptic",))
    assert wide is not None
    assert wide.window_size == (64, 128)
    # Large training pictures: the network saw them shrunk, so it does not need smaller windows.
    shrunk = planned(replace(SMALL_CONFIG, preprocess=replace(SMALL_CONFIG.preprocess, training_side=960)))
    assert lay_out(AUTO, 1900, 1900, shrunk, ("panoptic",)) is None
    large = lay_out(AUTO, 3000, 3000, shrunk, ("panoptic",))
    assert large is not None
    assert (large.window_size, large.plan.tiles.scale) == ((960, 960), 0.1)


def test_auto_of_models_that_squeeze_or_keep_pictures() -> None:
    def model(preprocess: PreprocessConfig) -> SemanticModelConfig:
        return SemanticModelConfig("s", 3, MIT_B0, SegformerHeadConfig(), preprocess=preprocess)

    squeezing = lay_out(AUTO, 2000, 3000, planned(model(PreprocessConfig(size=(256, 512)))), ("semantic",))
    assert squeezing is not None
    assert squeezing.window_size == (256, 512)
    keeping = planned(model(PreprocessConfig(resize=False)))
    assert lay_out(AUTO, 2000, 2000, keeping, ("semantic",)) is None
    large = lay_out(AUTO, 2100, 2100, keeping, ("semantic",))
    assert large is not None
    assert (large.window_size, large.plan.tiles.scale) == ((1024, 1024), 1.0)
    with pytest.raises(ParameterError, match="leave SCALE out"):
        lay_out(parse_tiling("512,0,0.5"), 2100, 2100, keeping, ("semantic",))


def test_a_scale_is_that_of_the_picture_that_windows_are_cut_from() -> None:
    tiling = parse_tiling("1024,128,0.5")
    assert (tiling.window, tiling.shared) == (2048, 256)
    made = lay_out(tiling, 5000, 5000, planned(SMALL_CONFIG), ("panoptic",))
    assert made is not None
    assert made.window_size == (2048, 2048)
    assert made.plan.tiles.scale == pytest.approx(96 / 2048, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", OFF),
        (" AUTO ", AUTO),
        ("512", Tiling("fixed", 512)),
        ("512,64", Tiling("fixed", 512, 64)),
        ("512,0,2", Tiling("fixed", 512, 0, 2.0)),
        ("joint", Tiling("joint")),
        ("Joint, 512", Tiling("joint", 512)),
        ("joint,512,64,0.5", Tiling("joint", 512, 64, 0.5)),
    ],
)
def test_every_form_of_tile_is_parsed(text: str, expected: Tiling) -> None:
    assert parse_tiling(text) == expected


def test_an_overlap_that_is_left_out_is_a_fifth() -> None:
    assert parse_tiling("320").shared == 64


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("512,512", "use 0 to 256"),
        ("512,600", "cannot overlap by 600"),
        ("32", "use 64 or more"),
        ("512,64,0", "0.01..16"),
        ("512,64,100", "0.01..16"),
        ("128,0,8", "covers 16 pixels of the picture"),
        ("big", "SIZE[,OVERLAP[,SCALE]]"),
        ("512,", "SIZE[,OVERLAP[,SCALE]]"),
        ("joint,", "SIZE[,OVERLAP[,SCALE]]"),
        ("joint,512,600", "cannot overlap by 600"),
        ("512,0,1,2", "SIZE[,OVERLAP[,SCALE]]"),
        ("512,0,nan", "SIZE[,OVERLAP[,SCALE]]"),
        ("", "SIZE[,OVERLAP[,SCALE]]"),
    ],
)
def test_impossible_windows_are_refused_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ParameterError) as error:
        parse_tiling(text)
    assert remedy in str(error.value)
