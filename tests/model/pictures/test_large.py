"""Files that are read in parts give the pixels that they give as a whole."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, ImageCms

from proscale.errors import EmptyPictureError, UndecodablePictureError
from proscale.pictures import parse_intensity, read_picture
from proscale.pictures.large import LargeFile, open_large
from proscale.pictures.large import bands as bands_module
from proscale.pictures.large.decoders import GdalDecoder, SlideDecoder
from proscale.pictures.large.turned import TurnedDecoder

SIZE = (210, 330)


def colours(dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    smooth = np.stack([x * (c + 1) + y for c in range(channels)], -1) % 256 + rng.integers(0, 9, (*SIZE, channels))
    scale = 1 if dtype == np.uint8 else 11
    return (smooth.clip(0, 255) * scale).astype(dtype)[:, :, 0 if channels == 1 else slice(None)]


def whole_by_windows(file: LargeFile, window: int = 64) -> np.ndarray:
    height, width = file.header.height, file.header.width
    picture = np.zeros((height, width, 3), np.uint8)
    for top in range(0, height, window // 2):
        for left in range(0, width, window // 2):
            bottom, right = min(height, top + window), min(width, left + window)
            picture[top:bottom, left:right] = file.read(top, left, bottom, right)
    return picture


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands_module, "BLOCK_PIXELS", 330 * 50)


def written(folder: Path, kind: str) -> Path:
    path = folder / f"picture.{kind.split('-')[0]}"
    if kind == "tif-tiled":
        tifffile.imwrite(path, colours(), tile=(64, 64), compression="deflate", bigtiff=True, photometric="rgb")
    elif kind == "tif-strips":
        tifffile.imwrite(path, colours(), rowsperstrip=7, compression="lzw", photometric="rgb")
    elif kind == "tif-jpeg":
        tifffile.imwrite(
            path, colours(), tile=(64, 64), compression="jpeg", compressionargs={"level": 95}, photometric="ycbcr", subsampling=(1, 1)
        )
    elif kind == "tif-grey":
        tifffile.imwrite(path, colours(channels=1), tile=(64, 64))
    elif kind == "tif-deep":
        tifffile.imwrite(path, colours(np.uint16, 1), tile=(64, 64))
    elif kind == "tif-inverted":
        tifffile.imwrite(path, colours(channels=1), photometric="miniswhite")
    elif kind == "tif-palette":
        Image.fromarray(colours()).quantize(30).save(path)
    elif kind == "png-alpha":
        Image.fromarray(colours(channels=4)).save(path)
    elif kind == "png-profile":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        Image.fromarray(colours()).save(path, icc_profile=profile)
    else:
        Image.fromarray(colours()).save(path, **({"quality": 95, "subsampling": 0} if kind == "jpg" else {}))
    return path


EXACT = ("tif-tiled", "tif-strips", "tif-grey", "tif-deep", "tif-inverted", "tif-palette", "png", "png-alpha", "png-profile", "jp2")


@pytest.mark.parametrize("kind", [*EXACT, "jpg", "tif-jpeg"])
def test_bands_equal_the_whole_picture(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    whole = read_picture(path.read_bytes(), 10**6)
    with open_large(path) as file:
        assert (file.header.height, file.header.width, file.header.format) == (*SIZE, whole.header.format)
        assert file.warnings == whole.warnings
        apart = whole_by_windows(file).astype(int) - whole.rgb
    assert np.abs(apart).max() <= (0 if kind in EXACT else 3)


@pytest.mark.parametrize("intensity", ["minmax", "percentile", "100,2000", "full"])
@pytest.mark.parametrize("kind", ["tif-deep", "tif-grey"])
def test_black_and_white_are_those_of_the_whole_picture_not_of_a_window(tmp_path: Path, intensity: str, kind: str) -> None:
    path, spread = written(tmp_path, kind), parse_intensity(intensity)
    whole = read_picture(path.read_bytes(), 10**6, spread)
    seen: list[int] = []
    with open_large(path, spread, seen.append) as file:
        assert (whole_by_windows(file) == whole.rgb).all()
        assert file.warnings == whole.warnings
    passes = intensity in ("minmax", "percentile") or (intensity == "full" and kind == "tif-deep")
    assert sum(seen) == (SIZE[0] if passes else 0)


def test_colours_of_16_bits_keep_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    deep = colours(np.uint16)
    tifffile.imwrite(path, deep, tile=(64, 64), photometric="rgb")
    with open_large(path, parse_intensity("0,2805")) as file:
        assert np.abs(whole_by_windows(file) - deep / 11).max() <= 0.5


def test_floats_need_limits_and_get_no_percentiles(tmp_path: Path) -> None:
    path = tmp_path / "heights.tif"
    tifffile.imwrite(path, colours(channels=1).astype(np.float32) / 7)
    with pytest.raises(UndecodablePictureError, match="intensity=minmax"), open_large(path) as file:
        file.read(0, 0, 10, 10)
    with pytest.raises(UndecodablePictureError, match="use intensity=minmax or intensity=LOW,HIGH"):
        open_large(path, parse_intensity("percentile"))
    spread = parse_intensity("minmax")
    with open_large(path, spread) as file:
        assert (whole_by_windows(file) == read_picture(path.read_bytes(), 10**6, spread).rgb).all()


def test_of_many_bands_the_first_three_are_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "bands.tif"
    tifffile.imwrite(path, colours(channels=6), tile=(64, 64), planarconfig="contig", photometric="minisblack", extrasamples=[0] * 5)
    with open_large(path) as file:
        assert file.warnings == ("the picture has 6 bands; bands 1, 2, 3 are shown to the network",)
        assert (whole_by_windows(file) == colours(channels=6)[:, :, :3]).all()


def test_unreadable_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    broken = written(tmp_path, "tif-strips")
    broken.write_bytes(broken.read_bytes()[:20000])
    with pytest.raises(UndecodablePictureError, match="broken, cut off"), open_large(broken) as file:
        whole_by_windows(file)
    (tmp_path / "empty.tif").touch()
    with pytest.raises(EmptyPictureError):
        open_large(tmp_path / "empty.tif")
    (tmp_path / "text.tif").write_text("no picture at all")
    with pytest.raises(UndecodablePictureError, match="no format that can be read in parts"):
        open_large(tmp_path / "text.tif")
    (tmp_path / "broken.svs").write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(UndecodablePictureError, match="OpenSlide cannot read"):
        open_large(tmp_path / "broken.svs")


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_pictures_that_exif_turns_are_upright_in_parts(tmp_path: Path, kind: str, orientation: int) -> None:
    path, exif = tmp_path / f"turned.{kind}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colours()).save(path, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "jpg" else {}))
    whole = read_picture(path.read_bytes(), 10**6)
    assert whole.header.orientation == orientation
    with open_large(path) as file:
        assert file.header == whole.header
        apart = whole_by_windows(file).astype(int) - whole.rgb
    assert np.abs(apart).max() <= (3 if kind == "jpg" else 0)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_picture_lies_where_it_lay(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "placed.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=3, width=5, count=1, dtype="uint8", crs="EPSG:32632",
        transform=rasterio.Affine(2, 0.5, 10, 1, -3, 20),
    ) as file:  # fmt: skip
        file.write(np.arange(15, dtype=np.uint8).reshape(1, 3, 5))
    stored = GdalDecoder(path)
    turned = TurnedDecoder(stored, orientation)
    assert stored.georeference is not None
    assert turned.georeference is not None
    before, after = (rasterio.Affine(*each.georeference.affine) for each in (stored, turned))
    pixels = turned.rows(0, turned.height).pixels
    for row, column in np.ndindex(pixels.shape):
        y, x = divmod(int(pixels[row, column]), 5)
        assert after * (column + 0.5, row + 0.5) == pytest.approx(before * (x + 0.5, y + 0.5))
    turned.close()


def test_a_slide_that_is_broken_in_the_middle_is_said(tmp_path: Path) -> None:
    path = tmp_path / "broken.svs"
    tifffile.imwrite(path, colours(), tile=(64, 64), compression="jpeg", photometric="rgb")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, length = page.dataoffsets[12], page.databytecounts[12]  # in the third row of tiles
    data = bytearray(path.read_bytes())
    data[start : start + length] = bytes(length)
    path.write_bytes(data)
    with open_large(path) as file:
        file.read(0, 0, 64, 330)
        with pytest.raises(UndecodablePictureError, match=r"the slide is broken at rows \d+ to \d+"):
            file.read(128, 0, 192, 330)


def test_changed_and_cut_off_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "tif-tiled")
    with open_large(path) as file:
        file.read(100, 0, 150, 50)
        with pytest.raises(ValueError, match="row 10 was let go"):
            file.read(10, 0, 60, 50)
        os.utime(path, ns=(1, 1))
        with pytest.raises(UndecodablePictureError, match="changed while it was read"):
            file.read(150, 0, 200, 50)


def test_slides_are_read_at_their_full_magnification(tmp_path: Path) -> None:
    path = written(tmp_path, "tif-tiled")  # a tiled TIFF is the plainest slide that OpenSlide knows
    tifffile.imwrite(path, colours(), tile=(64, 64), compression="deflate", photometric="rgb")
    decoder = SlideDecoder(path)
    assert (decoder.height, decoder.width) == SIZE
    assert (decoder.rows(20, 90).pixels == colours()[20:90]).all()
    decoder.close()


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    path = written(tmp_path, "png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UndecodablePictureError, match=r"pip install 'proscale-segmentation-service\[large\]'"):
        open_large(path)
