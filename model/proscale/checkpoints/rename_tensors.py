"""Rename tables as data: templates of names with numbered parts, matched strictly."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from proscale.checkpoints.strict_loading import listed
from proscale.errors import CheckpointError


def rename(state: Mapping[str, Tensor], table: Sequence[tuple[str, str]], dropped: Sequence[str] = ()) -> dict[str, Tensor]:
    """Rename every tensor by the first template that matches its whole name.

    Args:
        state: name -> tensor.
        table: (source, target) templates; `{i}`, `{j}`, `{k}` stand for numbers and are carried over, `{leaf}` for one last part,
            `{stem}` for any parts.
        dropped: regular expressions of names that carry nothing and are left out.

    Raises:
        CheckpointError: names that no template knows, or that mean the same tensor; they are listed.
    """
    kept = {name: tensor for name, tensor in state.items() if not any(re.fullmatch(pattern, name) for pattern in dropped)}
    patterns = _compiled(table)
    targets = {name: _renamed(name, patterns) for name in kept}
    if unknown := [name for name, target in targets.items() if target is None]:
        raise CheckpointError(f"{len(unknown)} names in the checkpoint are not known: {listed(unknown)}")
    return _collected(kept, {name: target for name, target in targets.items() if target is not None})


def rename_where_known(state: Mapping[str, Tensor], table: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """`rename` for names that have changed over time: what no template knows keeps its name."""
    patterns = _compiled(table)
    return _collected(state, {name: _renamed(name, patterns) or name for name in state})


def inverted(table: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The table that renames back."""
    return [(target, source) for source, target in table]


def _collected(state: Mapping[str, Tensor], targets: Mapping[str, str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, target in targets.items():
        if target in renamed:
            twins = [other for other, same in targets.items() if same == target]
            raise CheckpointError(f"names in the checkpoint mean the same tensor: {listed(twins)}")
        renamed[target] = state[name]
    return renamed


def _compiled(table: Sequence[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(template_pattern(source)), target) for source, target in table]


def _renamed(name: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, target in patterns:
        if match := pattern.fullmatch(name):
            return target.format(**match.groupdict())
    return None


def template_pattern(template: str) -> str:
    """The regular expression that a template stands for."""
    pattern = re.escape(template)
    pattern = re.sub(r"\\\{([ijk])\\\}", r"(?P<\1>\\d+)", pattern)
    return pattern.replace(r"\{leaf\}", r"(?P<leaf>\w+)").replace(r"\{stem\}", r"(?P<stem>.+)")
