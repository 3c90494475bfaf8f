"""What HTTP, queue and Python take of a small picture: processor time per request where the network is nearly free.

    python benchmarks/small_pictures.py [--requests 2000] [--rounds 3] [--profile] [--out FILE]

One client asks for the same 64x64 PNG again and again. Contenders, each a server process of its own, take turns:

- uvicorn with an application of ten lines that reads the body and sends a stored answer: the floor of any Python server;
- FastAPI with one route that does the same;
- the service around an engine that hands out one stored result: all that a request passes, without a network;
- the service with the embedded model.

The figure is the server's processor time, which other programs on the machine hardly change. --profile prints where the service without
a network spends it, thread by thread.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import uvloop
from lean_client import LeanClient
from PIL import Image
from processor import processor

EXAMPLE = Path(__file__).parents[1] / "examples" / "nuclei.jpg"
SIDE = 64
BARE = """
import sys
import uvicorn
from proscale_service.server import bind, url_of

STORED = open(sys.argv[1], "rb").read()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(STORED)).encode())]

async def bare(scope, receive, send):
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": STORED})

def with_fastapi():
    from fastapi import FastAPI, Request, Response
    app = FastAPI()

    @app.post("/segment")
    async def segment(request: Request) -> Response:
        await request.body()
        return Response(STORED, media_type="application/json")

    return app

listener = bind("127.0.0.1", 0)
print(url_of(listener), flush=True)
app = with_fastapi() if sys.argv[2] == "fastapi" else bare
uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")).run(sockets=[listener])
"""
SERVICE = """
import atexit, cProfile, pstats, sys, threading
from proscale_service import app, server
from proscale_service.engines.in_process import InProcessEngine, load_predictor
from proscale_service.settings import Settings

class Stored:
    def __init__(self, runtime):
        self.real = load_predictor(runtime)
        self.info, self.plan, self.resize, self.kept = self.real.info, self.real.plan, self.real.resize, None
    def segment_resized(self, pictures, options, plans, resize_seconds=0.0):
        self.kept = self.kept or self.real.segment_resized(pictures[:1], options[:1], plans[:1])[0]
        return [self.kept] * len(pictures)

make, load = app.create_app, {"stored": Stored, "model": load_predictor}[sys.argv[1]]
server.create_app = lambda settings, **rest: make(settings, make_engine=lambda around: InProcessEngine(around, load), **rest)
profiles = []

def profiled(frame, event, argument):
    profile = cProfile.Profile()
    profiles.append((threading.current_thread().name, profile))
    profile.enable()

def serve():
    server.run(Settings(port=0, log_level="warning", threads=1), lambda url: print(url, flush=True))

if sys.argv[2:] == ["profile"]:
    threading.setprofile(profiled)
    main = cProfile.Profile()
    main.runcall(serve)
    for name, profile in [("event loop", main), *profiles]:
        try:
            stats = pstats.Stats(profile, stream=sys.stderr)
        except TypeError:  # a thread that called nothing
            continue
        print(f"\\n== {name}", file=sys.stderr)
        stats.sort_stats("tottime").print_stats(25)
else:
    serve()
"""
MODEL = "the service, embedded model"
CONTENDERS = {
    "uvicorn alone": (BARE, ["{answer}", "bare"]),
    "FastAPI": (BARE, ["{answer}", "fastapi"]),
    "the service, no network": (SERVICE, ["stored"]),
    MODEL: (SERVICE, ["model"]),
}


@contextmanager
def serving(code: str, arguments: list[str]) -> Iterator[tuple[str, int]]:
    """A server process: its URL and process id."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()
            process.wait(60)


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(url: str, picture: bytes, requests: int) -> None:
    """One request after the other."""
    async with LeanClient() as client:
        for _ in range(requests):
            status = await client.request("POST", f"{url}/segment", picture)
            assert status == 200, status


def measure(requests: int, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time per request: medians of the rounds."""
    with ExitStack() as stack:
        picture = small_picture()
        answer = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "answer"
        servers = {}
        for name, (code, arguments) in reversed(CONTENDERS.items()):
            servers[name] = stack.enter_context(serving(code, [part.format(answer=answer) for part in arguments]))
            if not answer.exists():  # what the others hand out is the model's own answer
                headers = {"content-type": "image/png"}
                answer.write_bytes(httpx.post(f"{servers[name][0]}/segment", content=picture, headers=headers, timeout=60).content)
        spent: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for turn in range(rounds + 1):
            for name in CONTENDERS:
                url, pid = servers[name]
                before = processor_seconds(pid)
                count = max(10, requests // 20) if name == MODEL else requests
                uvloop.run(ask(url, picture, count))
                if turn:
                    spent[name].append((processor_seconds(pid) - before) / count * 1e3)
        return {name: round(statistics.median(values), 3) for name, values in spent.items()}


def small_picture() -> bytes:
    """The example at 64x64, as PNG."""
    buffer = BytesIO()
    with Image.open(EXAMPLE) as image:
        image.convert("RGB").resize((SIDE, SIDE)).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, default=2000, help="of one contender in one round; a twentieth of them of the embedded model"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print a profile of the service without a network instead")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.profile:
        with serving(SERVICE, ["stored", "profile"]) as (url, _):
            uvloop.run(ask(url, small_picture(), given.requests))
        return
    found = measure(given.requests, given.rounds)
    for name, value in found.items():
        print(f"{name:<30} {value:8.3f} ms  {value / found['FastAPI']:6.2f}x FastAPI")
    if given.out:
        about = {"date": datetime.date.today().isoformat(), "command": "python " + " ".join(sys.argv), "hardware": processor()}
        given.out.write_text(json.dumps(about | {"requests": given.requests, "milliseconds": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
