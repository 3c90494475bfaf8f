"""Bulk jobs on a real Ray: what is killed in the middle goes on, and every picture has one row."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from proscale.bulk.segmenter import PictureSegmenter
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from proscale.cli import main; main()", "bulk"]
ON_A_CLUSTER = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from proscale.bulk import BulkOptions
from proscale.bulk.job import run
from proscale.runtime import RuntimeConfig
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
source, output, checkpoint = sys.argv[1:]
paths = sorted(str(path) for path in Path(source).iterdir())
options = BulkOptions(RuntimeConfig(checkpoint=Path(checkpoint)), address=cluster.address, actors=1, batch=4, rows_per_file=8)
done = 0
def on_rows(rows, failed):
    global done
    done += rows
    if done and nodes:
        # The actor may sit on either node: both go, a fresh one comes.
        cluster.add_node(num_cpus=1)
        while nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
summary = run(paths, Path(output), options, on_rows)
print(summary.pictures, summary.failed)
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture
def source(tmp_path: Path, picture: np.ndarray) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(np.roll(picture, number, 1)[: 60 - number % 3]).save(folder / f"{number:02}.png")
    (folder / "99.jpg").write_text("broken")
    return folder


def rows_of(output: Path) -> list[dict]:
    tables = [pyarrow.parquet.read_table(part) for part in sorted(output.glob("part-*.parquet"))]
    return sorted(pyarrow.concat_tables(tables).to_pylist(), key=lambda row: row["path"])


def expected(source: Path, checkpoint: Path) -> list[dict]:
    alone = PictureSegmenter(RuntimeConfig(checkpoint=checkpoint), SegmentationOptions(), "off", "full", 10**6)
    return alone({"path": np.array(sorted(map(str, source.iterdir())), object)}).to_pylist()


def same(rows: list[dict], others: list[dict]) -> None:
    assert [row["path"] for row in rows] == [row["path"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row["error"] == other["error"]
        assert [s["counts"] for s in row["segments"] or []] == [s["counts"] for s in other["segments"] or []]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1"}


def test_a_killed_job_continues_and_loses_or_repeats_no_picture(source: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    output = tmp_path / "out"
    command = [*COMMAND, str(source), str(output), "--checkpoint", str(small_checkpoint), "--batch", "2", "--rows-per-file", "2"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as first:
        end = time.monotonic() + 240
        while not list(output.glob("part-*.parquet")):
            assert time.monotonic() < end
            assert first.poll() is None, first.stdout.read() if first.stdout else ""
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
    begun = rows_of(output)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr  # one picture is broken
    same(rows_of(output), expected(source, small_checkpoint))
    summary = json.loads((output / "_summary.json").read_text())
    assert (summary["pictures"] + summary["done_before"], summary["done_before"]) == (25, len(begun))
    again = subprocess.run([*command, "--most-failed", "0.5"], env=environment(), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "0 pictures" in again.stdout
    assert "25 done before" in again.stdout


def test_lost_nodes_are_replaced_and_their_pictures_computed_again(source: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    command = [sys.executable, "-c", ON_A_CLUSTER, str(source), str(tmp_path / "out"), str(small_checkpoint)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=400)
    assert re.search("^25 1$", done.stdout, re.MULTILINE), done.stdout + done.stderr
    same(rows_of(tmp_path / "out"), expected(source, small_checkpoint))


def test_a_missing_cluster_is_an_error(source: Path, tmp_path: Path, small_checkpoint: Path) -> None:
    command = [*COMMAND, str(source), str(tmp_path / "out"), "--checkpoint", str(small_checkpoint), "--address", "127.0.0.1:1"]
    environ = environment() | {"RAY_gcs_server_request_timeout_seconds": "2", "RAY_gcs_rpc_server_reconnect_timeout_s": "2"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
