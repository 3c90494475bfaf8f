"""What the OpenAPI document says is what the service does, held by schemathesis against a live server."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proscale_service.routes.openapi import MEANING, reasons

from ..serving import Running, http

HERE = Path(__file__).parent
EXAMPLES = 40
SEED = 7


@pytest.fixture(scope="module")
def document(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"{server.url}/openapi.json").json()
    return found


@pytest.mark.slow
def test_schemathesis_finds_no_fault(server: Running, tmp_path: Path) -> None:
    """What the document allows is accepted, what it forbids is refused, and every answer is as it says."""
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file",
        str(HERE / "schemathesis.toml"),
        "run",
        f"{server.url}/openapi.json",
    ]
    options = ["--checks", "all", "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--generation-database", "none"]
    root = HERE.parents[2]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.service.openapi.hooks",
        "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "9 selected / 9 total" in done.stdout
    assert "ERRORS" not in done.stdout


def test_examples_work_as_they_stand(server: Running, document: dict[str, Any]) -> None:
    tried = 0
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                if "example" in content:
                    tried += 1
                    response = http.post(f"{server.url}{path}", json=content["example"], headers={"content-type": kind})
                    assert response.status_code == 200, response.text
                    for item in response.json().get("items", ()):
                        assert "result" in item
    assert tried == 3


def test_every_error_that_a_route_may_give_is_described(document: dict[str, Any]) -> None:
    """Statuses of the service's errors, their reasons, and the headers that come with them."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status == "200":
                    continue
                assert response["description"].startswith(MEANING[int(status)])
                assert all(reason in response["description"] for reason in reasons(int(status)))
                assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
            wanted = {"406", "500"} | (set() if path.startswith(("/health", "/metrics")) else {"401", "403", "429"})
            assert wanted <= operation["responses"].keys(), path


def test_names_of_operations_are_short_and_each_its_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert names == ["segment", "segment_batch", "plan_size", "plan", "models", "live", "startup", "ready", "metrics"]


def test_the_schema_has_the_batch_limit_of_the_settings(document: dict[str, Any]) -> None:
    content = document["paths"]["/segment/batch"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["properties"]["images"]["maxItems"] == 4
    assert content["multipart/form-data"]["schema"]["properties"]["image"]["maxItems"] == 4
