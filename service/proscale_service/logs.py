"""Structured logs on stderr: one event per line, its fields beside it."""

import json
import logging
import sys
import time
from typing import Any, TextIO

NAME = "proscale_service"


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send the service's and uvicorn's records to `stream` (stderr).

    Args:
        level: debug, info, warning or error.
        form: plain or json.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else PlainFormatter())
    for name, least in ((NAME, level.upper()), ("uvicorn", "WARNING"), ("py.warnings", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least)
        logger.propagate = False
    logging.captureWarnings(True)


def event(logger: logging.Logger, level: int, message: str, *, error: BaseException | None = None, **fields: Any) -> None:
    """Log `message` with fields; `error` adds its traceback."""
    logger.log(level, message, extra={"fields": fields}, exc_info=error)


class PlainFormatter(logging.Formatter):
    """`12:00:00 INFO request id=01J... status=200 ms=12.3`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_plain(value)}" for name, value in getattr(record, "fields", {}).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname} {record.getMessage()}{' ' if fields else ''}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values = {"time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "message": record.getMessage()}
        values |= getattr(record, "fields", {})
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    # Quoted when it could be taken for two fields or two lines: what a caller sends must not forge a log line.
    return text if text.isprintable() and text.isascii() and not any(c in text for c in ' "=') else json.dumps(text)
