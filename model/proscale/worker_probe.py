"""Tests whether the worker can compute, for health checks inside its container: `python3 -m proscale.worker_probe live` (or `ready`).

Triton's own health says nothing of the model: it stays live and ready when the model's Python process is dead. This asks the model, and
knows three things that a plain request would not: a worker that is busy answers late and is well; a model that is being loaded may take
minutes; and what gateways mend within seconds is no reason to start the container anew. So `live` fails only after a time of being
unwell, which it keeps in a file. Standard library only, so that it starts in a moment.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SIDE = 32
_CANARY = {
    "inputs": [
        {"name": "PICTURE", "datatype": "UINT8", "shape": [1, _SIDE, _SIDE, 3], "data": [0] * (_SIDE * _SIDE * 3)},
        {"name": "SIZES", "datatype": "INT32", "shape": [1, 4], "data": [_SIDE] * 4},
        {"name": "OPTIONS", "datatype": "BYTES", "shape": [1, 1], "data": ['{"describe": true}']},
    ],
    "parameters": {"priority": 1},
}
"""`proscale.wire` describes it: a request that goes through the network and changes nothing."""
_PROGRESS = ("proscale_worker_pictures_total", "proscale_worker_errors_total")
_LEFTOVERS = "proscale_worker_leftovers_total"
MOST_LEFTOVERS = 40
"""Each dead process leaves some threads in Triton for good; a container may have 512 of them."""


@dataclass(frozen=True)
class Memory:
    """What one look leaves for the next. Times are of the machine's monotonic clock, in seconds."""

    unwell_since: float | None = None
    progress: float = -1.0
    """Pictures answered."""


@dataclass(frozen=True)
class Look:
    """What was seen."""

    well: bool
    reason: str
    loading: bool = False
    progress: float = -1.0
    leftovers: float = 0.0


def look(url: str, metrics_url: str, model: str, before: Memory, timeout_s: float = 2.5) -> Look:
    """Ask Triton's metrics, then the model. Args: url: of Triton's HTTP service."""
    samples = _metrics(metrics_url, timeout_s)
    progress = sum(samples.get(name, 0.0) for name in _PROGRESS)
    leftovers = samples.get(_LEFTOVERS, 0.0)
    if before.progress >= 0 and progress > before.progress:
        return Look(True, "it has answered pictures since the last look", progress=progress, leftovers=leftovers)
    try:
        _post(f"{url}/v2/models/{model}/infer", _CANARY, timeout_s)
    except urllib.error.HTTPError as error:
        reason = error.read(500).decode(errors="replace")
    except OSError as error:  # a timeout, or no connection
        reason = f"no answer: {error}"
    else:
        return Look(True, "it answers", progress=progress, leftovers=leftovers)
    return Look(False, reason, _is_loading(url, model, timeout_s), progress, leftovers)


def judge(seen: Look, before: Memory, now: float, patience_s: float, loading_s: float) -> tuple[bool, str, Memory]:
    """Whether the container should go on, why, and what to remember."""
    if seen.leftovers > MOST_LEFTOVERS:
        return False, f"{seen.leftovers:.0f} leftovers of dead processes stay in Triton", Memory(before.unwell_since, seen.progress)
    if seen.well:
        return True, seen.reason, Memory(None, seen.progress)
    since = now if before.unwell_since is None else before.unwell_since
    limit = loading_s if seen.loading else patience_s
    return now - since < limit, f"unwell for {now - since:.0f} s: {seen.reason}", Memory(since, seen.progress)


def main() -> None:
    """Exit with 0 if the container is healthy, with 1 otherwise, and print the reason."""
    parser = argparse.ArgumentParser(prog="python3 -m proscale.worker_probe", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("live", "ready"), help="live: must the container be restarted? ready: can it compute now?")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of Triton's HTTP service (default: %(default)s)")
    parser.add_argument("--metrics-url", default="http://127.0.0.1:8002/metrics", help="address of Triton's metrics (default: %(default)s)")
    parser.add_argument("--model", default="proscale", help="name of the model (default: %(default)s)")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="live: seconds that gateways get to heal an unhealthy model (default: %(default)s)"
    )
    parser.add_argument("--loading", type=float, default=600.0, help="live: most seconds that loading may take (default: %(default)s)")
    parser.add_argument(
        "--memory", type=Path, default=Path("/tmp/worker-probe"), help="file that keeps the state between two probes (default: %(default)s)"
    )
    given = parser.parse_args()
    path = given.memory.with_name(f"{given.memory.name}-{given.what}.json")
    before = _read(path)
    seen = look(given.url, given.metrics_url, given.model, before)
    well, reason, memory = judge(seen, before, time.monotonic(), given.patience, given.loading)
    path.write_text(json.dumps(asdict(memory)))
    print(reason)
    sys.exit(not (seen.well if given.what == "ready" else well))


def _read(path: Path) -> Memory:
    try:
        memory = Memory(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Memory()
    # Of another start of the machine, whose clock began anew.
    return memory if (memory.unwell_since or 0.0) <= time.monotonic() else Memory()


def _metrics(url: str, timeout_s: float) -> dict[str, float]:
    """Sums of all samples by metric; empty when Triton does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            lines = response.read().decode().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    sums: dict[str, float] = {}
    for line in lines:
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _post(url: str, body: dict[str, Any], timeout_s: float) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return json.load(response)


def _is_loading(url: str, model: str, timeout_s: float) -> bool:
    try:
        index = _post(f"{url}/v2/repository/index", {}, timeout_s)
    except (OSError, ValueError):
        return False
    return any(entry.get("name") == model and entry.get("state") == "LOADING" for entry in index)


if __name__ == "__main__":
    main()
