import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale_service import logs


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    names = (logs.NAME, "uvicorn", "py.warnings")
    before = {
        name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level, logging.getLogger(name).propagate) for name in names
    }
    yield
    logging.captureWarnings(False)
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def log_one(form: str, level: str = "info", **fields: object) -> str:
    stream = io.StringIO()
    logs.configure(level, form, stream)
    logs.event(logging.getLogger(logs.NAME), logging.INFO, "request", **fields)
    return stream.getvalue()


def test_plain_is_one_readable_line() -> None:
    line = log_one("plain", id="abc", status=200, ms=12.345)
    assert line.endswith(" INFO request id=abc status=200 ms=12.3\n")


def test_json_is_json() -> None:
    values = json.loads(log_one("json", id="abc", ms=12.5))
    assert (values["level"], values["message"], values["id"], values["ms"]) == ("info", "request", "abc", 12.5)
    assert values["time"].endswith("Z")


@given(st.text())
def test_what_callers_send_stays_one_field(text: str) -> None:
    assert log_one("plain", path=text).count("\n") == 1
    assert json.loads(log_one("json", path=text))["path"] == text


def test_forged_fields_are_quoted() -> None:
    assert 'path="/x status=200"' in log_one("plain", path="/x status=200", status=404)


def test_levels() -> None:
    assert log_one("plain", level="warning") == ""


def test_tracebacks_follow_their_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "plain", stream)
    try:
        raise ValueError("boom")
    except ValueError as error:
        logs.event(logging.getLogger(logs.NAME), logging.ERROR, "failed", error=error, id="abc")
    assert "ERROR failed id=abc\nTraceback" in stream.getvalue()
    assert "ValueError: boom" in stream.getvalue()
