"""Event files are read back by TensorBoard's own reader."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from proscale.errors import DataError
from proscale.training import event_log
from proscale.training.event_log import FOLDER, EventLog, check_installed

GREEN = np.full((6, 8, 3), (0, 255, 0), np.uint8)


def read_events(run: Path) -> Any:
    """What TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / FOLDER), {"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(events: Any, name: str) -> list[Any]:
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]


def test_numbers_texts_and_pictures_come_back(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 0)
    log.record({"step": 20, "loss": 2.5, "learning_rate": 5e-4})
    log.record({"step": 40, "loss": 1.25, "learning_rate": 4e-4})
    log.record({"step": 40, "evaluation": {"pq": 0.5, "miou": 0.75}})
    log.record({"step": 40, "changed": {"settings.steps": [50, 60]}})
    log.picture("overlays/cells", GREEN, 40)
    log.close()
    events = read_events(tmp_path)
    assert scalars(events, "training/loss") == [(20, 2.5), (40, 1.25)]
    assert scalars(events, "training/learning_rate") == [(20, 5e-4), (40, 4e-4)]
    assert scalars(events, "evaluation/pq") == [(40, 0.5)]
    assert set(events.Tags()["scalars"]) == {"training/loss", "training/learning_rate", "evaluation/pq", "evaluation/miou"}
    (text,) = events.Tensors("changed/text_summary")
    assert b"settings.steps" in text.tensor_proto.string_val[0]
    (picture,) = events.Images("overlays/cells")
    assert (picture.step, np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))).tolist()) == (40, GREEN.tolist())


def test_steps_that_are_done_again_take_the_place_of_the_earlier_ones(tmp_path: Path) -> None:
    for first, steps in ((0, (20, 40, 60)), (50, (60, 80))):
        log = EventLog(tmp_path, first)
        for step in steps:
            log.record({"step": step, "loss": float(step + first)})
        log.close()
    assert scalars(read_events(tmp_path), "training/loss") == [(20, 20.0), (40, 40.0), (60, 110.0), (80, 130.0)]


def test_without_tensorboard_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr(event_log, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'proscale-segmentation-service\[tensorboard\]'"):
        check_installed()
