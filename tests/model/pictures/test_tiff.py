"""TIFFs of every bits per sample, photometric interpretation, layout and byte order: right, or refused, never wrong pixels."""

import io
import itertools
import re
import sys
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from proscale.errors import PictureSizeError, UndecodablePictureError
from proscale.pictures import parse_intensity, read_header, read_picture
from proscale.pictures.colour import matrix_profile

from .tiffs import page, pages, tiff

LIMIT = 1_000_000
HEIGHT, WIDTH = 19, 23
REFUSED = (
    "not supported|of an unsupported kind|no fixed range|raw data|inks other than|broken or cut off"  # a clear refusal, whatever its reason
)
rng = np.random.default_rng(5)


def samples(count: int, bits: int) -> NDArray[Any]:
    dtype = np.uint8 if bits <= 8 else np.uint16
    values = rng.integers(0, 1 << bits, (HEIGHT, WIDTH, count)).astype(dtype)
    return values[:, :, 0] if count == 1 else values


def to_eight(values: NDArray[Any], bits: int) -> NDArray[np.int64]:
    return np.floor(values.astype(float) * 255 / ((1 << bits) - 1) + 0.5).astype(np.int64)


def rgb_or_refused(data: bytes) -> NDArray[np.int64] | None:
    try:
        return read_picture(data, LIMIT).rgb.astype(np.int64)
    except UndecodablePictureError as error:
        refusal = str(error)
    assert re.search(REFUSED, refusal), refusal
    return None


LAYOUTS = [{"deflate": deflate, **cut} for deflate in (False, True) for cut in ({}, {"rows_per_strip": 5}, {"tile": 16})]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fill_order", [1, 2])
def test_grey_of_every_depth_is_read(layout: dict[str, Any], order: str, fill_order: int) -> None:
    read = set()
    for bits, photometric in itertools.product((1, 2, 4, 8, 10, 12, 14, 16), (0, 1)):
        values = samples(1, bits)
        data = tiff(values, photometric, bits, order=order, fill_order=fill_order, **layout)
        rgb = rgb_or_refused(data)
        if rgb is None:
            continue
        read.add((bits, photometric))
        expected = to_eight(values if photometric else ((1 << bits) - 1) - values, bits)
        np.testing.assert_array_equal(rgb, np.repeat(expected[:, :, None], 3, axis=2), err_msg=str((bits, photometric)))
    if fill_order == 1:
        assert read == set(itertools.product((1, 2, 4, 8, 10, 12, 14, 16), (0, 1)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
def test_colour_of_every_layout_is_read(layout: dict[str, Any], order: str, planar: int) -> None:
    read = set()
    for bits, extra in itertools.product((8, 16), ((), (0,), (1,), (2,), (0, 0), (2, 0), (1, 0))):
        values = samples(3 + len(extra), bits)
        if 1 in extra:  # associated: no colour may be above its alpha
            values[:, :, :3] = np.minimum(values[:, :, :3], values[:, :, 3:4])
        data = tiff(values, 2, bits, order=order, extra=extra, planar=planar, **layout)
        rgb = rgb_or_refused(data)
        if rgb is None:
            continue
        read.add((bits, extra))
        colour = to_eight(values[:, :, :3], bits)
        if extra[:1] in ((1,), (2,)):
            alpha = to_eight(values[:, :, 3:4], bits)
            colour = colour + 255 - alpha if extra[0] == 1 else (colour * alpha + 255 * (255 - alpha)) // 255
        tolerance = 3 if extra[:1] == (1,) else 2 if bits == 16 else 1 if extra[:1] == (2,) else 0
        assert np.abs(rgb - np.clip(colour, 0, 255)).max() <= tolerance, (bits, extra)
    assert read == set(itertools.product((8, 16), ((), (0,), (1,), (2,), (0, 0), (2, 0), (1, 0))))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planar", [1, 2])
def test_grey_with_extra_samples_is_read(order: str, deflate: bool, planar: int) -> None:
    for bits, extra in itertools.product((8, 16), ((0,), (1,), (2,))):
        values = samples(2, bits)
        if extra == (1,):
            values[:, :, 0] = np.minimum(values[:, :, 0], values[:, :, 1])
        rgb = rgb_or_refused(tiff(values, 1, bits, order=order, extra=extra, deflate=deflate, planar=planar))
        assert rgb is not None, (bits, extra)
        grey, alpha = (to_eight(values[:, :, i], bits) for i in (0, 1))
        expected = {0: grey, 1: grey + 255 - alpha, 2: (grey * alpha + 255 * (255 - alpha)) // 255}[extra[0]]
        assert np.abs(rgb[:, :, 0] - expected).max() <= (0 if extra == (0,) else 3), (bits, extra)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("scale", [257, 1])
def test_palettes_are_read(order: str, deflate: bool, scale: int) -> None:
    """A table of 16-bit colours, and one into which a writer put 8-bit values."""
    for bits in (1, 2, 4, 8):
        indices = samples(1, bits)
        colours = rng.integers(0, 256, (3, 1 << bits))
        colours[0, 0] = 255
        data = tiff(indices, 3, bits, order=order, deflate=deflate, tags={320: (colours * scale).reshape(-1).tolist()})
        rgb = rgb_or_refused(data)
        assert rgb is not None
        np.testing.assert_array_equal(rgb, colours.T[indices], err_msg=str(bits))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planar", [1, 2])
def test_cmyk_is_read(order: str, deflate: bool, planar: int) -> None:
    for bits in (8, 16):
        values = samples(4, bits)
        rgb = rgb_or_refused(tiff(values, 5, bits, order=order, deflate=deflate, planar=planar))
        assert rgb is not None, bits
        inks = (values >> (bits - 8)).astype(np.uint8)
        expected = np.asarray(Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes()).convert("RGB")).astype(int)
        assert np.abs(rgb - expected).max() <= (1 if bits == 8 else 2), bits
    with pytest.raises(UndecodablePictureError, match="inks other than"):
        read_picture(tiff(samples(4, 8), 5, tags={332: [2]}), LIMIT)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("sample_format", [1, 2, 3])
@pytest.mark.parametrize("photometric", [0, 1])
def test_samples_without_a_range_are_refused_or_stretched(order: str, sample_format: int, photometric: int) -> None:
    """Refused as they are, with the remedy; stretched when the request says how."""
    for bits in (8, 16, 32):
        if sample_format != 2 and bits != 32:
            continue
        dtype = {2: f"i{bits // 8}", 3: "f4", 1: "u4"}[sample_format]
        values = np.linspace(-100 if sample_format != 1 else 0, 100, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(dtype)
        data = tiff(values, photometric, bits, order=order, sample_format=sample_format)
        assert rgb_or_refused(data) is None
        try:
            stretched = read_picture(data, LIMIT, parse_intensity("minmax")).rgb[:, :, 0].astype(int)
        except UndecodablePictureError:
            continue
        shown = values.astype(float) if photometric else -values.astype(float)
        assert np.abs(stretched - (shown - shown.min()) / (shown.max() - shown.min()) * 255).max() <= 1


def test_floats_are_stretched_by_numbers_and_percentiles_and_nan_is_black() -> None:
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    values[0, :2] = np.nan, np.inf
    data = tiff(values, 1, 32, sample_format=3)
    rgb = read_picture(data, LIMIT, parse_intensity("0,0.5")).rgb
    assert rgb[0, 0].tolist() == [0, 0, 0]
    assert rgb[0, 1].tolist() == rgb[-1, -1].tolist() == [255, 255, 255]
    assert read_picture(data, LIMIT, parse_intensity("percentile")).rgb[HEIGHT // 2, 0, 0] in range(115, 140)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("sub_page", [False, True])
@pytest.mark.parametrize("mark", [{254: [1]}, {255: [2]}, {254: [4], 262: [4]}])
def test_the_picture_and_not_its_thumbnail_or_mask(order: str, sub_page: bool, mark: dict[int, list[int]]) -> None:
    full, small = samples(3, 8), samples(1, 8)[:8, :10]
    data = pages([page(small, 1, order=order, tags=mark), page(full, 2, order=order)], order, sub_page)
    picture = read_picture(data, LIMIT)
    np.testing.assert_array_equal(picture.rgb, full)
    assert (picture.header.height, picture.header.width) == (HEIGHT, WIDTH)
    assert read_header(data, LIMIT).width == WIDTH


def test_a_reduced_sub_page_and_a_second_page_do_not_count() -> None:
    full, small = samples(3, 8), samples(3, 8)[:8, :10]
    reduced = page(np.ascontiguousarray(small), 2, tags={254: [1]})
    np.testing.assert_array_equal(read_picture(pages([page(full, 2), reduced], sub_page=True), LIMIT).rgb, full)
    np.testing.assert_array_equal(read_picture(pages([page(full, 2), page(small, 2)]), LIMIT).rgb, full)
    np.testing.assert_array_equal(read_picture(pages([reduced]), LIMIT).rgb, small)


def test_directories_that_go_in_circles_end() -> None:
    data = bytearray(pages([page(samples(1, 8), 1, tags={254: [1]})]))
    first = int.from_bytes(data[4:8], "little")
    data[-4:] = first.to_bytes(4, "little")
    assert read_picture(bytes(data), LIMIT).rgb.shape == (HEIGHT, WIDTH, 3)


def test_raw_data_and_subsampled_luma_chroma_are_refused() -> None:
    with pytest.raises(UndecodablePictureError):
        read_picture(tiff(samples(1, 16), 32803, 16), LIMIT)
    with pytest.raises(UndecodablePictureError, match="YCbCr"):
        read_picture(tiff(samples(3, 8), 6), LIMIT)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [*((name, False) for name in (None, "lzw", "zlib", "packbits", "jpeg", "zstd")), ("lzw", True), ("zlib", True), ("zstd", True)],
)
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_what_another_library_writes_is_read_as_it_reads_it(
    order: str, compression: str | None, predictor: bool, tile: tuple[int, int] | None
) -> None:
    for values, options in (
        (samples(3, 8), {"photometric": "rgb"}),
        (samples(1, 8), {"photometric": "minisblack"}),
        (samples(1, 16), {"photometric": "minisblack"}),
        (samples(1, 16), {"photometric": "miniswhite"}),
        (samples(3, 16), {"photometric": "rgb"}),
        (np.moveaxis(samples(3, 8), 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.moveaxis(samples(3, 16), 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    ):
        if compression == "jpeg" and values.dtype != np.uint8:
            continue
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, byteorder=order, compression=compression, predictor=predictor or None, tile=tile, **options)
        data = buffer.getvalue()
        rgb = rgb_or_refused(data)
        if rgb is None:
            continue
        theirs = tifffile.imread(io.BytesIO(data))
        theirs = np.moveaxis(theirs, 0, 2) if theirs.ndim == 3 and theirs.shape[0] == 3 else theirs
        if options["photometric"] == "miniswhite":
            theirs = np.iinfo(theirs.dtype).max - theirs
        expected = to_eight(theirs, 8 * theirs.dtype.itemsize)
        expected = expected if expected.ndim == 3 else np.repeat(expected[:, :, None], 3, axis=2)
        assert np.abs(rgb - expected).max() <= (4 if compression == "jpeg" else 1 if theirs.ndim == 3 else 0), options


def test_big_tiffs_are_read() -> None:
    buffer, values = io.BytesIO(), samples(3, 8)
    tifffile.imwrite(buffer, values, bigtiff=True, photometric="rgb")
    np.testing.assert_array_equal(read_picture(buffer.getvalue(), LIMIT).rgb, values)


def test_planes_are_oriented_and_stretched_with_a_hint_if_dark() -> None:
    values = samples(3, 16) // 64
    for orientation, turned in ((1, values), (6, np.rot90(values, -1)), (4, values[::-1])):
        data = tiff(values, 2, 16, planar=2, tags={274: [orientation]})
        picture = read_picture(data, LIMIT)
        assert picture.header == read_header(data, LIMIT)
        assert picture.header.orientation == orientation
        assert "intensity=0,1023" in picture.warnings[0]
        stretched = read_picture(data, LIMIT, parse_intensity("0,1023")).rgb
        np.testing.assert_array_equal(stretched, to_eight(turned, 10))


def test_colour_profiles_of_planes_are_applied() -> None:
    profile = matrix_profile(1.0, ((0.3127, 0.329), (0.64, 0.33), (0.3, 0.6), (0.15, 0.06)))
    buffer, values = io.BytesIO(), samples(3, 16)
    tifffile.imwrite(buffer, np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate", iccprofile=profile)
    linear = read_picture(buffer.getvalue(), LIMIT).rgb.astype(float)
    light = values / 65535
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(linear - expected).mean() < 1.5


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("photometric", [1, 2])
def test_planes_that_are_cut_or_damaged_are_refused(deflate: bool, photometric: int) -> None:
    values = samples(2 if photometric == 1 else 4, 16)
    data = tiff(values, photometric, 16, planar=2, extra=(2,), deflate=deflate)
    assert read_picture(data, LIMIT).rgb.shape == (HEIGHT, WIDTH, 3)
    start = 8 + 20  # strips come first
    with pytest.raises(UndecodablePictureError):
        read_picture(data[:start] + data[start + 400 :], LIMIT)
    if deflate:
        with pytest.raises(UndecodablePictureError):
            read_picture(data[:start] + bytes(200) + data[start + 200 :], LIMIT)


def test_planes_larger_than_the_limit_are_not_decoded() -> None:
    data = tiff(samples(3, 16), 2, 16, planar=2)
    for read in (read_header, read_picture):
        with pytest.raises(PictureSizeError, match="23x19"):
            read(data, HEIGHT * WIDTH - 1)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UndecodablePictureError, match=r"pip install 'proscale-segmentation-service\[pictures\]'"):
        read_picture(tiff(samples(3, 16), 2, 16, planar=2), LIMIT)
    assert read_picture(tiff(samples(3, 16), 2, 16), LIMIT).rgb.shape == (HEIGHT, WIDTH, 3)
