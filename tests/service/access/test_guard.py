"""Keys asked for by a real server, in every way and on every path."""

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from proscale_service import logs
from proscale_service.access.keyring import Keyring
from proscale_service.access.keys import KeysError, hash_of, new_key
from proscale_service.client import Client
from proscale_service.errors import Forbidden, QuotaExceeded, Unauthorized

from ..pictures import blob
from ..predictors import ThresholdPredictor
from ..routes.asking import PICTURE, base64_of, problem
from ..serving import Running, http, metric, serving, until

ALL, PLANNER, SLOW, SMALL, NARROW, BULK, ADMIN = (new_key() for _ in range(7))
ENTRIES = [
    {"name": "all of alice", "hash": hash_of(ALL)},
    {"name": "the planner", "hash": hash_of(PLANNER), "rights": ["plan"]},
    {"name": "slow", "hash": hash_of(SLOW), "requests_per_s": 0.001},
    {"name": "small", "hash": hash_of(SMALL), "pixels_per_s": 1},
    {"name": "narrow", "hash": hash_of(NARROW), "concurrent_pictures": 1},
    {"name": "bulk", "hash": hash_of(BULK), "priorities": ["bulk"]},
    {"name": "admin", "hash": hash_of(ADMIN), "rights": ["admin"]},
]


def write(path: Path, entries: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump({"keys": entries}))
    part.replace(path)


@pytest.fixture(scope="module")
def engine() -> ThresholdPredictor:
    return ThresholdPredictor()


@pytest.fixture(scope="module")
def guarded(engine: ThresholdPredictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    write(path, ENTRIES)
    with serving(engine, keys_file=path, cors_origins="*", root_path="/api", max_items=4) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers", [bearer(ALL), {"authorization": f"bearer  {ALL}"}, {"x-api-key": ALL}, bearer(ALL) | {"x-api-key": ALL}]
)
def test_a_key_may_be_sent_in_two_ways(guarded: Running, headers: dict[str, str]) -> None:
    assert http.post(f"{guarded.url}/segment", content=PICTURE, headers=headers).is_success
    assert http.get(f"{guarded.url}/api/models", headers=headers).is_success


WRONG = [
    {},
    {"authorization": "Bearer"},
    bearer("x"),
    bearer(new_key()),
    bearer(ALL[:-1]),
    bearer(f"{ALL}x"),
    bearer(hash_of(ALL)),
    bearer("x" * 10_000),
    {"authorization": ALL},
    {"authorization": f"Basic {ALL}"},
    {"x-api-key": ""},
    {"x-api-key": "\xff"},
    bearer(ALL) | {"x-api-key": PLANNER},
    bearer("x") | {"x-api-key": ALL},
]


@pytest.mark.parametrize("headers", WRONG)
@pytest.mark.parametrize(
    "path", ["/segment", "/segment/batch", "/segment/plan", "/models", "/nothing", "/api/models", "/healthy", "/docsx"]
)
def test_without_a_key_nothing_is_revealed(guarded: Running, path: str, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    response = http.post(f"{guarded.url}{path}", content=b"x" * 100, headers=encoded)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    body = response.json()
    assert body["detail"] == httpx.post(f"{guarded.url}/segment").json()["detail"], "the same for every wrong key and path"
    assert body["type"] == "urn:proscale:problem:unauthorized"
    assert "x-api-key" in body["detail"]


def test_orchestrators_and_browsers_need_no_key(guarded: Running) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/docs/assets/favicon.png", "/api/health/live"):
        assert http.get(f"{guarded.url}{path}").status_code == 200
        assert httpx.head(f"{guarded.url}{path}").status_code == 200
    preflight = httpx.options(f"{guarded.url}/segment", headers={"origin": "https://a.example", "access-control-request-method": "POST"})
    assert preflight.status_code == 200
    refused = http.post(f"{guarded.url}/segment", headers={"origin": "https://a.example"})
    assert refused.headers["access-control-allow-origin"] == "*"


def test_a_right_that_is_missing_is_403(guarded: Running) -> None:
    for path in ("/segment", "/segment/batch", "/api/segment"):
        response = http.post(f"{guarded.url}{path}", content=PICTURE, headers=bearer(PLANNER))
        assert response.status_code == 403
        assert response.json()["type"] == "urn:proscale:problem:forbidden"
    assert http.get(f"{guarded.url}/models", headers=bearer(PLANNER)).status_code == 403
    assert http.post(f"{guarded.url}/segment/plan?width=5&height=5", headers=bearer(PLANNER)).is_success


def test_the_client_sends_its_key_and_raises_what_is_refused(guarded: Running) -> None:
    with Client(guarded.url, api_key=ALL) as client:
        assert client.segment(blob()).segments
    for key, error in ((None, Unauthorized), ("wrong", Unauthorized), (PLANNER, Forbidden)):
        with Client(guarded.url, api_key=key) as client, pytest.raises(error):
            client.segment(blob())


def test_requests_per_second_are_bounded(guarded: Running) -> None:
    assert http.get(f"{guarded.url}/models", headers=bearer(SLOW)).is_success
    with Client(guarded.url, api_key=SLOW) as client, pytest.raises(QuotaExceeded) as caught:
        client.models()
    assert caught.value.retry_after == pytest.approx(1000, abs=20)
    assert http.get(f"{guarded.url}/models", headers=bearer(ALL)).is_success


def test_pixels_per_second_are_bounded_picture_by_picture(guarded: Running) -> None:
    pictures = {"images": [base64_of(PICTURE)] * 3}
    items = http.post(f"{guarded.url}/segment/batch", json=pictures, headers=bearer(SMALL)).json()["items"]
    kinds = [item["error"]["type"] if "error" in item else "answer" for item in items]
    assert sorted(kinds) == ["answer", "urn:proscale:problem:quota", "urn:proscale:problem:quota"]
    response = http.post(f"{guarded.url}/api/segment", content=PICTURE, headers=bearer(SMALL))
    assert "pixels" in problem(response, 429, "quota")
    assert int(response.headers["retry-after"]) > 1000


def test_pictures_at_once_are_bounded(guarded: Running, engine: ThresholdPredictor) -> None:
    engine.gate.clear()
    calls, answers = engine.calls, []
    ask = threading.Thread(
        target=lambda: answers.append(http.post(f"{guarded.url}/segment", content=PICTURE, headers=bearer(NARROW)).status_code)
    )
    ask.start()
    try:
        until(lambda: engine.calls == calls + 1)
        assert "pictures" in problem(http.post(f"{guarded.url}/api/segment", content=PICTURE, headers=bearer(NARROW)), 429, "quota")
    finally:
        engine.gate.set()
        ask.join()
    assert answers == [200]
    assert http.post(f"{guarded.url}/segment", content=PICTURE, headers=bearer(NARROW)).is_success


def test_neither_keys_nor_names_are_logged_or_counted(guarded: Running) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger(logs.NAME)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("DEBUG")
    try:
        http.post(f"{guarded.url}/segment", content=PICTURE, headers=bearer(ALL) | {"x-request-id": "with-key"})
        http.post(f"{guarded.url}/segment", content=PICTURE, headers=bearer("guess-guess-guess") | {"x-request-id": "without"})
        until(lambda: "without" in stream.getvalue())
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = {line["id"]: line for line in map(json.loads, stream.getvalue().splitlines()) if "id" in line}
    assert len(lines["with-key"]["key"]) == 12
    assert "key" not in lines["without"]
    assert (lines["without"]["level"], lines["without"]["reason"]) == ("debug", "unauthorized")
    told = stream.getvalue() + http.get(f"{guarded.url}/metrics").text
    for secret in (ALL, hash_of(ALL), hash_of(ALL)[7:], "alice", "guess-guess-guess"):
        assert secret not in told
    assert metric(guarded.url, 'proscale_rejected_total{reason="unauthorized"}') > 0


@pytest.mark.parametrize(("priority", "status"), [("bulk", 200), ("", 200), ("interactive", 403), ("normal", 403)])
def test_a_key_may_use_only_its_priorities(guarded: Running, priority: str, status: int) -> None:
    several: dict[str, object] = {"files": [("image", PICTURE)], "data": {"priority": priority}}
    for path, arguments in (("/segment", {"content": PICTURE, "params": {"priority": priority}}), ("/segment/batch", several)):
        answer = http.post(f"{guarded.url}{path}", headers=bearer(BULK), **arguments)
        assert answer.status_code == status, answer.text
        assert status == 200 or "only use bulk" in answer.json()["detail"]
    # Dialects have no word for it.
    assert http.post(f"{guarded.url}/hf", content=PICTURE, headers=bearer(BULK)).status_code == 200
    assert http.post(f"{guarded.url}/segment?priority=interactive", content=PICTURE, headers=bearer(ALL)).status_code == 200


def test_only_a_key_with_the_right_admin_changes_models(guarded: Running) -> None:
    for key, status in ((ADMIN, 200), (ALL, 403), (PLANNER, 403), (new_key(), 401)):
        assert http.get(f"{guarded.url}/admin/models", headers=bearer(key)).status_code == status
        assert http.get(f"{guarded.url}/api/admin/models", headers=bearer(key)).status_code == status
    assert http.post(f"{guarded.url}/segment", content=PICTURE, headers=bearer(ADMIN)).status_code == 403
    assert http.delete(f"{guarded.url}/admin/models/threshold", headers=bearer(ALL)).status_code == 403
    assert http.delete(f"{guarded.url}/admin/models/threshold", headers=bearer(ADMIN)).status_code == 409


@pytest.mark.slow
def test_a_flood_of_wrong_keys_is_cheap_and_reads_no_body(guarded: Running) -> None:
    before = metric(guarded.url, "process_cpu_seconds_total")
    with httpx.Client(base_url=guarded.url) as client:
        for _ in range(300):
            assert client.post("/segment", headers=bearer(new_key())).status_code == 401
        # Client and server share this process: both together stay far below what one picture costs.
        assert (metric(guarded.url, "process_cpu_seconds_total") - before) / 300 < 0.02
        assert client.post("/segment", content=b"x" * 3_000_000, headers=bearer("x")).status_code == 401
    assert metric(guarded.url, "proscale_queue_depth") == 0


@pytest.mark.slow
def test_keys_are_read_anew_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    write(path, ENTRIES[:1])
    second = new_key()
    with serving(ThresholdPredictor(), keys_file=path) as server:

        def status(key: str) -> int:
            return http.get(f"{server.url}/models", headers=bearer(key)).status_code

        assert (status(ALL), status(second)) == (200, 401)
        write(path, [{"name": "second", "hash": hash_of(second)}])
        until(lambda: status(second) == 200)
        assert status(ALL) == 401, "a key that was removed is refused"

        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        logging.getLogger(logs.NAME).addHandler(handler)
        for broken in ("keys: [", "", "keys: []"):
            path.write_text(broken)
            until(lambda: status(second) == 200 and metric(server.url, "proscale_keys_stale") == 1)
        path.unlink()
        time.sleep(1.1)
        assert status(second) == 200
        until(lambda: "OLD KEYS STAY IN FORCE" in stream.getvalue())
        assert stream.getvalue().count("OLD KEYS") == 1, "loud, and not endless"
        write(path, ENTRIES[:1])
        until(lambda: status(ALL) == 200)
        assert metric(server.url, "proscale_keys_stale") == 0
        logging.getLogger(logs.NAME).removeHandler(handler)


def test_what_is_used_of_a_quota_survives_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    now = [0.0]
    entry = {"name": "a", "hash": hash_of(ALL), "requests_per_s": 0.001}
    write(path, [entry])
    ring = Keyring(path, clock=lambda: now[0])
    first = ring.find(ALL)
    assert first is not None
    first.quota.take_request()
    write(path, [entry, {"name": "b", "hash": hash_of(SLOW)}])
    now[0] += 2
    again = ring.find(ALL)
    assert again is not None
    assert again.quota is first.quota
    write(path, [entry | {"requests_per_s": 5}])
    now[0] += 2
    anew = ring.find(ALL)
    assert anew is not None
    anew.quota.take_request()


def test_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    for text in (None, "", "keys: []", "nonsense"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(KeysError):
            Keyring(path)
    with pytest.raises(KeysError, match="cannot be read"):
        Keyring(tmp_path)  # as with a file that may not be read, which to the superuser there is not
