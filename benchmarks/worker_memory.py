"""What a Triton worker needs of memory: the figures of docs/sizing.md, "A Triton worker, at most".

    python benchmarks/worker_memory.py [--json FILE]

Starts a real Triton (`make triton-env`) with the embedded model and a gateway before it, and looks ten times a second while clients ask:
small pictures one by one, pictures of 12 megapixels all at once, and a swap of the checkpoint under load. Counted are private and file
pages of all of Triton's processes, and their shared memory once, in MB (a million bytes). Takes a minute or two.
"""

import argparse
import datetime
import io
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch
import tritonclient.grpc as grpc
from PIL import Image
from processor import processor, slug

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.deploy.triton.server import TritonServer  # noqa: E402
from tests.service.serving import process  # noqa: E402

CLIENTS = 16
SECONDS = 0.1
MB = 1_000_000


def main() -> None:
    """Measure, print; `--json` writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file or folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = TritonServer(Path(folder), {"PROSCALE_THREADS": "1"})
        try:
            results = measure(server)
        finally:
            server.kill()
    report = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/worker_memory.py",
        "processor": processor(),
        "torch": torch.__version__,
        "megabytes": results,
    }
    print(json.dumps(report, indent=1))
    if arguments.json:
        path = arguments.json / f"worker-memory-{slug()}.json" if arguments.json.is_dir() else arguments.json
        path.write_text(json.dumps(report, indent=1) + "\n")


def measure(server: TritonServer) -> dict[str, dict[str, float]]:
    """What is done -> the most that was held meanwhile."""
    found: dict[str, dict[str, float]] = {}
    nuclei = (ROOT / "examples/nuclei.jpg").read_bytes()
    server.start()
    pid = server.backend_pids()[0]
    found["started"] = held(server)
    environment = {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": server.url, "PROSCALE_LOG_LEVEL": "error"}
    with process(**environment) as (url, _), ThreadPoolExecutor(CLIENTS) as clients:

        def ask(picture: bytes) -> int:
            query = "task=panoptic,instance,semantic&deadline_ms=60000"
            return httpx.post(f"{url}/segment?{query}", content=picture, headers={"content-type": "image/jpeg"}, timeout=120).status_code

        with watched(server, found, "512x383, one by one"):
            assert [ask(nuclei) for _ in range(10)] == [200] * 10
        with watched(server, found, f"512x383, {CLIENTS} at once"):
            assert set(clients.map(ask, [nuclei] * 4 * CLIENTS)) <= {200, 429}
        for name, size in (("4 megapixels", (2000, 2000)), ("12 megapixels", (4000, 3000))):
            with watched(server, found, f"{name}, {CLIENTS} at once"):
                assert 200 in set(clients.map(ask, [enlarged(nuclei, size)] * 2 * CLIENTS))
        found["idle afterwards"] = held(server)
        assert server.backend_pids() == [pid], "its process was replaced"
        with watched(server, found, "a swap under load"), grpc.InferenceServerClient(server.url) as client:
            asking = clients.map(ask, [nuclei] * 4 * CLIENTS)
            client.load_model("proscale", config=swapped(client))
            assert set(asking) <= {200, 429}
        found["idle after the swap"] = held(server)
    return found


def swapped(client: grpc.InferenceServerClient) -> str:
    """The model's configuration with another checkpoint, which is the same model under its name."""
    config = client.get_model_config("proscale", as_json=True)["config"]
    config["parameters"]["checkpoint"] = {"string_value": str(ROOT / "model/proscale/data/default")}
    return json.dumps(config)


def enlarged(picture: bytes, size: tuple[int, int]) -> bytes:
    """A picture at another (width, height)."""
    written = io.BytesIO()
    Image.open(io.BytesIO(picture)).resize(size).save(written, "JPEG", quality=85)
    return written.getvalue()


@contextmanager
def watched(server: TritonServer, found: dict[str, dict[str, float]], what: str) -> Iterator[None]:
    """Look again and again meanwhile, and keep the most."""
    over = threading.Event()
    most: list[dict[str, float]] = []

    def look() -> None:
        while not over.wait(SECONDS):
            most.append(held(server))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    most.append(held(server))
    found[what] = max(most, key=lambda each: each["all"])
    print(what, found[what], flush=True)


def held(server: TritonServer) -> dict[str, float]:
    """MB of Triton itself, of the processes of the model, of their shared memory, and all together."""
    shares = server.memory()
    return {name: round(size / MB, 1) for name, size in (shares | {"all": sum(shares.values())}).items()}


if __name__ == "__main__":
    main()
