"""Spans of a request reach a collector, one trace from the caller's own span to the worker's; exemplars; what the log tells."""

import io
import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proscale.tracing import TracingError, make_tracer
from proscale_service import logs

from .collector import Collector, Span
from .pictures import blob, encoded
from .predictors import ThresholdPredictor
from .serving import Running, http, metric, serving, until

PICTURE = encoded(blob())
OCTETS = {"content-type": "application/octet-stream"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
STAGES = {"accept", "read", "decode", "resize", "queue", "batch", "preprocess", "inference", "postprocess", "encode", "answer"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proscale.tracing._BATCH_DELAY_MS", 20)  # else every test waits for a second
        with serving(ThresholdPredictor(), otlp_endpoint=collector.url) as server:
            yield server


def ask(server: Running, query: str = "", path: str = "/segment", **headers: str) -> httpx.Response:
    return http.post(f"{server.url}{path}{query}", content=PICTURE, headers=OCTETS | headers)


def test_a_request_continues_its_callers_trace(traced: Running, collector: Collector) -> None:
    answer = ask(traced, **TRACEPARENT)
    assert answer.status_code == 200
    until(lambda: len(collector.of_trace(TRACE)) == len(STAGES) + 1)
    spans = collector.of_trace(TRACE)
    root = spans["proscale/POST /segment"]
    assert root.parent_id == PARENT
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["request_id"] == answer.headers["x-request-id"]
    assert {name.removeprefix("proscale/") for name in spans} - {"POST /segment"} == STAGES
    children = {"batch": ("preprocess", "inference", "postprocess", "encode"), "read": ("decode", "resize")}
    for parent, parts in children.items():
        assert {spans[f"proscale/{part}"].parent_id for part in parts} == {spans[f"proscale/{parent}"].span_id}
    for stage in ("accept", "read", "queue", "batch", "answer"):
        assert spans[f"proscale/{stage}"].parent_id == root.span_id
        assert root.began <= spans[f"proscale/{stage}"].began <= spans[f"proscale/{stage}"].ended
    assert in_order(spans, "accept", "read", "queue", "batch")
    assert spans["proscale/read"].attributes == {"width": 96, "height": 64}
    assert spans["proscale/batch"].attributes == {"model": "threshold", "batch_size": 1, "flops": 3 * 96 * 64}


def in_order(spans: dict[str, Span], *names: str) -> bool:
    """Whether one begins where the other ended, but for rounding."""
    pairs = itertools.pairwise(names)
    return all(abs(spans[f"proscale/{a}"].ended - spans[f"proscale/{b}"].began) < 10_000_000 for a, b in pairs)


def test_failures_are_errors_in_the_trace_and_refusals_are_not(traced: Running, collector: Collector) -> None:
    ask(traced, "?threshold=7", traceparent=f"00-{'a' * 32}-{PARENT}-01")
    http.post(f"{traced.url}/hf", content=b"none", headers=OCTETS | {"traceparent": f"00-{'b' * 32}-{PARENT}-01"})
    poison = blob()
    poison[0, 0] = ThresholdPredictor.POISON
    http.post(f"{traced.url}/segment", content=encoded(poison), headers=OCTETS | {"traceparent": f"00-{'c' * 32}-{PARENT}-01"})
    until(lambda: all(collector.of_trace(each * 32) for each in "abc"))
    roots = [next(iter(collector.of_trace(each * 32).values())) for each in "abc"]
    assert [(root.attributes["http.response.status_code"], root.failed) for root in roots] == [(422, False), (422, False), (500, True)]


@pytest.mark.parametrize("header", ["", "junk", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE[:-1]}-{PARENT}-01"])
def test_an_invalid_traceparent_begins_a_new_trace(traced: Running, collector: Collector, header: str) -> None:
    request_id = f"none-{len(header)}-{header[:2]}"
    assert ask(traced, **{"traceparent": header, "x-request-id": request_id}).status_code == 200

    def roots() -> list[Span]:
        return [span for span in list(collector.spans) if span.attributes.get("request_id") == request_id]

    until(lambda: bool(roots()))
    assert roots()[0].parent_id == ""
    assert roots()[0].trace_id != TRACE


def test_the_callers_sampling_decision_is_kept(traced: Running, collector: Collector) -> None:
    assert ask(traced, traceparent=f"00-{'d' * 32}-{PARENT}-00").status_code == 200
    assert ask(traced, traceparent=f"00-{'e' * 32}-{PARENT}-01").status_code == 200
    until(lambda: bool(collector.of_trace("e" * 32)))
    assert not collector.of_trace("d" * 32)


def test_histograms_name_traces_where_the_scraper_understands_it(traced: Running) -> None:
    assert ask(traced, traceparent=f"00-{'f' * 32}-{PARENT}-01").status_code == 200
    plain = http.get(f"{traced.url}/metrics")
    told = http.get(f"{traced.url}/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert told.headers["content-type"].startswith("application/openmetrics-text")
    assert f'# {{trace_id="{"f" * 32}"}}' in told.text
    assert told.text.endswith("# EOF\n")
    assert "trace_id" not in plain.text


@pytest.mark.slow
def test_without_an_endpoint_nothing_is_traced_or_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from proscale_service.app import create_app; from proscale_service.settings import Settings; create_app(Settings())\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.sdk')]"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROSCALE_")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=clean)
    assert make_tracer(None, "proscale") is None
    with serving(ThresholdPredictor()) as server:
        answer = http.get(f"{server.url}/metrics", headers={"accept": "application/openmetrics-text"})
        assert answer.headers["content-type"].startswith("text/plain")


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(TracingError, match=r"pip install .*\[tracing\]"):
        make_tracer("http://127.0.0.1:4318", "proscale")


@pytest.mark.slow
def test_an_unreachable_collector_affects_no_request() -> None:
    with serving(ThresholdPredictor(), otlp_endpoint="http://127.0.0.1:9") as server:
        assert [ask(server).status_code for _ in range(5)] == [200] * 5


def test_the_log_has_pictures_and_traces(traced: Running) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger(logs.NAME)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        ask(traced, **TRACEPARENT, **{"x-request-id": "told"})
        http.post(f"{traced.url}/segment/batch", files=[("image", PICTURE)] * 2, headers={"x-request-id": "two"})
        until(lambda: "two" in stream.getvalue())
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = {line["id"]: line for line in map(json.loads, stream.getvalue().splitlines()) if "id" in line}
    assert {name: lines["told"][name] for name in ("trace", "model", "pictures", "flops")} == {
        "trace": TRACE,
        "model": "threshold",
        "pictures": "96x64",
        "flops": 3 * 96 * 64,
    }
    assert lines["two"]["flops"] == 2 * 3 * 96 * 64


def test_refusals_are_counted_by_reason_and_class_of_key(traced: Running) -> None:
    sample = 'proscale_refusals_total{key_class="none",reason="invalid_parameter"}'
    before = metric(traced.url, sample)
    ask(traced, "?threshold=7")
    assert metric(traced.url, sample) == before + 1
