"""Lines of Triton and of the worker as JSON."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from proscale.log_lines import configure_worker, foreign_line, json_line


def test_lines_of_triton_are_parsed() -> None:
    line = foreign_line("W1126 17:42:35.664932 10111 grpc_server.cc:2558] \"Started 'x'\"\n", 0.0005, "triton")
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "warning",
        "message": "Started 'x'",
        "source": "triton",
        "at": "grpc_server.cc:2558",
    }


@pytest.mark.parametrize("text", ["| model | version |", "W1126 half a line", 'é \x00 \\ "quoted"', "{ not json }"])
def test_any_other_line_is_kept_as_it_is(text: str) -> None:
    values = json.loads(foreign_line(text, 1.0, "triton"))
    assert (values["message"], values["level"]) == (text, "info")


def test_json_lines_pass_unchanged() -> None:
    line = json_line(1.9996, "info", "picture", {"id": "a"})
    assert foreign_line(line + "\n", 5.0, "triton") == line
    assert json.loads(line)["time"] == "1970-01-01T00:00:02.000Z"


@pytest.fixture
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("proscale")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.mark.usefixtures("_loggers_as_before")
@pytest.mark.parametrize("form", ["json", "plain"])
def test_the_workers_records_name_their_request(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_worker({"PROSCALE_LOG_FORMAT": form, "PROSCALE_LOG_LEVEL": "nonsense"}, "one")
    log = logging.getLogger("proscale.triton_worker")
    log.debug("not shown")
    try:
        raise ValueError("inside")
    except ValueError as error:
        log.error("a picture failed", exc_info=error, extra={"fields": {"id": "abc"}})
    text = written.getvalue()
    if form == "json":
        values = json.loads(text)
        assert (values["id"], values["model"], values["level"]) == ("abc", "one", "error")
        assert "ValueError: inside" in values["traceback"]
    else:
        assert " ERROR a picture failed source=worker model=one" in text.splitlines()[0]
        assert "id=abc" in text.splitlines()[0]
        assert text.splitlines()[-1] == "ValueError: inside"
