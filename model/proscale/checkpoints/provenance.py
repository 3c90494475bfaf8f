"""Where a model folder's weights came from: `source.json` beside them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proscale.errors import CheckpointError
from proscale.results import Provenance

SOURCE_FILE = "source.json"


def save_provenance(folder: Path, provenance: Provenance) -> None:
    """Write `source.json`."""
    (folder / SOURCE_FILE).write_text(json.dumps(asdict(provenance), indent=1) + "\n", encoding="utf-8")


def load_provenance(folder: str | Path) -> Provenance | None:
    """Read a model folder's `source.json`; None where there is none, as with models trained here.

    Raises:
        CheckpointError: the file is malformed.
    """
    path = Path(folder) / SOURCE_FILE
    if not path.is_file():
        return None
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        changes = tuple(str(change) for change in values.get("changes", ()))
        return Provenance(str(values["name"]), str(values["sha256"]), str(values["layout"]), changes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not {{name, sha256, layout, changes}}: {error!r}") from error
