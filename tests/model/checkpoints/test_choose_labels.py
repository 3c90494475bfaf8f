"""Labels tables: the published facts about them hold."""

import pytest

from proscale.checkpoints.choose_labels import choose_labels
from proscale.checkpoints.stated_settings import StatedSettings
from proscale.errors import CheckpointError
from proscale.labels import label_table, names_agree, table_names

COUNTS = {
    "coco_panoptic": (133, 80),
    "coco_instance": (80, 80),
    "ade20k": (150, 100),
    "ade20k_instance": (100, 100),
    "cityscapes": (19, 8),
    "cityscapes_instance": (8, 8),
    "mapillary_vistas": (65, 37),
    "mapillary_vistas_66": (66, 37),
}


def test_every_table_is_tested() -> None:
    assert set(table_names()) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_classes_and_things(name: str) -> None:
    categories = label_table(name).categories
    assert (len(categories), sum(category.isthing for category in categories)) == COUNTS[name]
    assert len({category.id for category in categories}) == len(categories)
    assert len({category.name for category in categories}) == len(categories)
    assert all(category.name == category.name.strip() for category in categories)
    assert [category.id for category in categories] == sorted(category.id for category in categories)


def test_coco_ids() -> None:
    categories = label_table("coco_panoptic").categories
    assert [category.isthing for category in categories] == [True] * 80 + [False] * 53
    by_name = {category.name: category.id for category in categories}
    assert {name: by_name[name] for name in ("person", "dog", "toothbrush", "banner", "sky-other-merged", "rug-merged")} == {
        "person": 1,
        "dog": 18,
        "toothbrush": 90,
        "banner": 92,
        "sky-other-merged": 187,
        "rug-merged": 200,
    }
    assert {category.id for category in categories[:80]} == set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert label_table("coco_instance").categories == categories[:80]


def test_other_ids() -> None:
    assert [category.id for category in label_table("cityscapes").categories][:6] == [7, 8, 11, 12, 13, 17]
    assert label_table("cityscapes_instance").categories[0].name == "person"
    assert label_table("ade20k").categories[12].name == "person"
    assert label_table("ade20k_instance").categories[0].name == "bed"
    assert label_table("mapillary_vistas").categories[19].name == "Person"
    with pytest.raises(CheckpointError, match="there are ade20k, ade20k_instance"):
        label_table("../ade20k")


def test_own_names_get_the_data_sets_ids() -> None:
    table = label_table("ade20k")
    own = tuple(category.name.split(",")[0] + " " for category in table.categories)
    renamed = (*own[:8], "windowpane", *own[9:])
    assert names_agree(renamed, table)
    labels = choose_labels(150, StatedSettings(label_names=renamed), None)
    assert labels.categories[8].name == "windowpane"
    assert [(c.id, c.isthing) for c in labels.categories] == [(c.id, c.isthing) for c in table.categories]
    assert not names_agree(tuple(reversed(own)), table)


def test_unknown_names_become_things_with_a_note() -> None:
    labels = choose_labels(19, StatedSettings(label_names=tuple(f"part {i}" for i in range(19))), None)
    assert labels.categories[3].name == "part 3"
    assert all(category.isthing for category in labels.categories)
    assert "nothing says which are stuff" in labels.reason


def test_data_set_of_the_configuration_must_fit() -> None:
    with pytest.raises(CheckpointError, match=r"says COCO panoptic, with 133 classes; the weights have 5. Give --labels"):
        choose_labels(5, StatedSettings(dataset="coco_panoptic"), None)
