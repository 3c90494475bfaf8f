"""Structured logs on stderr: one event per line, its fields beside it.

In JSON every line of the process is a record: those of other libraries' loggers, Python's warnings, tracebacks of threads, and what C
libraries write to standard error by themselves.
"""

import json
import logging
import sys
import threading
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

from proscale.log_lines import LEVELS, json_line
from proscale_service.stderr_lines import divert

__all__ = ["LEVELS", "NAME", "REQUEST_ID", "JsonFormatter", "PlainFormatter", "configure", "event", "in_json"]

NAME = "proscale_service"
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that is being answered; empty outside of any."""


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send the records of the service, and warnings of all others, to `stream`.

    Args:
        level: debug, info, warning or error.
        form: plain or json.
        stream: unset: standard error, which in JSON is then ours alone: see `stderr_lines`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else PlainFormatter())
    if form == "json" and stream is None:
        handler.setStream(divert(_take_line))
        _log_uncaught_exceptions()
        logging.raiseExceptions = False  # a log that cannot be written must not be the reason for more to write
    for name, least in ((NAME, level.upper()), ("uvicorn", "WARNING"), ("py.warnings", "WARNING"), (None, "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least)
        logger.propagate = False
    logging.captureWarnings(True)


def in_json() -> bool:
    """Whether records are written as JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger(NAME).handlers)


def event(logger: logging.Logger, level: int, message: str, *, error: BaseException | None = None, **fields: Any) -> None:
    """Log `message` with fields; `error` adds its traceback."""
    logger.log(level, message, extra={"fields": fields}, exc_info=error)


def _take_line(line: str) -> None:
    event(logging.getLogger(NAME), logging.WARNING, line, source="stderr")


def _log_uncaught_exceptions() -> None:
    """Give exceptions that nobody caught, in the main thread and in others, to the log as one record each."""

    def log(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, **fields: Any) -> None:
        event(logging.getLogger(NAME), logging.ERROR, "uncaught exception", error=error or kind(), **fields)

    sys.excepthook = log
    threading.excepthook = lambda args: log(args.exc_type, args.exc_value, args.exc_traceback, thread=args.thread and args.thread.name)
    sys.unraisablehook = lambda args: log(args.exc_type, args.exc_value, args.exc_traceback, where=repr(args.object))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What stands beside the message; records of others say whose they are."""
    ours = record.name == NAME or record.name.startswith(f"{NAME}.")
    return ({} if ours else {"logger": record.name}) | getattr(record, "fields", {})


class PlainFormatter(logging.Formatter):
    """`12:00:00 INFO request id=01J... status=200 ms=12.3`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_plain(value)}" for name, value in _fields(record).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname} {record.getMessage()}{' ' if fields else ''}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        trace = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        return json_line(record.created, record.levelname.lower(), record.getMessage(), _fields(record) | trace)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    # Quoted when it could be read as two fields or two lines: what a caller sends must not forge a log line.
    return text if text.isprintable() and text.isascii() and not any(c in text for c in ' "=') else json.dumps(text)
