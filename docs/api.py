"""Writes the pages of the Python interface from its docstrings: `make docs`, or `python docs/api.py FOLDER`."""

import sys
from pathlib import Path

import pdoc

MODULES = (
    "proscale.predictor",
    "proscale.results",
    "proscale.config",
    "proscale.labels",
    "proscale.rle",
    "proscale.overlay",
    "proscale.formats",
    "proscale.errors",
    "proscale_service.client",
    "proscale_service.errors",
    "proscale_service.settings",
)
"""What programs may import and rely on."""


def write_pages(folder: Path) -> None:
    """One page per module, an index and a search."""
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
    print(f"{sys.argv[1]}/index.html")
