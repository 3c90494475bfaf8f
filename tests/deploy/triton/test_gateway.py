"""The gateway, as users start it and with torch out of its reach, in front of real Triton servers."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc
from PIL import Image
from tests.deploy.triton.server import REST_S, TritonServer, needs_triton
from tests.service.pictures import encoded
from tests.service.serving import metric, process, until

from proscale.checkpoints.model_folder import DEFAULT_FOLDER
from proscale.results import RLE
from proscale.rle import decode

pytestmark = [pytest.mark.slow, needs_triton]
ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".jpg", ".png"))
NO_TORCH = "import sys; sys.modules['torch'] = None  # importing it fails from here on"
OCTETS = {"content-type": "application/octet-stream"}
HTTP = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None, keepalive_expiry=2))
"""One for all: making a client costs more than many of the requests here."""


@pytest.fixture(scope="module", autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    HTTP.close()


@contextmanager
def gateway(*servers: TritonServer, **settings: str) -> Iterator[str]:
    """Its URL."""
    urls = ",".join(server.url for server in servers)
    environment = {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": urls, "PROSCALE_LOG_LEVEL": "error"} | settings
    with process(first=NO_TORCH, **environment) as (url, _):
        yield url


@pytest.fixture(scope="module")
def url(triton: TritonServer) -> Iterator[str]:
    """A gateway in front of the shared server, with more places than Triton's queue."""
    with gateway(triton, PROSCALE_MAX_CONCURRENT_PICTURES="200") as url:
        yield url


@pytest.fixture(scope="module")
def slow_triton(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Iterator[TritonServer]:
    """A server whose worker runs the pure-torch forms, as after an installation without a compiler: large pictures take it a second."""
    environment = {"PROSCALE_CHECKPOINT": str(small_checkpoint), "PROSCALE_THREADS": "1", "MS_DEFORM_ATTN": "reference"}
    server = TritonServer(tmp_path_factory.mktemp("slow"), environment)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def slow_url(slow_triton: TritonServer) -> Iterator[str]:
    with gateway(slow_triton, PROSCALE_MAX_CONCURRENT_PICTURES="200") as url:
        yield url


def post(url: str, content: bytes, query: str = "", timeout: float = 60) -> httpx.Response:
    return HTTP.post(f"{url}/segment?{query}", content=content, headers=OCTETS, timeout=timeout)


def is_ready(url: str) -> bool:
    return HTTP.get(f"{url}/health/ready").status_code == 200


@contextmanager
def busy(url: str, picture: np.ndarray) -> Iterator[None]:
    """A worker that computes for seconds. (Stopping its process would not do: to Triton it would be dead, not busy.)"""
    large = encoded(np.asarray(Image.fromarray(picture).resize((3000, 3000))))
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(post, url, large, "task=panoptic,semantic") for _ in range(2)]
        until(lambda: metric(url, "proscale_queue_depth") == 2)
        yield
        assert [future.result().status_code for future in slow] == [200, 200]


def pictures_counted(triton: TritonServer) -> float:
    return triton.metrics().get('proscale_worker_pictures_total{model="proscale",version="1"}', 0.0)


@pytest.mark.parametrize("query", ["task=panoptic,instance,semantic", "labels=cat,sky&threshold=0.01&max_segments=3", "mask_threshold=0.3"])
def test_both_engines_give_the_same_answer(url: str, in_process: str, query: str) -> None:
    for path in EXAMPLES:
        remote, local = (post(each, path.read_bytes(), query) for each in (url, in_process))
        assert (remote.status_code, local.status_code) == (200, 200)
        answers = [response.json() for response in (remote, local)]
        for answer in answers:
            assert answer.pop("id")
            assert set(answer["timings_ms"]) == {"decode", "queue", "preprocess", "infer", "postprocess", "encode"}
            assert answer.pop("timings_ms")["infer"] > 0
        assert answers[0] == answers[1]
    plans = [HTTP.post(f"{each}/segment/plan?width=640&height=480").json() for each in (url, in_process)]
    assert plans[0]["compute"] == plans[1]["compute"]
    models = [HTTP.get(f"{each}/models").json() for each in (url, in_process)]
    assert models[0] == models[1]


def test_a_tiled_picture_is_the_same_behind_triton(url: str, in_process: str) -> None:
    content = (ROOT / "examples/nuclei.jpg").read_bytes()
    remote, local = (post(each, content, "task=panoptic,semantic&tile=200,40").json() for each in (url, in_process))
    costs = [answer["compute"] for answer in (remote, local)]
    for cost in costs:
        assert cost.pop("batch_size") >= 1  # how many windows met in a batch differs
    assert costs[0] == costs[1]
    assert costs[0]["tiles"]["windows"] == 9
    for task in ("panoptic", "semantic"):
        segments = [answer["results"][task]["segments"] for answer in (remote, local)]
        assert [each["label"] for each in segments[0]] == [each["label"] for each in segments[1]]
        for one, other in zip(*segments, strict=True):
            masks = [decode(RLE((383, 512), each["segmentation"]["counts"])) for each in (one, other)]
            # Sums of a batch have other last bits, which may turn single pixels over.
            assert (masks[0] != masks[1]).sum() <= 0.01 * max(1000, masks[0].sum())
    refused = post(url, content, "tile=joint")
    assert refused.status_code == 422
    assert "joint needs a network in the server's own process" in refused.json()["detail"]


@pytest.fixture(scope="module")
def in_process(small_checkpoint: Path) -> Iterator[str]:
    """A server that computes itself, on as many threads as the worker: their number decides the last bit of sums."""
    with process("--checkpoint", str(small_checkpoint), "--threads", str(torch.get_num_threads()), PROSCALE_LOG_LEVEL="error") as (url, _):
        yield url


def test_pictures_of_one_size_share_batches_and_others_do_not_mix(url: str, picture: np.ndarray) -> None:
    tall = picture.transpose(1, 0, 2).copy()
    contents = [encoded(np.roll(image, 5 * i, axis=1)) for i in range(12) for image in (picture, tall)]
    before = [metric(url, f"proscale_batch_size_{kind}") for kind in ("sum", "count")]
    with ThreadPoolExecutor(len(contents)) as pool:
        answers = [response.json() for response in pool.map(partial(post, url), contents)]
    assert max(answer["compute"]["batch_size"] for answer in answers) > 1
    for answer, size in zip(answers, [picture.shape[:2], tall.shape[:2]] * 12, strict=True):
        assert (answer["image"]["height"], answer["image"]["width"]) == size
        assert all(tuple(segment["segmentation"]["size"]) == size for segment in answer["segments"])
    pictures, batches = (metric(url, f"proscale_batch_size_{kind}") - b for kind, b in zip(("sum", "count"), before, strict=True))
    assert pictures == len(contents)
    assert batches < pictures


def test_a_bad_request_fails_alone(url: str, picture: np.ndarray) -> None:
    good = encoded(picture)
    with ThreadPoolExecutor(12) as pool:
        others = [pool.submit(post, url, good) for _ in range(8)]
        bad = [pool.submit(post, url, good, query) for query in ("labels=unicorn", "threshold=7")] + [pool.submit(post, url, good[:-50])]
        assert [future.result().status_code for future in bad] == [422, 422, 422]
        assert [future.result().status_code for future in others] == [200] * 8


def test_what_cannot_be_done_in_time_is_refused_at_once_and_busy_is_not_down(slow_url: str, picture: np.ndarray) -> None:
    content = encoded(picture)
    with ThreadPoolExecutor(40) as pool:
        with busy(slow_url, picture):
            waiting = [pool.submit(post, slow_url, content) for _ in range(8)]
            refused = [pool.submit(post, slow_url, content, "deadline_ms=20") for _ in range(30)]
            until(lambda: all(future.done() for future in refused))
            assert is_ready(slow_url)
            assert not any(future.done() for future in waiting)
        assert [future.result().status_code for future in waiting] == [200] * 8
    answers = [future.result() for future in refused]
    assert {answer.status_code for answer in answers} <= {429, 504}
    told = [answer for answer in answers if answer.status_code == 429]
    assert told
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in told)
    assert all(answer.json()["type"].endswith(":backlog") for answer in told)
    assert metric(slow_url, 'proscale_rejected_total{reason="backlog"}') >= len(told)


def test_requests_of_clients_that_left_are_not_computed(slow_url: str, slow_triton: TritonServer, picture: np.ndarray) -> None:
    before = pictures_counted(slow_triton)
    content = encoded(picture)
    with ThreadPoolExecutor(10) as pool:
        with busy(slow_url, picture):
            kept = pool.submit(post, slow_url, content)
            until(lambda: metric(slow_url, "proscale_queue_depth") == 3)
            impatient = [pool.submit(post, slow_url, content, timeout=0.5) for _ in range(8)]
            assert all(isinstance(future.exception(), httpx.ReadTimeout) for future in impatient)
            until(lambda: metric(slow_url, "proscale_queue_depth") <= 3)
        assert kept.result().status_code == 200
    assert post(slow_url, content).status_code == 200
    assert pictures_counted(slow_triton) - before == 2 + 1 + 1


def test_what_comes_while_a_batch_is_computed_is_taken_at_once(slow_url: str, slow_triton: TritonServer, picture: np.ndarray) -> None:
    # Else Triton's scheduler sleeps half a second before it looks at it, though the worker may be free long before.
    def waiting(where: str) -> float:
        return slow_triton.metrics()[f'{where}{{model="proscale",version="1"}}']

    # By another gateway: each one sends what keeps the worker busy, and no more.
    with gateway(slow_triton) as other, busy(slow_url, picture), ThreadPoolExecutor(3) as pool:
        small = [pool.submit(post, other, encoded(picture)) for _ in range(3)]
        until(lambda: waiting("proscale_worker_waiting_pictures") >= 3 and not waiting("nv_inference_pending_request_count"))
        assert not any(future.done() for future in small)
    assert not waiting("proscale_worker_waiting_pictures")


def test_another_checkpoint_is_noticed(url: str, triton: TritonServer) -> None:
    content = EXAMPLES[0].read_bytes()
    old = HTTP.get(f"{url}/models").json()["models"][0]["name"]
    with grpc.InferenceServerClient(triton.url) as client:
        config = client.get_model_config("proscale", as_json=True)["config"]
        config["parameters"]["checkpoint"]["string_value"] = str(DEFAULT_FOLDER)
        try:
            client.load_model("proscale", config=json.dumps(config))
            answer = post(url, content)
            assert answer.status_code == 200
            assert answer.json()["model"]["name"] != old
            assert {segment["label"] for segment in answer.json()["segments"]} <= labels(url)
            # Healing keeps the checkpoint that was loaded, not the repository's.
            kill_backend(triton)
            until(lambda: not is_ready(url))
            until(lambda: is_ready(url))
            assert HTTP.get(f"{url}/models").json()["models"][0]["name"] == answer.json()["model"]["name"]
        finally:
            client.unload_model("proscale")  # or Triton goes on with the configuration that it was given last
            client.load_model("proscale")
    until(lambda: is_ready(url))
    until(lambda: HTTP.get(f"{url}/models").json()["models"][0]["name"] == old)
    assert post(url, content).status_code == 200


def labels(url: str) -> set[str]:
    return {category["name"] for category in HTTP.get(f"{url}/models").json()["models"][0]["categories"]}


def kill_backend(triton: TritonServer, rest_s: float = REST_S) -> None:
    time.sleep(rest_s)
    for pid in triton.backend_pids():
        os.kill(pid, signal.SIGKILL)


def test_a_dead_model_process_is_noticed_and_healed(url: str, triton: TritonServer, picture: np.ndarray) -> None:
    content = encoded(picture)
    kill_backend(triton)
    first = post(url, content)
    assert first.status_code == 503
    assert int(first.headers["retry-after"]) >= 1
    assert triton.http_ok("/v2/models/proscale/ready")  # so much for Triton's own word
    assert not is_ready(url)
    assert metric(url, "proscale_engine_up") == 0
    until(lambda: is_ready(url))
    assert metric(url, "proscale_engine_up") == 1
    assert post(url, content).status_code == 200


def test_a_model_process_that_dies_at_work_loses_nothing_silently(slow_url: str, slow_triton: TritonServer, picture: np.ndarray) -> None:
    large = encoded(np.asarray(Image.fromarray(picture).resize((3000, 3000))))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, slow_url, large, "task=panoptic,semantic") for _ in range(2)]
        until(lambda: metric(slow_url, "proscale_queue_depth") == 2)
        kill_backend(slow_triton, rest_s=0)
        answers = [future.result() for future in waiting]
    assert [answer.status_code for answer in answers] == [503] * 2
    assert all(map(clean, answers))
    until(lambda: is_ready(slow_url))
    assert post(slow_url, encoded(picture)).status_code == 200


def test_an_unloaded_model_is_503_and_left_to_whoever_unloaded_it(url: str, triton: TritonServer, picture: np.ndarray) -> None:
    with grpc.InferenceServerClient(triton.url) as client:
        client.unload_model("proscale")
        until(lambda: not is_ready(url))
        assert post(url, encoded(picture)).status_code == 503
        assert not client.is_model_ready("proscale")
        client.load_model("proscale")
    until(lambda: is_ready(url))


@contextmanager
def load(url: str, content: bytes, clients: int = 4) -> Iterator[list[httpx.Response]]:
    """Clients that ask on and on; their answers. One that is not answered at all fails the test."""
    answers: list[httpx.Response] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                try:
                    answers.append(client.post(f"{url}/segment", content=content, headers=OCTETS))
                except Exception as error:
                    errors.append(error)
                    return
                stop.wait(0.0 if answers[-1].status_code == 200 else 0.05)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not errors


def clean(answer: httpx.Response) -> bool:
    """An answer, or a problem that says when to come back."""
    problem: dict[str, Any] = answer.json()
    return answer.status_code == 200 or (
        answer.status_code == 503
        and answer.headers["content-type"] == "application/problem+json"
        and int(answer.headers["retry-after"]) >= 1
        and problem["type"].endswith(":unavailable")
    )


def test_the_server_comes_later_dies_returns_and_hangs_and_another_one_takes_over(
    triton: TritonServer, tmp_path: Path, small_checkpoint: Path, picture: np.ndarray
) -> None:
    content = encoded(picture)
    server = TritonServer(tmp_path, {"PROSCALE_CHECKPOINT": str(small_checkpoint), "PROSCALE_THREADS": "1"})
    with ExitStack() as stack:
        soon = {"PROSCALE_TRITON_CHECK_S": "1"}
        alone = stack.enter_context(gateway(server, **soon))
        both = stack.enter_context(gateway(server, triton, **soon))
        stack.callback(server.kill)
        assert HTTP.get(f"{alone}/health/live").status_code == 200
        assert HTTP.get(f"{alone}/health/startup").status_code == 200
        assert not is_ready(alone)
        for answer in (post(alone, content), HTTP.get(f"{alone}/models"), HTTP.post(f"{alone}/segment/plan?width=9&height=9")):
            assert answer.status_code == 503
            assert clean(answer)
        assert post(both, content).status_code == 200
        server.start()
        until(lambda: is_ready(alone))

        with load(alone, content) as answers, load(both, content) as safe:
            until(lambda: min(len(answers), len(safe)) > 40)
            server.kill()
            until(lambda: answers[-1].status_code == 503)
            assert not is_ready(alone)
            assert is_ready(both)
            server.start()
            until(lambda: is_ready(alone))
            count = len(answers)
            until(lambda: len(answers) > count + 40)
        assert all(map(clean, answers))
        assert {answer.status_code for answer in answers} == {200, 503}
        assert {answer.status_code for answer in answers[-20:]} == {200}
        assert {answer.status_code for answer in safe} == {200}

        # One that hangs keeps its connections open. The canary finds out, and what was sent there is done elsewhere.
        with ThreadPoolExecutor(9) as pool:
            server.hang()
            lost = pool.submit(post, alone, content)
            stuck = [pool.submit(post, both, content) for _ in range(8)]
            assert [future.result().status_code for future in stuck] == [200] * 8
            assert lost.result().status_code == 503
            assert clean(lost.result())
            assert not is_ready(alone)
            server.resume()
        until(lambda: is_ready(alone))
