"""One POST crosses few files and few threads, and nothing is done twice: traced on a real server."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import proscale_service
from proscale.pictures import OpenedPicture
from proscale.results import Plan

from .predictors import ThresholdPredictor
from .routes.asking import post
from .serving import serving

PACKAGE = str(Path(proscale_service.__file__).parent)
AROUND = {"app.py", "context.py", "doorway.py", "limits.py", "request_line.py", "compression.py", "guard.py", "quota.py", "server.py"}
"""Layers that every request passes before it meets a route."""
RECORDS = {"base.py", "content_types.py", "costs.py", "options.py", "processor.py", "queue.py", "responses.py"}
"""Interfaces, and what a file above them is made of; queue and processor are what the backlogs and batchers of several models share."""
HELPERS = {"metrics.py", "logs.py", "errors.py", "keys.py", "stderr_lines.py", "settings.py", "models.py", "dependencies.py"}


class Counting(ThresholdPredictor):
    def __init__(self) -> None:
        super().__init__()
        self.plans = 0

    def plan(self, height: int, width: int, tasks: Any) -> Plan:
        self.plans += 1
        return super().plan(height, width, tasks)


@pytest.fixture
def files() -> Iterator[set[str]]:
    """The service's files whose functions are called by threads that start from here on."""
    seen: set[str] = set()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        code: CodeType = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            seen.add(code.co_filename[len(PACKAGE) + 1 :])

    threading.setprofile(trace)
    yield seen
    threading.setprofile(None)


def test_one_post_crosses_ten_files_three_hand_overs_and_no_check_twice(files: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    handed_over: list[object] = []
    count_calls(monkeypatch, OpenedPicture, "__init__", opened)
    count_calls(monkeypatch, ThreadPoolExecutor, "submit", handed_over)
    predictor = Counting()
    with serving(predictor, decode_threads=1) as server:
        assert post(server).status_code == 200  # what happens once per process
        for each in (files, opened, handed_over):
            each.clear()
        predictor.plans = 0
        assert post(server).status_code == 200
        steps = {file for file in files if Path(file).name not in AROUND | HELPERS | RECORDS}
        assert (len(opened), predictor.plans, len(handed_over)) == (1, 1, 3)
        # FastAPI runs what is no coroutine on threads of AnyIO.
        assert not [thread.name for thread in threading.enumerate() if "AnyIO" in thread.name]
    assert {"routes/segment.py", "pipeline.py", "images.py", "rendering.py", "engines/batching.py"} <= steps
    assert len(steps) <= 10, steps


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, calls: list[object]) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)
