import threading

import httpx
import pytest

from proscale.errors import CheckpointError
from proscale.runtime import RuntimeConfig

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import PATIENCE_S, Running, http, in_process, metric, serving, until

OCTETS = {"content-type": "application/octet-stream"}


def status(server: Running, path: str) -> int:
    return http.get(f"{server.url}{path}").status_code


def test_a_serving_server_is_live_started_and_ready(server: Running) -> None:
    for path in ("/health/live", "/health/startup", "/health/ready"):
        assert status(server, path) == 200
    assert metric(server.url, "proscale_engine_up") == 1


def test_while_loading_it_is_live_but_not_ready() -> None:
    go = threading.Event()

    def load(runtime: RuntimeConfig) -> ThresholdPredictor:
        assert go.wait(PATIENCE_S)
        return ThresholdPredictor()

    with serving(in_process(load), wait=False) as server:
        assert status(server, "/health/live") == 200
        assert metric(server.url, "proscale_engine_up") == 0
        for path in ("/health/startup", "/health/ready", "/models"):
            response = http.get(f"{server.url}{path}")
            assert response.status_code == 503
            assert response.json()["type"].endswith(":loading")
            assert int(response.headers["retry-after"]) > 0
        assert http.post(f"{server.url}/segment", content=b"x", headers=OCTETS).status_code == 503
        go.set()
        until(lambda: status(server, "/health/ready") == 200)
        assert http.post(f"{server.url}/segment", content=encoded(blob()), headers=OCTETS).status_code == 200


@pytest.mark.parametrize("error", [CheckpointError("no weights; do this"), RuntimeError("secret")])
def test_a_model_that_cannot_be_loaded_is_never_ready(error: Exception) -> None:
    def load(runtime: RuntimeConfig) -> ThresholdPredictor:
        raise error

    with serving(in_process(load), wait=False) as server:
        until(lambda: server.pipeline.lifecycle.state == "failed")
        assert str(error) in server.pipeline.lifecycle.failure
        assert status(server, "/health/live") == 200
        for path in ("/health/startup", "/health/ready", "/models"):
            response = http.get(f"{server.url}{path}")
            assert response.status_code == 503
            assert str(error) not in response.text


def test_draining_is_not_ready_yet_serves_and_loses_nothing() -> None:
    engine = ThresholdPredictor()
    with serving(engine, drain_delay_s=600) as server:
        engine.gate.clear()
        answers: list[int] = []
        thread = threading.Thread(
            target=lambda: answers.append(http.post(f"{server.url}/segment", content=encoded(blob()), headers=OCTETS).status_code)
        )
        thread.start()
        until(lambda: server.pipeline.admission.pictures == 1)
        server.server.handle_exit(15, None)
        response = http.get(f"{server.url}/health/ready")
        assert response.status_code == 503
        assert response.json()["type"].endswith(":draining")
        assert status(server, "/health/live") == 200
        late = threading.Thread(
            target=lambda: answers.append(http.post(f"{server.url}/segment", content=encoded(blob()), headers=OCTETS).status_code)
        )
        late.start()
        until(lambda: server.pipeline.admission.pictures == 2)
        server.server.should_exit = True  # as if the delay were over
        engine.gate.set()
        for each in (thread, late):
            each.join(PATIENCE_S)
        assert answers == [200, 200]
        server.thread.join(PATIENCE_S)
        assert not server.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            status(server, "/health/live")


def test_requests_not_finished_at_shutdown_get_503() -> None:
    engine = ThresholdPredictor()
    with serving(engine, drain_s=0.3) as server:
        engine.gate.clear()
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(http.post(f"{server.url}/segment", content=encoded(blob()), headers=OCTETS))
        )
        thread.start()
        until(lambda: server.pipeline.admission.pictures == 1)
        server.server.handle_exit(15, None)
        thread.join(PATIENCE_S)
        engine.gate.set()
        assert answers[0].status_code == 503
        assert answers[0].json()["type"].endswith(":draining")


def test_metrics_are_prometheus_text(server: Running) -> None:
    response = http.get(f"{server.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE proscale_queue_depth gauge" in response.text


def test_models_lists_labels(server: Running) -> None:
    (model,) = http.get(f"{server.url}/models").json()["models"]
    assert model["tasks"] == ["panoptic", "instance", "semantic"]
    assert model["categories"] == [{"id": 7, "name": "blob", "isthing": True}, {"id": 9, "name": "ground", "isthing": False}]


def test_docs_need_nothing_from_elsewhere(server: Running) -> None:
    page = http.get(f"{server.url}/docs")
    assert page.status_code == 200
    assert "://" not in page.text.replace("http://www.w3.org", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/assets/{asset}" in page.text
        assert status(server, f"/docs/assets/{asset}") == 200
