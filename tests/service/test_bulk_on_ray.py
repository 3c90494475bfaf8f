"""`proscale bulk` on the Ray that it starts by itself: through a service, and with a picture that ends its process."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import ray
from click.testing import CliRunner
from PIL import Image
from tests.model.bulk.shared import assert_same_rows, declared

from proscale.bulk.job import run
from proscale.bulk.listing import list_pictures
from proscale.bulk.options import BulkOptions, Work
from proscale.bulk.segmenter import PictureSegmenter
from proscale.cli import main
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale_service.errors import Overloaded

from .serving import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("embedded"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),  # Ray's, of its own options
]
CONCURRENCY = 4


@pytest.fixture(scope="module")
def embedded() -> Iterator[None]:
    """The jobs of this module share the Ray that the first one starts."""
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers step back for everybody else, and on a machine that runs tests they would hardly ever get a turn.
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
        ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path, picture: np.ndarray) -> Path:
    inside = tmp_path / "in"
    inside.mkdir()
    for number in range(8):
        Image.fromarray(np.roll(picture, 7 * number, 1)).save(inside / f"{number}.png")
    return inside


def rows_of(output: Path) -> list[dict[str, Any]]:
    tables = [pyarrow.parquet.read_table(part) for part in output.glob("part-*.parquet")]
    return sorted(pyarrow.concat_tables(tables).to_pylist(), key=lambda row: row["path"])


def alone(folder: Path, checkpoint: Path) -> list[dict[str, Any]]:
    """Rows of one process without Ray."""
    segmenter = PictureSegmenter(RuntimeConfig(checkpoint=checkpoint), SegmentationOptions(), "off", "full", 10**6)
    rows: list[dict[str, Any]] = segmenter({"path": np.array([each.path for each in list_pictures([str(folder)])], object)}).to_pylist()
    return rows


def test_a_busy_service_gets_no_more_than_it_may_and_rests_as_long_as_it_asks(
    folder: Path, tmp_path: Path, small_checkpoint: Path, small_predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proscale.bulk.command.entry_points", declared)
    refused, connections = list[tuple[float, int]](), list[int]()
    with serving(small_predictor, max_concurrent_pictures=2) as running:
        enter = running.pipeline.enter

        def counted(*arguments: Any) -> None:
            connections.append(len(running.server.server_state.connections))
            try:
                enter(*arguments)
            except Overloaded as error:
                refused.append((time.monotonic(), error.retry_after or 0))
                raise

        monkeypatch.setattr(running.pipeline, "enter", counted)
        arguments = [str(folder), str(tmp_path / "out"), "--service", running.url, "--concurrency", str(CONCURRENCY)]
        result = CliRunner().invoke(main, ["bulk", *arguments])
    assert result.exit_code == 0, result.output
    assert_same_rows(rows_of(tmp_path / "out"), alone(folder, small_checkpoint))
    assert max(connections) == CONCURRENCY
    assert refused, "the service was never busy"
    seconds, asked = refused[-1][0] - refused[0][0], min(each for _, each in refused)
    assert asked >= 1
    assert len(refused) <= CONCURRENCY * (1 + seconds / asked), "after a refusal comes a rest; those that were sent together are one"


def test_a_picture_that_ends_its_process_is_a_row_in_the_end(folder: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    class Ending(PictureSegmenter):  # in here, so that Ray takes its code to the actor, which has no tests
        """A model with a fault that one picture meets."""

        def __call__(self, batch: Mapping[str, Any]) -> pyarrow.Table:
            if str(folder / "7.png") in batch["path"].tolist():
                with (folder / "ends").open("a") as ends:
                    ends.write(".")
                os.kill(os.getpid(), signal.SIGSEGV)
            return super().__call__(batch)

    options = BulkOptions(batch=8, attempts=1)
    arguments = (RuntimeConfig(checkpoint=small_checkpoint), options.segmentation, "off", "full", 10**6)
    summary = run(list_pictures([str(folder)]), tmp_path / "out", options, work=Work(Ending, arguments, {}))
    rows = rows_of(tmp_path / "out")
    assert "its process ended at each of 1 attempts: " in rows[7]["error"]
    assert "SIGSEGV" in rows[7]["error"], "Ray tells how"
    assert (folder / "ends").read_text() == "." * 3, "twice with its batch, once alone"
    assert_same_rows(rows[:7], alone(folder, small_checkpoint)[:7])
    assert (summary.pictures, summary.failed) == (8, 1)
