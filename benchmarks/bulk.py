"""`proscale bulk` at length: what breaks in the middle, that no row differs from a single process's, and what Ray costs.

Pictures are made from `data/nuclei` by cutting, turning and brightening; one in a hundred is broken. Measured:

- overhead: seconds per picture of a job with one actor over the bare predictor's (read, decode, segment; no Ray, no rows), by turns, and
  by the time between rows, so that starting Ray and loading the model count for neither; and the same of processors' seconds, of all
  processes of the job;
- a cluster of three nodes on this machine: an actor is killed, then a node, then the driver, which is started again; rows are compared
  one by one with those of one process, and the memory of every actor is sampled;
- against the loop that people write, `requests` in a pool of threads to `proscale serve`: pictures per second of it, of
  `proscale bulk --service` to the same server, and of models in the actors.

Exit status 1: rows differ, an actor grows, or the overhead is above `--most-overhead`.

Run: python benchmarks/bulk.py [--pictures 20000] [--size 256] [--short-side 96] [--parts overhead cluster loop] [--out FILE]
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.dataset
import requests
from job_processes import GROWTH, actors, flatness, processor_seconds, sampled_memory
from PIL import Image, ImageEnhance
from processor import processor
from tqdm import tqdm

from proscale.bulk.rows import SCHEMA
from proscale.checkpoints.model_folder import DEFAULT_FOLDER

NUCLEI = Path(__file__).parents[1] / "data/nuclei/train"
COMMAND = [sys.executable, "-c", "from proscale.cli import main; main()"]
PARTS = ("overhead", "cluster", "loop")
AT_ONCE = 4
"""Requests in flight, of the loop and of the job alike."""


def make_pictures(folder: Path, count: int, size: int, broken: float) -> list[str]:
    """Their paths, in order."""
    folder.mkdir()
    rng = np.random.default_rng(16)
    sources = [Image.open(path).convert("RGB") for path in sorted(NUCLEI.glob("*.*"))[:50]]
    paths = []
    for number in tqdm(range(count), desc="making pictures", unit="picture"):
        source = sources[int(rng.integers(len(sources)))]
        scale = max(1.0, size / min(source.size))
        image = source.resize((round(source.width * scale), round(source.height * scale)))
        left, top = (int(rng.integers(0, side - size + 1)) for side in image.size)
        image = image.crop((left, top, left + size, top + size)).rotate(90 * int(rng.integers(4)))
        path = folder / f"{number:07}.jpg"
        ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.7, 1.3))).save(path, quality=90)
        if rng.random() < broken:
            path.write_bytes(path.read_bytes()[: 200 if number % 2 else 0] or b"no picture")
        paths.append(str(path))
    return paths


def model_at(folder: Path, source: Path, short_side: int) -> Path:
    """A copy of a model folder whose network sees pictures at this short side: many more per second, for what has nothing to do with it."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["preprocess"] |= {"short_side": short_side, "long_side": 2 * short_side}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def alone(paths: Sequence[str], arguments: argparse.Namespace, bare: bool) -> dict[str, Any]:
    """One process over all pictures, started afresh: seconds without loading; its rows, unless it is bare. Args: bare: predictor alone."""
    with tempfile.TemporaryDirectory() as folder:
        listed, rows = Path(folder) / "list.txt", Path(folder) / "rows.arrow"
        listed.write_text("\n".join(paths))
        command = [sys.executable, __file__, "--one", f"{'bare' if bare else 'rows'},{listed},{rows}", *model_of(arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if not bare:
            with pyarrow.OSFile(str(rows)) as file:
                result["rows"] = pyarrow.ipc.open_file(file).read_all().to_pylist()
    return result


def one_process(kind: str, listed: str, rows: str, checkpoint: Path | None) -> None:
    """What `alone` starts."""
    from proscale.bulk.segmenter import PictureSegmenter
    from proscale.errors import PictureError
    from proscale.loading import load_predictor
    from proscale.pictures import read_picture
    from proscale.results import SegmentationOptions
    from proscale.runtime import RuntimeConfig

    paths, options = Path(listed).read_text().splitlines(), SegmentationOptions()
    runtime = RuntimeConfig(checkpoint=checkpoint, threads=1)
    starts = range(0, len(paths), 16)
    if kind == "rows":
        segmenter = PictureSegmenter(runtime, options, "off", "full", 40_000_000)
        tables = [segmenter({"path": np.array(paths[s : s + 16], object)}) for s in tqdm(starts, desc="one process", unit="batch")]
        with pyarrow.OSFile(rows, "wb") as file, pyarrow.ipc.new_file(file, SCHEMA) as writer:
            writer.write_table(pyarrow.concat_tables(tables))
        print(json.dumps({}))
        return
    predictor = load_predictor(runtime)

    def work(chosen: Sequence[str]) -> None:
        images = []
        for path in chosen:
            try:
                images.append(read_picture(Path(path).read_bytes(), 40_000_000).rgb)
            except PictureError:
                continue
        predictor.segment(images, [options] * len(images))

    work(paths[:16])
    started, computed = time.perf_counter(), time.process_time()
    for start in starts:
        work(paths[start : start + 16])
    seconds, computed = time.perf_counter() - started, time.process_time() - computed
    print(json.dumps({"seconds": seconds / len(paths), "processor_seconds": computed / len(paths)}))


def overhead(paths: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The job with one actor against the bare predictor, by turns: time, and time of processors, which other work changes less."""
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        bare, job = alone(paths, arguments, bare=True), job_seconds(paths, arguments)
        for name in ("seconds", "processor_seconds"):
            figures[f"bare_{name}"].append(round(bare[name], 5))
            figures[f"job_{name}"].append(round(job[name], 5))
        figures["job_whole"].append(round(job["whole"], 1))
        print({name: each[-1] for name, each in figures.items()}, flush=True)
    middle = {name: statistics.median(each) for name, each in figures.items()}
    return {
        "pictures": len(paths),
        "per_picture": figures,
        "overhead": round(middle["job_seconds"] / middle["bare_seconds"] - 1, 4),
        "overhead_of_processors": round(middle["job_processor_seconds"] / middle["bare_processor_seconds"] - 1, 4),
    }


def job_seconds(paths: Sequence[str], arguments: argparse.Namespace, *more: str) -> dict[str, float]:
    """Of `proscale bulk`: seconds and processor seconds per picture between its first rows and its last, and seconds of the `whole`."""
    with tempfile.TemporaryDirectory() as folder:
        listed, output = Path(folder) / "list.txt", Path(folder) / "out"
        listed.write_text("\n".join(paths))
        command = [*COMMAND, "bulk", str(listed), str(output), "--rows-per-file", "16", "--most-failed", "1", *more]
        command += [] if "--service" in more else model_of(arguments)
        started = time.perf_counter()
        samples = list[tuple[int, float, float]]()
        with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as job:
            while job.poll() is None:
                rows = rows_in(output)
                if rows and (not samples or rows > samples[-1][0]):
                    samples.append((rows, time.perf_counter(), processor_seconds(job.pid)))
                time.sleep(0.05)
        assert job.returncode == 0
        whole = time.perf_counter() - started
    (first, began, computed), (last, ended, all_computed) = samples[0], samples[-1]
    count = last - first
    return {"seconds": (ended - began) / count, "processor_seconds": (all_computed - computed) / count, "whole": whole}


def on_a_cluster(paths: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill an actor, a node and the driver, and compare the rows."""
    from ray.cluster_utils import Cluster

    os.environ.update(environment())  # of the cluster's machines: what they start has the environment of them
    small: dict[str, Any] = {"object_store_memory": 200 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    events, done_at = list[str](), lambda share: round(share * len(paths))
    with tempfile.TemporaryDirectory() as folder, sampled_memory() as memory:
        listed, output = Path(folder) / "list.txt", Path(folder) / "out"
        listed.write_text("\n".join(paths))
        command = [*COMMAND, "bulk", str(listed), str(output), "--address", cluster.address, "--actors", "2", "--most-failed", "0.05"]
        command += ["--rows-per-file", "64", *model_of(arguments)]
        started = time.perf_counter()
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True) as driver:
            reached(output, done_at(0.2), driver)
            os.kill(next(iter(actors())), signal.SIGKILL)
            events.append("an actor killed at a fifth")
            reached(output, done_at(0.4), driver)
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1, **small))
            events.append("a node killed at two fifths, another one came")
            reached(output, done_at(0.6), driver)
            os.killpg(driver.pid, signal.SIGKILL)
            events.append("the driver killed at three fifths, and started again")
        kept = rows_in(output)
        again = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - started
        found = sorted(pyarrow.dataset.dataset(sorted(output.glob("part-*.parquet"))).to_table().to_pylist(), key=lambda row: row["path"])
    cluster.shutdown()
    expected = sorted(alone(paths, arguments, bare=False)["rows"], key=lambda row: row["path"])
    return {
        "pictures": len(paths),
        "events": events,
        "rows_kept_by_the_killed_driver": kept,
        "said": again.stdout.strip(),
        "seconds": round(seconds, 1),
        "rows": len(found),
        "errors": sum(row["error"] is not None for row in found),
        "rows_equal": without_scores(found) == without_scores(expected),
        "largest_difference_of_scores": difference_of_scores(found, expected),
        "actors": flatness(memory),
    }


def without_scores(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which pictures are computed together decides how sums are rounded: scores differ in their last digit."""
    return [row | {"segments": [segment | {"score": None} for segment in row["segments"] or ()]} for row in rows]


def difference_of_scores(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """The largest one."""
    pairs = [[segment["score"] for row in each for segment in row["segments"] or ()] for each in (rows, others)]
    return max((abs(a - b) for a, b in zip(*pairs, strict=False)), default=0.0)


def against_the_loop(paths: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Pictures per second of the loop, of a job that feeds the same service, and of a job with a model."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with service(arguments) as url:
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            statuses = hand_made(url, paths)
            rates["requests in a pool of threads"].append(len(paths) / (time.perf_counter() - started))
            job = job_seconds(paths, arguments, "--service", url, "--concurrency", str(AT_ONCE))
            rates["proscale bulk --service"].append(1 / job["seconds"])
    for _ in range(arguments.rounds):
        rates["proscale bulk, a model in the actor"].append(1 / job_seconds(paths, arguments)["seconds"])
    table = {name: round(statistics.median(each), 2) for name, each in rates.items()}
    for name, rate in table.items():
        print(f"{name:>36}: {rate:8.2f} pictures per second", flush=True)
    return {"pictures": len(paths), "in_flight": AT_ONCE, "pictures_per_second": table, "statuses_of_the_loop": statuses}


def hand_made(url: str, paths: Sequence[str]) -> dict[str, int]:
    """The loop that people write; how often which status came."""
    session = requests.Session()

    def one(path: str) -> int:
        return session.post(f"{url}/segment", data=Path(path).read_bytes(), headers={"content-type": "image/jpeg"}).status_code

    with ThreadPoolExecutor(AT_ONCE) as pool:
        statuses = list(pool.map(one, paths))
    return {str(status): statuses.count(status) for status in sorted(set(statuses))}


@contextmanager
def service(arguments: argparse.Namespace) -> Iterator[str]:
    """`proscale serve` with one thread for the network: its URL."""
    checkpoint = {} if arguments.checkpoint is None else {"PROSCALE_CHECKPOINT": str(arguments.checkpoint)}
    env = environment() | {"PROSCALE_THREADS": "1"} | checkpoint
    serve = [sys.executable, "-c", "from proscale_service.cli import serve; serve()", "--port", "0"]
    with subprocess.Popen(serve, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        assert started.stdout is not None
        url = started.stdout.readline().split()[-1]
        while requests.get(f"{url}/health/ready").status_code != 200:
            time.sleep(0.1)
        yield url
        started.terminate()


def rows_in(output: Path) -> int:
    """Rows that are written."""
    parts = sorted(output.glob("part-*.parquet"))
    return pyarrow.dataset.dataset(parts).count_rows() if parts else 0


def reached(output: Path, rows: int, driver: "subprocess.Popen[str]") -> None:
    """Wait until so many rows are written."""
    while rows_in(output) < rows:
        if driver.poll() is not None:
            sys.exit(f"the job ended before {rows} rows")
        time.sleep(0.2)


def environment() -> dict[str, str]:
    """Of everything that is started: one thread for libraries, and for Ray's workers the priority of their peers."""
    return os.environ | {"OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_worker_niceness": "0"}


def model_of(arguments: argparse.Namespace) -> list[str]:
    """The option that names the model."""
    return [] if arguments.checkpoint is None else ["--checkpoint", str(arguments.checkpoint)]


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000, help="of the job on the cluster")
    parser.add_argument("--size", type=int, default=256, help="side of every picture in pixels")
    parser.add_argument("--broken", type=float, default=0.01, help="share of broken pictures")
    parser.add_argument("--timed", type=int, default=1000, help="pictures of the jobs whose time is taken, at most")
    parser.add_argument("--rounds", type=int, default=3, help="of what is compared in time, by turns")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--most-overhead", type=float, default=0.1, help="over the bare predictor; more: exit status 1")
    parser.add_argument("--checkpoint", type=Path, help="model folder; default: the model inside the package")
    parser.add_argument("--short-side", type=int, help="at which the network sees pictures; default: the model's own")
    parser.add_argument("--note", help="what else ran on the machine; stands in the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    if given.one:
        kind, listed, rows = given.one.split(",")
        one_process(kind, listed, rows, given.checkpoint)
        return
    results: dict[str, Any] = {
        "processor": processor(),
        "load_at_the_beginning": [round(each, 2) for each in os.getloadavg()],
        "note": given.note,
        "command": " ".join(["python", "benchmarks/bulk.py", *sys.argv[1:]]),
        "size": given.size,
        "short_side": given.short_side,
        "broken": given.broken,
    }
    with tempfile.TemporaryDirectory(prefix="bulk-") as folder:
        if given.short_side:
            given.checkpoint = model_at(Path(folder) / "model", given.checkpoint or DEFAULT_FOLDER, given.short_side)
        paths = make_pictures(Path(folder) / "pictures", given.pictures, given.size, given.broken)
        timed = paths[: given.timed]
        for name, measure, chosen in (("overhead", overhead, timed), ("cluster", on_a_cluster, paths), ("loop", against_the_loop, timed)):
            if name in given.parts:
                results[name] = measure(chosen, given)
                print(json.dumps(results[name], indent=1), flush=True)
    results["load_at_the_end"] = [round(each, 2) for each in os.getloadavg()]
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(verdict(results, given.most_overhead))


def verdict(results: dict[str, Any], most: float) -> int:
    """The exit status, and on standard error why."""
    figures = results.get("overhead", {})
    above = [name for name in ("overhead", "overhead_of_processors") if figures.get(name, 0.0) > most]
    wrong = [f"{name} over the bare predictor is {figures[name]:.1%}, above {most:.0%}" for name in above]
    if "cluster" in results and not results["cluster"]["rows_equal"]:
        wrong.append("rows differ from those of one process")
    if "cluster" in results and any(each > GROWTH for each in results["cluster"]["actors"]["last_quarter_over_second"]):
        wrong.append("an actor's memory grows")
    for each in wrong:
        print(f"Error: {each}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    main()
