"""A run's settings from YAML: the fields of `TrainingConfig`, nested as they are there."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from proscale.errors import DataError
from proscale.training.config import TrainingConfig


def read_settings(path: Path, base: TrainingConfig) -> TrainingConfig:
    """`base` with what the file says.

    Raises:
        DataError: the file cannot be read, or a field is unknown or of another kind; names file and field.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise DataError(f"{path} must be a mapping of settings such as 'steps: 2000'")
    settings: TrainingConfig = _with(base, values, path, "")
    return settings


def _with(record: Any, values: Mapping[str, Any], path: Path, where: str) -> Any:
    known = {field.name: getattr(record, field.name) for field in fields(record)}
    changed = {}
    for name, value in values.items():
        place = f"{where}{name}"
        if name not in known:
            raise DataError(f"{path}: there is no setting {place!r}; there are {', '.join(where + other for other in known)}")
        changed[name] = _converted(known[name], value, path, place)
    return replace(record, **changed)


def _converted(old: Any, value: Any, path: Path, place: str) -> Any:
    """`value` as the kind of thing that `old` is."""
    if is_dataclass(old):
        if not isinstance(value, Mapping):
            raise DataError(f"{path}: {place} must be a mapping")
        return _with(old, value, path, f"{place}.")
    if old == () and isinstance(value, list) and all(isinstance(each, (int, float)) for each in value):
        return tuple(float(each) for each in value)
    if isinstance(old, tuple) and isinstance(value, list) and len(value) == len(old):
        return tuple(_converted(a, b, path, place) for a, b in zip(old, value, strict=True))
    # YAML 1.1 reads 3e-4 as text, and whole numbers are fine where a fraction is meant.
    if isinstance(old, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif type(old) is type(value):
        return value
    raise DataError(f"{path}: {place} is {value!r}; expected something like {old!r}")
