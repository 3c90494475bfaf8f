"""mmsegmentation's configurations, which are Python files, read as data: literals and dict(...) alone, nothing is run."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proscale.errors import CheckpointError

MAX_DEPTH = 8
_UNKNOWN = object()


def read_python_config(path: Path, depth: int = 0) -> dict[str, Any]:
    """The settings of a file and of the `_base_` files that it builds on, as far as they are there; what is no literal is left out.

    Raises:
        CheckpointError: it cannot be read, or is not Python.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    values = parse_python_config(text, str(path))
    bases = values.pop("_base_", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if isinstance(base, str) and (path.parent / base).is_file():
            if depth >= MAX_DEPTH:
                raise CheckpointError(f"{path}: more than {MAX_DEPTH} configurations build on each other")
            merged = _merged(merged, read_python_config(path.parent / base, depth + 1))
    return _merged(merged, values)


def parse_python_config(text: str, name: str) -> dict[str, Any]:
    """The top-level assignments of a configuration's text. Raises CheckpointError when it is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{name} is not a configuration of mmsegmentation: {error}") from error
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
            value = _value(statement.value, values)
            if value is not _UNKNOWN:
                values[statement.targets[0].id] = value
    return values


def setting(values: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as `model.backbone.num_heads`; numbers are places in a list. None: not there."""
    value: Any = values
    for part in path.split("."):
        if isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return value


def find_settings(values: Any, name: str) -> list[Any]:
    """Every value of this name, however deep, in order."""
    found = []
    if isinstance(values, Mapping):
        for key, value in values.items():
            found += [value] if key == name else find_settings(value, name)
    elif isinstance(values, list | tuple):
        for value in values:
            found += find_settings(value, name)
    return found


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return names.get(node.id, _UNKNOWN)
    if isinstance(node, ast.List | ast.Tuple):
        parts = [_value(part, names) for part in node.elts]
        known = [part for part in parts if part is not _UNKNOWN]
        return tuple(known) if isinstance(node, ast.Tuple) else known
    if isinstance(node, ast.Dict):
        keys = [_value(key, names) if key is not None else None for key in node.keys]
        pairs = [(key, _value(value, names)) for key, value in zip(keys, node.values, strict=True)]
        return {key: value for key, value in pairs if isinstance(key, str) and value is not _UNKNOWN}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        made: dict[str, Any] = {}
        for keyword in node.keywords:
            value = _value(keyword.value, names)
            if keyword.arg is None:
                made |= value if isinstance(value, dict) else {}
            elif value is not _UNKNOWN:
                made[keyword.arg] = value
        return made
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        keeps = isinstance(value, dict) and isinstance(below, dict) and not value.get("_delete_")
        merged[name] = _merged(below, value) if keeps else value  # type: ignore[arg-type]
    return merged
