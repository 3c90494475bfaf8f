"""Colours to sRGB by ICC profiles, as viewers show them. A profile that is broken or of another colour space is ignored."""

import io
import struct
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 16 << 20
"""Real profiles of printers have two megabytes."""
UNSEEN = 2
"""Levels of 255: a profile that changes no colour by more counts as sRGB's, and costs nothing."""
_LEVELS = np.arange(256, dtype=np.uint8)[None]
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}


def to_srgb(pixels: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """Grey, RGB or CMYK -> sRGB.

    Args:
        pixels: (H, W), (H, W, 3), or (H, W, 4) with 0 for no ink.
        profile: ICC profile; None: grey and RGB are sRGB's, CMYK is converted without one.

    Returns:
        (H, W, 3).
    """
    mode = {2: "L", 3: "RGB", 4: "CMYK"}[pixels.ndim if pixels.ndim == 2 else pixels.shape[2]]
    if profile and len(profile) <= MAX_PROFILE_BYTES:
        source = profile_mode(profile)
        if mode == "L" and source == "RGB":  # grey values that are equal parts of the profile's colours
            pixels, mode = np.repeat(pixels[:, :, None], 3, axis=2), "RGB"
        transform = _transform(profile, mode) if source == mode else None
        if transform is not None and mode == "L":
            table: NDArray[np.uint8] = np.asarray(transform.apply(_image(_LEVELS, mode)))[0]
            return table[pixels]
        if transform is not None:
            return np.asarray(transform.apply(_image(pixels, mode)))
    if mode == "CMYK":
        return np.asarray(_image(pixels, mode).convert("RGB"))
    return np.repeat(pixels[:, :, None], 3, axis=2) if mode == "L" else pixels


def profile_mode(profile: bytes) -> str | None:
    """Pillow's mode of a profile's colours; None for those that pictures do not have, and for what is no profile."""
    if len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return _MODES.get(profile[16:20].decode("latin-1").strip())


def matrix_profile(gamma: float, primaries: tuple[tuple[float, float], ...]) -> bytes:
    """An ICC profile of three primaries and one exponent.

    Args:
        gamma: exponent from samples to light.
        primaries: chromaticities (x, y) of white, red, green and blue.

    Returns:
        version 2 profile, adapted to D50 by the Bradford transform (ICC.1:2001-04, annex E).

    Raises:
        ValueError, ZeroDivisionError, numpy.linalg.LinAlgError: these primaries span no colours.
    """
    white, *rgb = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in primaries)
    columns = np.stack(rgb, axis=1)
    columns = columns * np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag(bradford @ d50 / (bradford @ white)) @ bradford
    tags = {b"wtpt": _xyz(d50)}
    for letter, column in zip((b"r", b"g", b"b"), (adapt @ columns).T, strict=True):
        tags[letter + b"XYZ"] = _xyz(column)
        tags[letter + b"TRC"] = b"curv" + struct.pack(">4xIHxx", 1, round(gamma * 256))
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(value))
        body += value
    size = offset + len(body)
    illuminant = _fixed(d50)
    header = struct.pack(">I4sI4s4s4s12x4s28x", size, b"", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp") + illuminant + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """From `mode` to sRGB; None where there is nothing to do, or the profile is broken."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Greys go through a table of all levels, which need not be fast, but exact in the dark ones.
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)  # type: ignore[no-untyped-call,unused-ignore]
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        if mode == "CMYK":
            return transform
        if mode == "L":
            probe = levels[None]
            plain = np.repeat(probe[:, :, None], 3, axis=2)
        else:
            probe = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
            plain = probe
        converted = np.asarray(transform.apply(_image(probe, mode)))
    except Exception:  # littlecms meets broken profiles in many ways
        return None
    return transform if np.abs(converted.astype(int) - plain).max() > UNSEEN else None


def _image(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    height, width = pixels.shape[:2]
    return Image.frombuffer(mode, (width, height), np.ascontiguousarray(pixels), "raw", mode, 0, 1)


def _fixed(values: NDArray[np.float64]) -> bytes:
    return struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)
