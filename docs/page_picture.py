"""Draws docs/images/page.jpg: the page at `/` of a service with the embedded model, in Debian's Chromium, with a sample opened.

Run: python docs/page_picture.py [--out FILE] [--sample scene] [--size 1280x860] [--dark]
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

PICTURE = Path(__file__).parent / "images" / "page.jpg"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
PATIENCE_MS = 120_000


def draw(out: Path, sample: str, width: int, height: int, *, dark: bool, whole: bool) -> None:
    """Start a service, open a sample and store what the browser shows. Args: whole: all of the page, however long it is."""
    command = [sys.executable, "-c", "from proscale_service.cli import serve; serve()", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            url = service.stdout.readline().split()[-1]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
                page.goto(url)
                page.get_by_role("button", name=sample).click()
                expect(page.locator("#status")).to_contain_text(re.compile(r"\d+ segments"), timeout=PATIENCE_MS)
                page.wait_for_timeout(500)  # masks are painted by a worker
                page.screenshot(path=out, full_page=whole, **({"quality": 85} if out.suffix == ".jpg" else {}))
                browser.close()
        finally:
            service.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--sample", default="scene", choices=("scene", "nuclei"))
    parser.add_argument("--size", default="1280x860", help="of the window, WIDTHxHEIGHT")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="all of the page, not the window alone")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    draw(given.out, given.sample, width, height, dark=given.dark, whole=given.whole)


if __name__ == "__main__":
    main()
