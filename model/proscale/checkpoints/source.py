"""Where a model folder's weights came from: `source.json` beside them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proscale.errors import CheckpointError

SOURCE_FILE = "source.json"


@dataclass(frozen=True)
class ModelSource:
    """What was converted, and how."""

    name: str
    """A file name, or hf:OWNER/NAME@commit."""
    sha256: str
    """Of the weight file as it was read; of all shards one after the other."""
    layout: str
    """`detectron2`, `transformers` or `proscale`."""
    changes: tuple[str, ...] = field(default=())
    """What makes the network another than the source's, such as a warm start; empty for a faithful copy."""


def save_source(folder: Path, source: ModelSource) -> None:
    """Write `source.json`."""
    (folder / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=1) + "\n", encoding="utf-8")


def load_source(folder: str | Path) -> ModelSource | None:
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
        return ModelSource(str(values["name"]), str(values["sha256"]), str(values["layout"]), changes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not {{name, sha256, layout, changes}}: {error!r}") from error
