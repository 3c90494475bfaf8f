"""`proscale.json` in a folder for transformers: what transformers' own files cannot say of a model of ours, so that it comes back whole.

Category ids, stuff, thresholds and sizes stand in it. What somebody has changed since in transformers' own files counts before it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from proscale.checkpoints.model_folder import read_json
from proscale.config import ModelConfig, NetworkConfig
from proscale.config_json import config_from_json, config_to_json
from proscale.errors import CheckpointError
from proscale.labels import Category
from proscale.results import Provenance

FILE = "proscale.json"


@dataclass(frozen=True)
class Beside:
    """A model's configuration, labels and provenance, and what transformers' preprocessing said when they were written."""

    config: NetworkConfig
    categories: tuple[Category, ...]
    provenance: Provenance
    preprocessor: Mapping[str, Any]


def save_beside(
    folder: Path, config: NetworkConfig, categories: Sequence[Category], provenance: Provenance, preprocessor: Mapping[str, Any]
) -> None:
    """Write `proscale.json`."""
    values = {
        "config": config_to_json(config),
        "labels": [asdict(category) for category in categories],
        "provenance": asdict(provenance),
        "preprocessor": preprocessor,
    }
    (folder / FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def load_beside(folder: Path) -> Beside | None:
    """Read `proscale.json`; None where there is none.

    Raises:
        CheckpointError: it is malformed.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    values = read_json(path)
    try:
        provenance = values["provenance"]
        return Beside(
            config_from_json(values["config"], path),
            tuple(Category(int(row["id"]), str(row["name"]), bool(row["isthing"])) for row in values["labels"]),
            Provenance(**provenance | {"changes": tuple(provenance["changes"])}),
            values["preprocessor"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is malformed ({error!r}); delete it to go on without") from error


def restore(
    beside: Beside,
    config: NetworkConfig,
    categories: Sequence[Category],
    names: Sequence[str] | None,
    preprocessor: Mapping[str, Any] | None,
) -> tuple[NetworkConfig, tuple[Category, ...]]:
    """What was read, with what `proscale.json` knows of it.

    Args:
        config, categories: as read from transformers' files.
        names: of `id2label` as it is now; labels count only if they are still the same.
        preprocessor: `preprocessor_config.json` as it is now; sizes count only if it is still the same.
    """
    stored = beside.config
    if len(beside.categories) != config.classes:
        return config, tuple(categories)
    config = replace(config, name=stored.name, postprocess=stored.postprocess)
    if preprocessor == beside.preprocessor:
        config = replace(config, preprocess=stored.preprocess)
        if not isinstance(config, ModelConfig) and not isinstance(stored, ModelConfig):
            config = replace(config, slide=stored.slide)
    same = names is None or [name.strip() for name in names] == [category.name.strip() for category in beside.categories]
    return config, beside.categories if same else tuple(categories)
