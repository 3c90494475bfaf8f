"""Writes the pages of the Python interface from its docstrings: `make docs`, or `python docs/api.py FOLDER`."""

import sys
import warnings
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
    with warnings.catch_warnings():
        # A TypedDict keeps no trace of those it was made from, so pdoc looks in vain for where a field is declared.
        warnings.filterwarnings("ignore", r"Cannot determine where \S+Options\.\w+ is taken from", UserWarning)
        warnings.filterwarnings("ignore", "OpenCV", UserWarning)  # supervision does without, and says so when imported
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
    print(f"{sys.argv[1]}/index.html")
