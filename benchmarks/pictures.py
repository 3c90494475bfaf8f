"""Reading picture files against Pillow, in one run: `.venv/bin/python benchmarks/pictures.py`.

Every file holds examples/nuclei.jpg at 4000 x 3000. `read` is `proscale.pictures.read_picture`; `pillow` is what most programs do: open,
turn by EXIF, convert to RGB, make an array. Pillow does not convert colour profiles, so that `profile` costs what it does not do. Times are
medians of interleaved rounds in milliseconds; compare ratios, not runs.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from processor import processor

from proscale.pictures import read_picture
from proscale.pictures.colour import matrix_profile

PICTURE = Path(__file__).parents[1] / "examples" / "nuclei.jpg"
WIDE = matrix_profile(2.2, ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)))


def files(width: int, height: int) -> dict[str, bytes]:
    """Encoded pictures by kind."""
    with Image.open(PICTURE) as opened:
        picture = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    return {
        "JPEG": _encoded(picture, "JPEG", quality=90),
        "JPEG, progressive": _encoded(picture, "JPEG", quality=90, progressive=True),
        "JPEG, turned": _encoded(picture, "JPEG", quality=90, exif=turned),
        "JPEG, profile": _encoded(picture, "JPEG", quality=90, icc_profile=WIDE),
        "PNG": _encoded(picture, "PNG", compress_level=3),
        "PNG, 16-bit grey": _encoded(deep, "PNG", compress_level=3),
        "TIFF": _encoded(picture, "TIFF"),
        "WebP": _encoded(picture, "WEBP", quality=90),
    }


def by_pillow(data: bytes) -> object:
    """(H, W, 3) uint8."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
        return np.ascontiguousarray(image.convert("RGB"))


def medians(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds per job, median over interleaved rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            if turn:
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", default="4000x3000", help="WIDTHxHEIGHT of the pictures.")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    kinds = {}
    for kind, data in files(width, height).items():

        def read(data: bytes = data) -> object:
            return read_picture(data, 1 << 30)

        def pillow(data: bytes = data) -> object:
            return by_pillow(data)

        times = medians({"read": read, "pillow": pillow}, arguments.rounds)
        kinds[kind] = times | {"times_pillow": round(times["read"] / times["pillow"], 2)}
    print(json.dumps({"processor": processor(), "size": arguments.size, "rounds": arguments.rounds, "kinds": kinds}, indent=1))


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
