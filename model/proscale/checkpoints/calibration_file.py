"""A model folder's `calibration.json`: what int8 needs to know of a model beside its weights."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from proscale.checkpoints.model_folder import WEIGHTS_FILE, read_json
from proscale.errors import CheckpointError
from proscale.int8_network import Calibration

CALIBRATION_FILE = "calibration.json"
REMEDY = "Calibrate the model: proscale quantize MODEL --data FOLDER, with some pictures of the kind that it is for"
_VERSION = 1


def weights_digest(folder: str | Path) -> str:
    """SHA-256 of a model folder's weights."""
    with (Path(folder) / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_calibration(folder: str | Path, calibration: Calibration) -> Path:
    """Write the file whole or not at all; returns where.

    Raises:
        CheckpointError: it cannot be written.
    """
    target = Path(folder) / CALIBRATION_FILE
    values = {"version": _VERSION, "weights": calibration.weights, "pictures": calibration.pictures}
    values["ranges"] = {name: list(ends) for name, ends in calibration.ranges.items()}
    written: Path | None = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=f".{CALIBRATION_FILE}.", delete=False, encoding="utf-8") as file:
            written = Path(file.name)
            file.write(json.dumps(values, indent=1) + "\n")
        written.chmod(0o644)
        os.replace(written, target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written ({error}). Free disk space, or copy the model to a folder of yours.") from error
    finally:
        if written is not None:
            written.unlink(missing_ok=True)
    return target


def load_calibration(folder: str | Path) -> Calibration:
    """Read a model folder's calibration.

    Raises:
        CheckpointError: there is none, it is broken, or it was made with other weights; the text names the remedy.
    """
    path = Path(folder) / CALIBRATION_FILE
    if not path.is_file():
        raise CheckpointError(f"int8 needs a calibration, which {folder} does not have. {REMEDY}")
    calibration = _parsed(read_json(path), path)
    if calibration.weights != weights_digest(folder):
        raise CheckpointError(f"{path} belongs to other weights than {WEIGHTS_FILE} beside it. {REMEDY}")
    return calibration


def _parsed(values: Any, path: Path) -> Calibration:
    try:
        if values["version"] != _VERSION:
            raise ValueError(f"version {values['version']!r}, not {_VERSION}")
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in values["ranges"].items()}
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name} from {low} to {high}")
        if not ranges:
            raise ValueError("no layer")
        return Calibration(str(values["weights"]), int(values["pictures"]), ranges)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no calibration ({error!r}). {REMEDY}") from error
