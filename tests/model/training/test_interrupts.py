"""Ctrl-C waits for the end of an update."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from tests.builders import SMALL_CATEGORIES, SMALL_CONFIG
from tests.model.training.test_loop import CONFIG, two_squares

from proscale.training.interrupts import uninterrupted
from proscale.training.loop import InterruptedTrainingError, Trainer


def test_ctrl_c_is_raised_after_the_block() -> None:
    done: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is before
    with uninterrupted():
        pass


def test_other_threads_are_left_alone() -> None:
    done: list[int] = []

    def work() -> None:
        with uninterrupted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


@pytest.mark.slow
def test_ctrl_c_during_an_update_saves_the_whole_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Trainer(tmp_path / "whole", CONFIG, SMALL_CONFIG, SMALL_CATEGORIES)
    whole.run(two_squares, 2, [], workers=0, progress=False)
    trainer = Trainer(tmp_path / "parts", CONFIG, SMALL_CONFIG, SMALL_CATEGORIES)
    update = trainer.average.update

    def interrupted(network: torch.nn.Module, step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)  # the weights have moved, the average has not
        update(network, step)

    monkeypatch.setattr(trainer.average, "update", interrupted)
    with pytest.raises(InterruptedTrainingError):
        trainer.run(two_squares, 2, [], workers=0, progress=False)
    assert trainer.step == 3
    again = Trainer(tmp_path / "parts", CONFIG, SMALL_CONFIG, SMALL_CATEGORIES)
    again.resume()
    again.run(two_squares, 2, [], workers=0, progress=False)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name
