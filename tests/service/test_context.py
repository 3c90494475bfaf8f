import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale_service import logs
from proscale_service.context import new_id

from .pictures import blob, encoded
from .predictors import ThresholdPredictor
from .serving import Running, http, metric, serving, until

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
PICTURE = encoded(blob())
OCTETS = {"content-type": "application/octet-stream"}


@contextmanager
def logged(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """What the service logs meanwhile."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.getLogger(logs.NAME).addHandler(handler)
    try:
        yield stream
    finally:
        logging.getLogger(logs.NAME).removeHandler(handler)


def test_ids_are_ulids_that_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: now)
    first = new_id()
    now += 1_000_000
    second = new_id()
    assert ULID.fullmatch(first)
    assert first < second
    assert len({new_id() for _ in range(1000)}) == 1000


def test_a_given_id_is_in_answer_and_log(server: Running) -> None:
    good = http.post(f"{server.url}/segment", content=PICTURE, headers=OCTETS | {"x-request-id": "my-id_1.2"})
    bad = http.post(f"{server.url}/segment", headers={"x-request-id": "my-id_1.2"})
    assert good.headers["x-request-id"] == good.json()["id"] == "my-id_1.2"
    assert bad.headers["x-request-id"] == bad.json()["request_id"] == "my-id_1.2"


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, "id=1", 'a"b', "a,b"])
def test_a_strange_id_is_replaced(server: Running, value: str) -> None:
    assert ULID.fullmatch(http.get(f"{server.url}/health/live", headers={"x-request-id": value}).headers["x-request-id"])


@pytest.mark.slow
@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20))
def test_ids_never_carry_what_was_not_allowed(server: Running, value: str) -> None:
    returned = http.get(f"{server.url}/health/live", headers={"x-request-id": value.strip()}).headers["x-request-id"]
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", returned)


def test_an_internal_error_has_an_id_and_reveals_nothing(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(type(server.pipeline.models.find().engine.backlog), "expected_seconds", broken)
    with logged(logs.PlainFormatter()) as stream:
        response = http.post(f"{server.url}/segment/plan?width=10&height=10")
        until(lambda: "RuntimeError: secret inside" in stream.getvalue())  # logged after the answer has gone out
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "secret" not in response.text
    assert f"id={response.headers['x-request-id']}" in stream.getvalue()
    monkeypatch.undo()
    assert http.post(f"{server.url}/segment/plan?width=10&height=10").status_code == 200


def test_an_engine_failure_is_logged_with_its_cause_and_id(server: Running) -> None:
    picture = blob()
    picture[0, 0] = ThresholdPredictor.POISON
    with logged(logs.JsonFormatter()) as stream:
        response = http.post(f"{server.url}/segment", content=encoded(picture), headers=OCTETS)
        until(lambda: "poison" in stream.getvalue())
    assert response.status_code == 500
    assert "poison" not in response.text
    line = next(line for line in map(json.loads, stream.getvalue().splitlines()) if "traceback" in line)
    assert line["id"] == response.json()["request_id"]
    assert "poison" in line["traceback"]


def test_counts_by_task_and_status() -> None:
    with serving(ThresholdPredictor()) as server:
        http.post(f"{server.url}/segment?task=semantic,panoptic", content=PICTURE, headers=OCTETS)
        http.post(f"{server.url}/segment?task=everything", content=PICTURE, headers=OCTETS)
        http.get(f"{server.url}/models")
        http.get(f"{server.url}/{'x' * 50}")
        assert metric(server.url, 'proscale_requests_total{status="200",task="panoptic+semantic"}') == 1
        assert metric(server.url, 'proscale_requests_total{status="422",task="unknown"}') == 1
        assert metric(server.url, 'proscale_rejected_total{reason="invalid_parameter"}') == 1
        text = http.get(f"{server.url}/metrics").text
        assert len(re.findall(r"^proscale_requests_total\{", text, re.MULTILINE)) == 2
