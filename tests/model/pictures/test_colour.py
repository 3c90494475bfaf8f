"""Colours come out as sRGB, judged by Little CMS and by numbers that everybody knows."""

import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from tests.service.pictures import encoded, gradient

from proscale.pictures import read_picture
from proscale.pictures.colour import matrix_profile, to_srgb

LIMIT = 100_000
D65 = (0.3127, 0.3290)
PROFILES = {
    "Display P3": matrix_profile(2.2, (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))),
    "Adobe RGB": matrix_profile(2.2, (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))),
    "ProPhoto": matrix_profile(1.8, ((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))),
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of greys with an exponent."""
    tags = {
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv" + struct.pack(">4xIHxx", 1, round(gamma * 256)),
    }
    return _profile(b"mntr", b"GRAY", b"XYZ ", tags)


def ink_profile() -> bytes:
    """An ICC profile whose ink tables say that a pixel's lightness is 100 less black's share, and that the other inks do nothing."""
    grid = np.array([[255 - 255 * (index & 1), 128, 128] for index in range(16)], np.uint8)  # black varies fastest; Lab
    curve = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + curve * 4 + grid.tobytes() + curve * 3
    tags = {b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061), b"A2B0": table}
    return _profile(b"prtr", b"CMYK", b"Lab ", tags)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name, offset + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x3i", offset + len(body), 0x02400000, kind, space, connection, b"acsp", 63190, 65536, 54061)
    return head + bytes(48) + struct.pack(">I", len(tags)) + table + body


def by_little_cms(pixels: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), source, target, outputMode="RGB"))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("name", PROFILES)
def test_wide_gamut_profiles_are_converted(form: str, name: str) -> None:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    plain = encoded(gradient(), form, **options)
    stored = read_picture(plain, LIMIT).rgb
    converted = read_picture(encoded(gradient(), form, icc_profile=PROFILES[name], **options), LIMIT).rgb
    np.testing.assert_array_equal(converted, by_little_cms(stored, PROFILES[name]))
    assert np.abs(converted.astype(int) - stored).max() > 20


def test_a_known_colour_is_converted_correctly() -> None:
    """Display P3's (0, 127, 0) lies outside sRGB: less red and blue than none. Adobe RGB's greys are sRGB's."""
    pixels = np.array([[[0, 200, 0], [128, 128, 128]]], np.uint8)
    green, grey = to_srgb(pixels, PROFILES["Display P3"])[0].astype(int)
    assert green[0] == 0
    assert green[1] > 200
    assert np.abs(grey - 128).max() <= 2


def test_an_srgb_profile_changes_nothing() -> None:
    np.testing.assert_array_equal(read_picture(encoded(gradient(), icc_profile=SRGB), LIMIT).rgb, gradient())


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_grey_is_converted_by_a_grey_profile_and_ignores_a_colour_profile(depth: type) -> None:
    grey = np.linspace(0, 255, 240).astype(np.uint8).reshape(12, 20)
    stored: np.ndarray = grey.astype(depth) * (257 if depth is np.uint16 else 1)
    light = read_picture(encoded(stored, icc_profile=grey_profile(1.0)), LIMIT).rgb
    assert (
        np.abs(light[:, :, 0].astype(int) - by_little_cms(np.repeat(grey[:, :, None], 3, 2), matrix_profile(1.0, LINEAR))[:, :, 0]).max()
        <= 2
    )
    np.testing.assert_array_equal(read_picture(encoded(stored, icc_profile=SRGB), LIMIT).rgb[:, :, 1], grey)


LINEAR = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_cmyk_is_converted_by_its_profile(form: str) -> None:
    inks = Image.new("CMYK", (16, 16), (200, 30, 90, 0))
    rgb = read_picture(encoded(inks, form, icc_profile=ink_profile()), LIMIT).rgb
    assert rgb.min() >= 252  # by this profile only black darkens
    inks = Image.new("CMYK", (16, 16), (0, 0, 0, 128))
    grey = read_picture(encoded(inks, form, icc_profile=ink_profile()), LIMIT).rgb.astype(int)
    assert np.abs(grey - 118).max() <= 4  # lightness 50


@pytest.mark.parametrize(
    "profile",
    [b"no profile", SRGB[:200], bytes(500), SRGB[:36] + b"acsp" + bytes(300), grey_profile(1.0), ink_profile()],
    ids=["text", "cut", "zeros", "empty", "of greys", "of inks"],
)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_broken_profiles_and_those_for_other_colour_spaces_are_ignored(profile: bytes, form: str) -> None:
    np.testing.assert_array_equal(read_picture(encoded(gradient(), form, icc_profile=profile), LIMIT).rgb, gradient())


def test_transparent_pixels_stay_white() -> None:
    picture = np.dstack([gradient(), np.zeros((24, 40), np.uint8)])
    assert read_picture(encoded(picture, icc_profile=PROFILES["ProPhoto"]), LIMIT).rgb.min() == 255
