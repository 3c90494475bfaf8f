import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale_service import errors
from proscale_service.errors import ServiceError, all_errors, encode_problem, error_from_problem, plain_problem, problem


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__
    for error in all_errors():
        line = next(line for line in errors.__doc__.splitlines() if line.split("── ")[-1].split()[:1] == [error.__name__])
        numbers = [word for word in line.split() if word.isdigit()]
        assert numbers in ([], [str(error.status)]), error


def test_reasons_are_unique() -> None:
    reasons = [error.reason for error in all_errors()]
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("cls", list(all_errors()))
def test_what_the_server_means_is_what_the_client_catches(cls: type[ServiceError]) -> None:
    sent = json.loads(encode_problem(problem(cls("why"), "/segment", "abc")))
    assert sent.keys() == {"type", "title", "status", "detail", "instance", "request_id"}
    caught = error_from_problem(sent["status"], sent, retry_after=3)
    assert type(caught) is cls
    assert (caught.detail, caught.request_id, caught.retry_after, str(caught)) == ("why", "abc", 3, "why")


@pytest.mark.parametrize(
    ("status", "cls"),
    [(400, errors.MalformedRequest), (413, errors.TooLarge), (503, errors.Unavailable), (418, ServiceError), (500, ServiceError)],
)
def test_answers_of_other_servers_are_mapped_by_status(status: int, cls: type[ServiceError]) -> None:
    assert type(error_from_problem(status, {})) is cls


@given(st.text(), st.text())
def test_problems_are_ascii_whatever_is_quoted(detail: str, path: str) -> None:
    for record in (problem(ServiceError(detail), path, "id"), plain_problem(404, detail, path, "id")):
        assert json.loads(encode_problem(record).decode("ascii"))["detail"] == detail
        assert record["instance"].isascii()


def test_lone_surrogates_do_not_break_the_answer() -> None:
    assert b"\\ud800" in encode_problem(problem(ServiceError("\ud800"), "/\ud800", "id"))


def test_unknown_statuses_have_a_title() -> None:
    assert plain_problem(404, "", "/", "id")["title"] == "Not Found"
    assert plain_problem(799, "", "/", "id")["title"] == "Error"


def test_the_documentation_lists_what_is_sent() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    rows = dict(re.findall(r"^\| (\d{3}) \| (.*?) \|", page, re.MULTILINE))
    documented = {(int(status), kind) for status, kinds in rows.items() for kind in re.findall(r"`([a-z-]+)`", kinds)}
    never_sent = {errors.ClientGone, errors.TooLarge}
    assert documented == {(error.status, error.reason.replace("_", "-")) for error in all_errors() if error not in never_sent}
