"""Writes docs/openapi.json, what the application says of itself; `make openapi` runs it, and a test compares."""

import json
from pathlib import Path

from proscale_service.app import create_app
from proscale_service.settings import Settings

FILE = Path(__file__).with_suffix(".json")


def text() -> str:
    """The OpenAPI document of an application with default settings."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
