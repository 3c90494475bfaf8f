"""docs/checkpoints.md says what `proscale convert` does."""

import re
from pathlib import Path

import pytest
from tests.model.checkpoints.test_convert import SMALL, detectron2_file

from proscale.checkpoints.array_pickles import ALLOWED
from proscale.checkpoints.choose_labels import SELF_EVIDENT
from proscale.checkpoints.command import convert
from proscale.checkpoints.published_models import published_models
from proscale.checkpoints.warm_start import source_layers
from proscale.labels import label_table, read_categories_file, table_names

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def test_every_option_is_in_the_table_and_no_other() -> None:
    options = {name for parameter in convert.params for name in [*parameter.opts, *parameter.secondary_opts] if name.startswith("--")}
    table = {option for row in PAGE.splitlines() if row.startswith("| `--") for option in re.findall(r"`(--[a-z-]+)`", row.split("|")[1])}
    assert table == options


def test_every_labels_table_is_named_with_its_classes() -> None:
    for name in table_names():
        if name != "mapillary_vistas_66":
            assert re.search(rf"`{name}` \({len(label_table(name).categories)}\b", PAGE), name
    assert all(str(classes) in PAGE for classes in SELF_EVIDENT)


def test_numbers_in_the_text() -> None:
    assert "With 9 layers from 6: " + ", ".join(map(str, source_layers(9, 6))) in PAGE
    assert "gives it nine names" in PAGE.replace("\n", " ")
    assert len(set(ALLOWED.values())) == 9


def test_labels_example(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(re.findall(r"```json\n(.*?)```", PAGE, re.S)[0])
    categories = read_categories_file(tmp_path / "labels.json")
    assert [(c.id, c.name, c.isthing) for c in categories] == [
        (1, "cell", True),
        (7, "background", False),
    ]


def test_repositories_on_the_page_are_known() -> None:
    known = {model.hub for model in published_models()}
    named = set(re.findall(r"hf:(facebook/[\w.-]+)", PAGE))
    assert named
    assert named <= known


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    detectron2_file(tmp_path, SMALL)
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], {"out": tmp_path / "out"})
    assert "layout: detectron2" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == re.findall(r"`(\w+\.\w+)`", PAGE.split("## What OUT holds")[1])[:4]
