"""Bulk jobs on a real Ray: what is killed in the middle goes on, and every picture has one row."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from PIL import Image

from proscale.bulk.segmenter import PictureSegmenter
from proscale.cli import main
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig

from .shared import assert_same_rows

COMMAND = [sys.executable, "-c", "from proscale.cli import main; main()", "bulk"]
TILE = "64,16"
"""Many windows a picture, so that a job is still in its middle when something is killed."""
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
node = cluster.add_node(num_cpus=1, **small)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(node, allow_graceful=False)
    node = cluster.add_node(num_cpus=1, **small)
    print("replaced", flush=True)
cluster.shutdown()
"""
"""A head that computes nothing and a node for one actor; every line that is written to it kills the node, and brings another."""


@pytest.fixture
def source(tmp_path: Path, picture: np.ndarray) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(16):
        Image.fromarray(np.roll(picture, number, 1)[: 60 - number % 3].repeat(2, 0).repeat(2, 1)).save(folder / f"{number:02}.png")
    (folder / "99.jpg").write_text("broken")
    return folder


def environment() -> dict[str, str]:
    # Ray's workers step back for everybody else, and on a machine that runs tests they would hardly ever get a turn.
    return os.environ | {"OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_worker_niceness": "0"}


@pytest.fixture
def cluster() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        yield started
        started.communicate()


def rows_of(output: Path) -> list[dict]:
    tables = [pyarrow.parquet.read_table(part) for part in sorted(output.glob("part-*.parquet"))]
    return sorted(pyarrow.concat_tables(tables).to_pylist(), key=lambda row: row["path"])


def wait_for_parts(process: "subprocess.Popen[str]", output: Path, more_than: int) -> None:
    end = time.monotonic() + 240
    while len(list(output.glob("part-*.parquet"))) <= more_than:
        assert time.monotonic() < end, "no part comes"
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_driver_and_a_dead_node_lose_and_double_nothing(
    source: Path, tmp_path: Path, small_checkpoint: Path, cluster: "subprocess.Popen[str]"
) -> None:
    output = tmp_path / "out"
    arguments = [str(source), str(output), "--checkpoint", str(small_checkpoint), "--tile", TILE, "--batch", "1", "--rows-per-file", "1"]
    started: dict[str, Any] = {
        "env": environment(),
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "start_new_session": True,
    }
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    command = [*COMMAND, *arguments, "--address", cluster.stdout.readline().strip()]
    with subprocess.Popen(command, **started) as first:
        wait_for_parts(first, output, 0)
        os.killpg(first.pid, signal.SIGKILL)
    begun = len(rows_of(output))
    with subprocess.Popen(command, **started) as second:
        wait_for_parts(second, output, begun)
        cluster.stdin.write("kill\n")
        cluster.stdin.flush()
        said, _ = second.communicate(timeout=300)
    assert second.returncode == 1, said  # one picture is broken
    assert cluster.stdout.readline() == "replaced\n"
    rows = rows_of(output)
    alone = PictureSegmenter(RuntimeConfig(checkpoint=small_checkpoint), SegmentationOptions(), TILE, "full", 10**6)
    assert_same_rows(rows, alone({"path": np.array(sorted(map(str, source.iterdir())), object)}).to_pylist())
    assert {row["windows"] for row in rows} == {None, 9}
    summary = json.loads((output / "_summary.json").read_text())
    assert (summary["pictures"] + summary["done_before"], summary["done_before"]) == (17, begun)
    again = CliRunner().invoke(main, ["bulk", *arguments, "--most-failed", "0.5"])  # nothing is left, so that no Ray is needed
    assert again.exit_code == 0, again.output
    assert "0 pictures" in again.output
    assert "17 done before (1 failed)" in again.output


def test_where_no_cluster_is_that_is_said(source: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        arguments = ["bulk", str(source), str(tmp_path / "out"), "--checkpoint", str(small_checkpoint), "--address", address]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert f"no Ray cluster answers at {address}" in result.output
