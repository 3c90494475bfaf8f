"""The checked OpenAPI document is what the application makes."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_checked_document_is_the_applications() -> None:
    spec = importlib.util.spec_from_file_location("openapi_document", ROOT / "docs" / "openapi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.FILE.read_text(encoding="utf-8")
    assert written == module.text(), "docs/openapi.json is out of date: run `make openapi`"
    # The names that users see are those of things, not of classes.
    assert 'Model"' not in written.replace('ServedModel"', "")
