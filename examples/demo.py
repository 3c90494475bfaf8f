"""Start the service, segment two real pictures over HTTP, show what came back, stop the service.

    python examples/demo.py             # what `make demo` runs
    python examples/demo.py --stay      # what `make serve` runs: leaves the service running until Ctrl-C

Writes result.json and overlay.png for the first picture and scene-result.json and scene-overlay.png for the second into demo/.
"""

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from proscale.overlay import draw_overlay
from proscale.results import Segmentation
from proscale_service.client import Answer, Client

EXAMPLES = Path(__file__).parent
PICTURES = {"": EXAMPLES / "nuclei.jpg", "scene-": EXAMPLES / "scene.png"}
"""Prefix of the files written -> picture."""
START_SECONDS = 180
ROWS = 12


@contextmanager
def running_service() -> Iterator[str]:
    """Run `proscale serve` on a free loopback port; yields its URL, stops it in the end."""
    command = [str(Path(sys.executable).with_name("proscale")), "serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "warning"]
    # A session of its own: Ctrl-C reaches this script, which then stops the service in order.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield _url(process)
        finally:
            process.terminate()
    if process.returncode:
        sys.exit(f"the service ended with status {process.returncode}")


def _url(process: subprocess.Popen[str]) -> str:
    """Wait for the line `Serving on URL`."""
    assert process.stdout is not None
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith("Serving on "):
                return line.removeprefix("Serving on ").strip()
    finally:
        watchdog.cancel()
    sys.exit(f"the service did not start within {START_SECONDS} seconds; if it said why, that stands above")


def table(answer: Answer) -> str:
    """The largest segments of an answer as text."""
    compute, timings = answer.raw["compute"], answer.raw["timings_ms"]
    lines = [f"{'id':>4}  {'label':<16}{'score':>6}{'area':>8}  bbox (x, y, w, h)"]
    largest = sorted(answer.segments, key=lambda segment: -segment.area)
    lines += [f"{s.id:>4}  {s.label:<16}{s.score:>6.2f}{s.area:>8}  {s.bbox}" for s in largest[:ROWS]]
    if len(largest) > ROWS:
        lines.append(f"      ... and {len(largest) - ROWS} more")
    lines.append(
        f"{compute['flops'] / 1e9:.2f} GFLOPs, {compute['saved_ratio']:.0%} less than Mask2Former's {compute['baseline_flops'] / 1e9:.2f}; "
        + ", ".join(f"{stage} {milliseconds:.0f} ms" for stage, milliseconds in timings.items())
    )
    return "\n".join(lines)


def show(client: Client, picture: Path, folder: Path, prefix: str) -> None:
    """Segment one picture, print its segments, write JSON and overlay."""
    answer = client.segment(picture, task="panoptic")
    height, width = answer.size
    print(f"\n{picture.name}, {width}x{height}: {len(answer.segments)} segments")
    print(table(answer))
    folder.mkdir(exist_ok=True)
    result, overlay = folder / f"{prefix}result.json", folder / f"{prefix}overlay.png"
    result.write_text(json.dumps(answer.raw, indent=1) + "\n", encoding="utf-8")
    image = np.asarray(Image.open(picture).convert("RGB"))
    Image.fromarray(draw_overlay(image, Segmentation("panoptic", answer.size, answer.segments))).save(overlay)
    print(f"-> {result}, {overlay}")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stay", action="store_true", help="leave the service running until Ctrl-C")
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="FOLDER", help="where results go (default: demo)")
    arguments = parser.parse_args()
    print("starting the service ...", flush=True)
    with running_service() as url, Client(url) as client:
        print(f"serving on {url}")
        for prefix, picture in PICTURES.items():
            show(client, picture, arguments.output, prefix)
        if arguments.stay:
            print(f"\nThe service stays at {url} until Ctrl-C. Interactive documentation: {url}/docs\n")
            print(f"  curl -F image=@{PICTURES['']} {url}/segment", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                print("\nstopping")
    print("\nservice stopped")


if __name__ == "__main__":
    main()
