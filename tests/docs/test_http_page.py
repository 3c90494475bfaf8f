"""docs/http.md and the code agree: every status with its reasons, every header, every content type."""

import re
from pathlib import Path

from proscale_service.errors import ServiceError, all_errors
from proscale_service.routes.content_types import BYTES

PAGE = (Path(__file__).parents[2] / "docs/http.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (Path(__file__).parents[2] / "service/proscale_service").rglob("*.py"))


def table() -> dict[int, set[str]]:
    rows = re.findall(r"^\| ([\d, ]+) \| (.*?) \| .* \|$", PAGE.partition("## Errors")[2], re.MULTILINE)
    return {int(status): set(re.findall(r"`([a-z-]+)`", kinds)) for statuses, kinds in rows for status in statuses.split(",")}


def test_every_error_stands_in_the_table_and_no_other() -> None:
    wanted: dict[int, set[str]] = {}
    for error in all_errors(ServiceError):
        if error.status != 499:  # never sent; the page says so in words
            wanted.setdefault(error.status, set()).add(error.reason.replace("_", "-"))
    found = table()
    assert found.pop(405) == set()
    # Base classes are never raised by themselves, but for those that the table names.
    abstract = {"too-large"}
    assert found == {status: kinds - abstract for status, kinds in wanted.items()}
    assert "499" in PAGE


def test_headers_that_the_code_sends_are_named() -> None:
    sent = {name.lower() for name in re.findall(r'b?"([a-z]+(?:-[a-z]+)+)"', SOURCES)}
    headers = {"x-request-id", "retry-after", "www-authenticate"} & sent
    assert headers == {"x-request-id", "retry-after", "www-authenticate"}
    for name in (*headers, "vary", "Accept-Encoding", "x-api-key"):
        assert name.lower() in PAGE.lower(), name


def test_content_types_that_are_named_are_taken_and_the_other_way_round() -> None:
    for kind in ("multipart/form-data", "application/json", "image/*", "application/octet-stream", "application/problem+json"):
        assert kind.replace("image/*", "image/") in PAGE, kind
    described = PAGE.partition("- **Bytes**")[2].partition("- **JSON**")[0]
    named = set(re.findall(r"`([a-z*]+/[a-z*+-]+)`", described))
    refused = {"application/x-www-form-urlencoded"}
    assert named - refused - {"image/*"} <= BYTES
    assert BYTES - {""} <= named, "every name of bytes stands on the page"
