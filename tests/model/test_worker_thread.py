"""The thread that computes for Triton: takes over at once, holds back when a batch waits, answers everybody, whatever happens."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from proscale.errors import CheckpointError
from proscale.runtime import RuntimeConfig
from proscale.triton_worker import Reply, Request, Worker
from proscale.wire import DESCRIBE
from proscale.worker_thread import WorkerThread


class Gated:
    """In a worker's place: every call of `handle` waits until it is let through."""

    max_batch_pictures, max_batch_pixels = 4, 10_000

    def __init__(self) -> None:
        self.handled: list[list[bytes]] = []
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def handle(self, requests: list[Request], gone: Callable[[int], bool]) -> Iterator[tuple[int, Reply]]:
        self.entered.release()
        assert self.gate.acquire(timeout=30)
        self.handled.append([request.options for request in requests])
        for index, request in enumerate(requests):
            if request.options == b"raise":
                raise MemoryError("no more")
            yield index, Reply(cancelled=gone(index), text=request.options.decode())


@pytest.fixture
def answers() -> dict[str, Reply]:
    return {}


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
def thread(gated: Gated, answers: dict[str, Reply]) -> Iterator[WorkerThread[str]]:
    thread = WorkerThread[str](lambda: cast(Worker, gated), answers.__setitem__, gone=lambda ticket: ticket == "left")
    yield thread
    gated.gate.release(100)
    thread.close()


def pair(name: str, side: int = 10) -> tuple[str, Request]:
    return name, Request(np.zeros((side, side, 3), np.uint8), (side,) * 4, name.encode())


def test_pictures_are_taken_over_while_others_are_computed_and_computed_together(
    thread: WorkerThread[str], gated: Gated, answers: dict[str, Reply]
) -> None:
    thread.submit([pair("a")])
    assert gated.entered.acquire(timeout=30)
    thread.submit([pair("b")])
    thread.submit([pair("left"), pair("c")])
    assert not answers
    gated.gate.release(100)
    thread.close()
    assert gated.handled == [[b"a"], [b"b", b"left", b"c"]]
    assert {name: reply.cancelled for name, reply in answers.items()} == {"a": False, "b": False, "left": True, "c": False}


@pytest.mark.parametrize("waiting", [[pair(f"small {i}") for i in range(4)], [pair("large", 100)]])
def test_when_a_batch_waits_no_more_is_taken(thread: WorkerThread[str], gated: Gated, waiting: list[tuple[str, Request]]) -> None:
    thread.submit([pair("a")])
    assert gated.entered.acquire(timeout=30)
    thread.submit(waiting)
    held = threading.Thread(target=thread.submit, args=([pair("z")],))
    held.start()
    held.join(0.2)
    assert held.is_alive()
    gated.gate.release()  # "a" is done, and what waited is taken
    held.join(30)
    assert not held.is_alive()
    assert [len(batch) for batch in gated.handled] == [1]


def test_what_fails_outside_of_any_picture_is_an_answer_too_and_the_thread_goes_on(
    thread: WorkerThread[str], gated: Gated, answers: dict[str, Reply]
) -> None:
    thread.submit([pair("a"), pair("raise"), pair("b")])
    assert gated.entered.acquire(timeout=30)
    thread.submit([pair("c")])
    gated.gate.release(100)
    thread.close()
    assert [answers[name].internal for name in ("a", "raise", "b", "c")] == [False, True, True, False]
    assert "no more" in str(answers["b"].error)


def test_a_failed_answer_does_not_affect_other_requests(gated: Gated) -> None:
    answered: list[str] = []

    def answer(ticket: str, reply: Reply) -> None:
        if ticket == "a":
            raise ConnectionError("gone")
        answered.append(ticket)

    thread = WorkerThread[str](lambda: cast(Worker, gated), answer)
    gated.gate.release(100)
    thread.submit([pair("a"), pair("b")])
    thread.close()
    assert answered == ["b"]


def test_the_number_of_waiting_pictures_is_reported(gated: Gated) -> None:
    changes: list[int] = []
    thread = WorkerThread[str](lambda: cast(Worker, gated), lambda ticket, reply: None, on_waiting=changes.append)
    gated.gate.release(100)
    thread.submit([pair("a"), pair("b")])
    thread.close()
    assert changes == [2, -2]


def test_a_worker_that_cannot_be_loaded_says_why() -> None:
    with pytest.raises(CheckpointError, match="/nowhere"):
        WorkerThread[Any](lambda: Worker.load(RuntimeConfig(checkpoint=Path("/nowhere"))), lambda ticket, reply: None)


def test_the_network_is_loaded_and_run_on_the_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    forward = torch.nn.Module.__call__

    def watch(self: torch.nn.Module, *arguments: Any, **named: Any) -> Any:
        seen.add(threading.current_thread().name)
        return forward(self, *arguments, **named)

    monkeypatch.setattr(torch.nn.Module, "__call__", watch)
    answered = threading.Event()
    thread = WorkerThread[str](lambda: Worker.load(RuntimeConfig(warmup=((64, 64),))), lambda ticket, reply: answered.set())
    assert seen == {"worker"}
    thread.submit([("x", Request(np.zeros((32, 32, 3), np.uint8), (32,) * 4, DESCRIBE.encode()))])
    assert answered.wait(60)
    thread.close()
    assert seen == {"worker"}


@pytest.mark.slow
def test_a_process_whose_gpu_failed_ends_without_answering() -> None:
    """A gateway sends what was not answered to another worker, and has the model loaded anew; an answer would be a lost picture."""
    code = """
import time
from proscale.errors import DeviceError
from proscale.worker_thread import WorkerThread

class Lost:
    max_batch_pictures, max_batch_pixels = 4, 10_000
    def handle(self, requests, gone):
        raise DeviceError("cuda:0 failed")
        yield

class Picture:
    pixels = 100

WorkerThread(Lost, lambda ticket, reply: print("answered")).submit([("a", Picture())])
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "answered" not in done.stdout
    assert "this process can compute no more" in done.stderr
