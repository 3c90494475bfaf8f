"""Every format of one checkout against that of another, in one run: processor time, their ratio, and whether they write the same bytes.

    python benchmarks/formats_against.py OTHER [--rounds N] [--only FORMAT] [--out FILE]

OTHER is a checkout of another commit. Each writes the same results in a process of its own with one thread, and they take turns; the least
processor time of the rounds counts, so that it holds on a busy machine too. Pictures are a photograph's, tiled.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from format_cases import CASES, outline, segments
from PIL import Image

from proscale.formats.files import FORMATS, FormatOptions

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples" / "nuclei-stained.jpg"


def picture(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB."""
    tile = np.asarray(Image.open(PICTURE).convert("RGB"))
    down, across = -(-height // tile.shape[0]), -(-width // tile.shape[1])
    return np.ascontiguousarray(np.tile(tile, (down, across, 1))[:height, :width])


def child() -> None:
    """Writes what standard input names, a case and a format per line, and answers with seconds and a hash."""
    made: dict[int, Any] = {}
    for line in sys.stdin:
        case, name = line.split()
        if int(case) not in made:
            made.clear()
            made[int(case)] = segments(*CASES[int(case)]), picture(*CASES[int(case)][:2])
        result, image = made[int(case)]
        started = time.process_time()
        files = FORMATS[name].write(result, image, FormatOptions())
        seconds = time.process_time() - started
        digest = hashlib.sha256(b"".join(file.data for file in files)).hexdigest()
        print(json.dumps([seconds, digest, sum(len(file.data) for file in files)]), flush=True)


def ask(process: "subprocess.Popen[str]", case: int, name: str) -> tuple[float, str, int]:
    """Seconds, hash and bytes of one format."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{case} {name}\n")
    process.stdin.flush()
    seconds, digest, size = json.loads(process.stdout.readline())
    return seconds, digest, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="formats whose name contains this")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with ExitStack() as running:
        both = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--child"],
                    env=os.environ | {"PYTHONPATH": str(checkout / "model"), "OMP_NUM_THREADS": "1"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for checkout in (given.other.resolve(), ROOT)
        ]
        for case, (height, width, count, roughness) in enumerate(CASES):
            for name in (name for name in FORMATS if given.only in name):
                if name == "confidence_png":  # made with the masks
                    continue
                turns = [[ask(process, case, name) for process in both] for _ in range(given.rounds)]
                before, after = (min(turn[side][0] for turn in turns) for side in (0, 1))
                row: dict[str, Any] = {"size": f"{height}x{width}", "segments": count, "outlines": outline(roughness), "format": name}
                row |= {"before_s": round(before, 4), "after_s": round(after, 4), "times_as_fast": round(before / max(after, 1e-6), 2)}
                row |= {"same_bytes": turns[0][0][1] == turns[0][1][1], "mib": round(turns[0][1][2] / 2**20, 2)}
                rows.append(row)
                print(*(f"{value!s:>16}" for value in row.values()), flush=True)
    if given.out:
        from processor import processor  # here: it loads torch, which formats do without

        about = {"processor": processor(), "threads": 1, "rounds": given.rounds, "load_average": os.getloadavg()[0]}
        given.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    child() if sys.argv[1:] == ["--child"] else main()
