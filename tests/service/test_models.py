"""Several models in one server: asked by name, listed, loaded, replaced and unloaded while pictures come."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from proscale.errors import CheckpointError
from proscale.runtime import RuntimeConfig
from proscale_service.client import Client
from proscale_service.engines.in_process import BatchPredictor
from proscale_service.errors import UnknownModel
from proscale_service.model_memory import available_bytes, needed_bytes

from .pictures import blob, encoded
from .predictors import ThresholdPredictor
from .serving import Running, http, in_process, metric, serving, until

PICTURE = encoded(blob())
OCTETS = {"content-type": "application/octet-stream"}


class Loader:
    """Predictors by the folder that is asked for; `gates` hold loads up."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, ThresholdPredictor]] = []
        self.gates: dict[str, threading.Event] = {}

    def __call__(self, runtime: RuntimeConfig) -> BatchPredictor:
        folder = str(runtime.checkpoint or "")
        if folder in self.gates:
            assert self.gates[folder].wait(60)
        if folder == "broken":
            raise CheckpointError("no model in broken; name another folder")
        predictor = ThresholdPredictor()
        predictor.info = replace(predictor.info, loaded_from=folder)
        self.loaded.append((folder, predictor))
        return predictor


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def server(loader: Loader) -> Iterator[Running]:
    with serving(in_process(loader), models="small=a, large=b") as running:
        yield running


def admin(server: Running) -> str:
    """Its admin interface, on the port that everything else has too."""
    app: Any = server.server.config.app
    app.state.admin_port = int(server.url.rpartition(":")[2])
    return f"{server.url}/admin/models"


def ask(url: str, query: str = "", **arguments: Any) -> httpx.Response:
    return http.post(f"{url}/segment{query}", content=PICTURE, headers=OCTETS, **arguments)


def test_a_request_names_its_model_and_gets_the_first_without(server: Running, loader: Loader) -> None:
    assert [folder for folder, _ in loader.loaded] == ["a", "b"]
    assert [ask(server.url, query).json()["model"]["name"] for query in ("", "?model=small", "?model=large", "?model=")] == [
        *("small", "small", "large", "small")
    ]
    assert [len(predictor.batches) for _, predictor in loader.loaded] == [3, 1]
    # One thread computes for all.
    assert loader.loaded[0][1].threads == loader.loaded[1][1].threads == {"engine_0"}
    as_form = http.post(f"{server.url}/segment", files={"image": PICTURE}, data={"model": "large"})
    several = http.post(f"{server.url}/segment/batch?model=large", files=[("image", PICTURE), ("image", PICTURE)])
    plan = http.get(f"{server.url}/segment/plan?width=64&height=64&model=large")
    assert (
        as_form.json()["model"]["name"] == several.json()["items"][1]["result"]["model"]["name"] == plan.json()["model"]["name"] == "large"
    )


def test_an_unknown_model_is_404_and_lists_the_models(server: Running) -> None:
    for answer in (
        ask(server.url, "?model=medium"),
        http.post(f"{server.url}/segment", files={"image": PICTURE}, data={"model": "medium"}),
        http.get(f"{server.url}/segment/plan?width=64&height=64&model=medium"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:proscale:problem:unknown-model")
        assert "small, large" in answer.json()["detail"]


def test_models_are_listed_with_state_and_cost(server: Running) -> None:
    small, large = http.get(f"{server.url}/models").json()["models"]
    assert (small["name"], large["name"], small["state"], small["tasks"]) == (
        "small",
        "large",
        "ready",
        ["panoptic", "instance", "semantic"],
    )
    assert small["flops"] == 3 * 480 * 640
    schemas = http.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    assert schemas["ModelName"]["enum"] == ["small", "large"]


def test_dialects_name_models_in_their_own_way(server: Running) -> None:
    octets = {"headers": OCTETS, "content": PICTURE}
    before = metric(server.url, 'proscale_model_pictures_total{model="large"}')
    assert http.post(f"{server.url}/hf/large", **octets).status_code == 200
    assert http.post(f"{server.url}/hf/medium", **octets).status_code == 404
    assert http.get(f"{server.url}/v2/models/large/ready").status_code == 200
    assert http.get(f"{server.url}/v2/models/medium/ready").status_code == 404
    assert metric(server.url, 'proscale_model_pictures_total{model="large"}') == before + 1


def test_the_client_names_models(server: Running) -> None:
    with Client(server.url) as client:
        assert client.segment(PICTURE, model="large").raw["model"]["name"] == "large"
        assert client.plan(64, 64, model="large")["model"]["name"] == "large"
        with pytest.raises(UnknownModel, match="small, large"):
            client.segment(PICTURE, model="medium")


def test_metrics_are_per_model_and_end_with_it(server: Running) -> None:
    ask(server.url, "?model=large")
    assert metric(server.url, 'proscale_model_up{model="large"}') == 1
    assert (
        metric(server.url, 'proscale_model_flops_total{model="large"}')
        == metric(server.url, 'proscale_flops_total{encoder="proscale"}')
        > 0
    )
    assert metric(server.url, 'proscale_model_expected_seconds{model="large"}') >= 0
    assert http.delete(f"{admin(server)}/large").status_code == 204
    assert 'proscale_model_up{model="large"}' not in http.get(f"{server.url}/metrics").text
    assert ask(server.url, "?model=large").status_code == 404


def test_without_the_setting_the_one_model_has_its_own_name() -> None:
    with serving(ThresholdPredictor()) as server:
        assert [ask(server.url, query).status_code for query in ("", "?model=threshold", "?model=other")] == [200, 200, 404]
        assert http.get(f"{server.url}/admin/models").status_code == 404
        assert httpx.put(f"{server.url}/admin/models/x", json={"source": ""}).status_code == 404


def test_a_model_is_replaced_under_load_without_a_failed_request(server: Running, loader: Loader) -> None:
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def crowd() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                statuses[client.post(f"{server.url}/segment", content=PICTURE, headers=OCTETS).status_code] += 1

    with ThreadPoolExecutor(5) as pool:
        for _ in range(4):
            pool.submit(crowd)
        try:
            until(lambda: statuses[200] > 10)
            loader.loaded[0][1].delay_s = 0.05
            loader.gates["c"] = threading.Event()
            changing = pool.submit(httpx.put, f"{admin(server)}/small", json={"source": "c"}, timeout=60)
            until(lambda: http.get(f"{server.url}/models").json()["models"][0]["state"] == "replacing")
            assert httpx.put(f"{admin(server)}/small", json={"source": "d"}).status_code == 409
            before = statuses[200]
            until(lambda: statuses[200] > before + 5)  # the former one serves meanwhile
            loader.gates["c"].set()
            answer = changing.result()
            until(lambda: len(loader.loaded) == 3 and len(loader.loaded[2][1].batches) > 10)
        finally:
            stop.set()
    assert (answer.status_code, answer.json()["source"], answer.json()["state"]) == (200, "c", "ready")
    assert statuses.keys() == {200}
    former = len(loader.loaded[0][1].batches)
    assert ask(server.url).status_code == 200
    assert len(loader.loaded[0][1].batches) == former
    until(lambda: not server.pipeline.models._retiring)


def test_a_removed_model_finishes_its_pictures(server: Running, loader: Loader) -> None:
    loader.loaded[1][1].gate.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, server.url, "?model=large") for _ in range(2)]
        until(lambda: loader.loaded[1][1].calls == 1 and server.pipeline.models.find("large").users == 2)
        assert http.delete(f"{admin(server)}/large").status_code == 204
        assert ask(server.url, "?model=large").status_code == 404
        loader.loaded[1][1].gate.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
    until(lambda: not server.pipeline.models._retiring)


def test_impossible_changes_are_explained(server: Running, loader: Loader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = admin(server)
    broken = httpx.put(f"{url}/new", json={"source": "broken"})
    assert (broken.status_code, "no model in broken" in broken.json()["detail"]) == (422, True)
    assert (http.delete(f"{url}/small").status_code, http.delete(f"{url}/medium").status_code) == (409, 404)
    assert [httpx.put(f"{url}/{name}", json={"source": "c"}).status_code for name in ("a b", ".x", "x" * 65)] == [422] * 3
    assert httpx.put(f"{url}/new", json={"folder": "c"}).status_code == 422
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr("proscale_service.model_memory.available_bytes", lambda: 1000)
    refused = httpx.put(f"{url}/new", json={"source": str(tmp_path)})
    assert (refused.status_code, refused.json()["type"]) == (507, "urn:proscale:problem:not-enough-memory")
    assert [each["name"] for each in http.get(url).json()["models"]] == ["small", "large"]
    assert [folder for folder, _ in loader.loaded] == ["a", "b"]


def test_a_model_that_is_new_is_listed_last_and_can_be_asked(server: Running, loader: Loader) -> None:
    loader.gates["c"] = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(httpx.put, f"{admin(server)}/new", json={"source": "c"}, timeout=60)
        until(lambda: http.get(admin(server)).json()["loading"] == ["new"])
        loader.gates["c"].set()
        assert loading.result().status_code == 200
    assert [each["name"] for each in http.get(f"{server.url}/models").json()["models"]] == ["small", "large", "new"]
    assert ask(server.url, "?model=new").json()["model"]["name"] == "new"
    # It was loaded beside the others, on a thread that stands back, and computes on theirs.
    assert loader.loaded[2][1].threads == {"engine_0"}


def test_shutdown_does_not_wait_for_a_model_that_loads(loader: Loader) -> None:
    with serving(in_process(loader), models="small=a", drain_s=0.5) as server:
        loader.gates["c"] = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(httpx.put, f"{admin(server)}/new", json={"source": "c"}, timeout=60)
            until(lambda: http.get(admin(server)).json()["loading"] == ["new"])
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 30
            loader.gates["c"].set()
            assert loading.exception() is not None or loading.result().status_code == 503


def test_available_memory_is_the_minimum_of_machine_and_cgroup(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    files = {
        "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 2000 kB\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/memory.current": "1000000\n",
        "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 300000\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == 2_048_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("1500000\n")
    assert available_bytes(tmp_path) == 800_000
    assert (available_bytes() or 1) > 0


def test_a_larger_model_needs_more(tmp_path: Path) -> None:
    small = needed_bytes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(bytes(1_000_000))
    assert needed_bytes(tmp_path) == small + 6_000_000


class Log(list[list[tuple[int, int]]]):
    """Batches of a predictor, whose name goes into a list for all of them."""

    def __init__(self, name: str, computed: list[str]) -> None:
        super().__init__()
        self._name, self._computed = name, computed

    def append(self, batch: list[tuple[int, int]]) -> None:
        self._computed.append(self._name)
        super().append(batch)


def test_models_in_one_process_wait_for_each_other_and_the_urgent_goes_first(server: Running, loader: Loader) -> None:
    computed: list[str] = []
    (_, small), (_, large) = loader.loaded
    small.batches, large.batches = Log("small", computed), Log("large", computed)
    pictures = [encoded(blob(*size)) for size in ((30, 60), (30, 100), (100, 30))]  # of three padded sizes: no two share a batch

    def send(model: str, picture: bytes, query: str = "") -> int:
        return http.post(f"{server.url}/segment?model={model}&{query}", content=picture, headers=OCTETS).status_code

    def depth(model: str) -> int:
        return server.pipeline.models.find(model).engine.depth

    for model in ("small", "large"):
        assert [send(model, picture) for picture in pictures] == [200] * 3  # now it is known what each takes
    computed.clear()
    small.gate.clear()
    calls = small.calls
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(send, "small", pictures[0], "deadline_ms=60000")]
        until(lambda: small.calls == calls + 1)
        sent += [pool.submit(send, "small", picture, "deadline_ms=60000") for picture in pictures]
        until(lambda: depth("small") == 3)
        expected = server.pipeline.models.find("large").engine.backlog.expected_seconds()
        assert expected is not None
        assert expected > 0, "it sees what waits for the other model"
        sent += [pool.submit(send, "large", picture, "deadline_ms=50000&priority=interactive") for picture in pictures]
        until(lambda: depth("large") == 3)
        small.gate.set()
        assert [each.result() for each in sent] == [200] * 7
    assert computed == ["small", *["large"] * 3, *["small"] * 3]
