"""One line of JSON per event, the same from every process of the service: gateway, worker, and Triton itself. No torch."""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
_TRITON = re.compile(r"([EWIV])(\d{2})(\d{2}) (\d{2}:\d{2}:\d{2})\.(\d{3})\d* +\d+ ([\w.:/-]+:\d+)\] ?(.*)", re.DOTALL)
_TRITON_LEVELS = {"E": "error", "W": "warning", "I": "info", "V": "debug"}


def json_line(seconds: float, level: str, message: str, fields: Mapping[str, Any] | None = None) -> str:
    """One JSON object: time (UTC), level, message, then the fields. Args: seconds: since the epoch."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return json.dumps({"time": f"{clock}.{thousandths:03d}Z", "level": level, "message": message} | dict(fields or {}), default=str)


def foreign_line(text: str, seconds: float, source: str) -> str:
    """A line that another program wrote, as JSON: one that is JSON already stays, of Triton's the level and the place are read.

    Args:
        seconds: when it was read, since the epoch; Triton's own clock has no year, and may be of another zone.
        source: who wrote it.
    """
    stripped = text.strip()
    if stripped.startswith('{"time": '):
        return stripped
    if match := _TRITON.fullmatch(stripped):
        message = match[7]
        if message.startswith('"') and message.endswith('"'):
            message = message[1:-1]
        return json_line(seconds, _TRITON_LEVELS[match[1]], message, {"source": source, "at": match[6]})
    return json_line(seconds, "info", stripped, {"source": source})


def configure_worker(environment: Mapping[str, str], model: str) -> None:
    """Have this process's records written to standard error as `PROSCALE_LOG_FORMAT` and `PROSCALE_LOG_LEVEL` say: `json` or plain lines.

    Args:
        model: named in every line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WorkerFormatter(environment.get("PROSCALE_LOG_FORMAT", "plain") == "json", model))
    level = environment.get("PROSCALE_LOG_LEVEL", "info").lower()
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("proscale").setLevel(level.upper() if level in LEVELS else "INFO")
    logging.captureWarnings(True)


class WorkerFormatter(logging.Formatter):
    """Records of the worker, with the fields of `extra={"fields": ...}`."""

    def __init__(self, in_json: bool, model: str) -> None:
        super().__init__()
        self._json, self._model = in_json, model

    def format(self, record: logging.LogRecord) -> str:
        fields = {"source": "worker", "model": self._model, "process": os.getpid(), **getattr(record, "fields", {})}
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._json:
            return json_line(
                record.created, record.levelname.lower(), record.getMessage(), fields | ({"traceback": trace} if trace else {})
            )
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname} {record.getMessage()} " + " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{line}\n{trace}" if trace else line
