"""Label Studio's labelling configuration: which tag takes our regions, on whose picture, and which of its labels are the model's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

Kind = Literal["brush", "polygon", "bitmask"]
TAGS: Mapping[str, Kind] = {"brushlabels": "brush", "polygonlabels": "polygon", "bitmasklabels": "bitmask"}
"""A tag's name in lower case -> what its regions are. Label Studio does not care about case."""
_SPELLED = {"brush": "BrushLabels", "polygon": "PolygonLabels", "bitmask": "BitmaskLabels"}
MAX_BYTES = 1_000_000
EXAMPLE = '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image"><Label value="{}"/></BrushLabels></View>'


class ConfigError(ValueError):
    """The configuration does not fit; the text says what would."""


@dataclass(frozen=True)
class Target:
    """Where regions go."""

    kind: Kind
    from_name: str
    to_name: str
    data_key: str
    """Of the task's data: where the picture is."""
    labels: Mapping[str, str]
    """A label of the model -> the configuration's."""


def read_config(text: str, known: Sequence[str], preferred: Kind | None = None) -> Target:
    """What a configuration has room for.

    A label is the model's when it has the same name, case aside, or when the attribute `predicted_values` lists the model's name.

    Args:
        known: the model's labels.
        preferred: which kind of region, where there are tags for several; else the first tag counts.

    Raises:
        ConfigError: no tag, no picture or no label that fits.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"the labelling configuration has more than {MAX_BYTES} characters")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"the labelling configuration is not XML: {error}") from error
    example = EXAMPLE.format(known[0] if known else "label")
    tags = [(TAGS[element.tag.lower()], element) for element in root.iter() if element.tag.lower() in TAGS]
    wanted = [(kind, element) for kind, element in tags if preferred in (None, kind)]
    if not wanted:
        names = _SPELLED.values() if preferred is None else [_SPELLED[preferred]]
        raise ConfigError(f"the labelling configuration has no tag {' or '.join(names)}; for example {example}")
    pictures = {each.get("name", ""): each.get("value", "") for each in root.iter() if each.tag.lower() == "image"}
    for kind, element in wanted:
        to_name = element.get("toName", "")
        if pictures.get(to_name, "").startswith("$"):
            labels = _labels(element, known)
            if not labels:
                raise ConfigError(_no_label(element, known))
            return Target(kind, element.get("name", ""), to_name, pictures[to_name][1:], labels)
    raise ConfigError(
        f"the tag {wanted[0][1].tag} names no picture: its toName must be the name of an Image whose value is a variable; "
        f"for example {example}"
    )


def _labels(element: ElementTree.Element, known: Iterable[str]) -> dict[str, str]:
    by_name = {name.casefold(): name for name in known}
    found: dict[str, str] = {}
    for label in _inside(element):
        value = label.get("value", "")
        for name in (value, *label.get("predicted_values", "").split(",")):
            if name.strip().casefold() in by_name:
                found.setdefault(by_name[name.strip().casefold()], value)
    return found


def _no_label(element: ElementTree.Element, known: Sequence[str]) -> str:
    given = ", ".join(repr(label.get("value", "")) for label in _inside(element))
    return (
        f"none of the labels of {element.tag} ({given or 'none'}) is one of the model's ({', '.join(known[:40])}). Give a label "
        f"the model's name, or "
        f'list it: <Label value="mine" predicted_values="{known[0] if known else ""}"/>'
    )


def _inside(element: ElementTree.Element) -> list[ElementTree.Element]:
    return [each for each in element.iter() if each.tag.lower() == "label"]
