"""The SBOMs that `make sbom` writes: valid, complete, and what the lock files say."""

import hashlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from proscale import __version__

ROOT = Path(__file__).parents[3]
LOCKS = {"service": "run", "gateway": "gateway", "worker": "worker"}
UNLICENSED = {"numpy"}
"""Of the worker: another version than the one that is installed here, whose licence is therefore not known here."""

each_product = pytest.mark.parametrize("product", LOCKS)


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Product -> SBOM, by the command of the Makefile."""
    folder = tmp_path_factory.mktemp("sbom")
    (command,) = re.findall(r"\$\(BIN\)/python (docker/sbom\.py) build/sbom$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    subprocess.run([sys.executable, str(ROOT / command), str(folder)], capture_output=True, text=True, timeout=60, check=True)
    return {path.name.removesuffix(".cdx.json"): path.read_text() for path in folder.iterdir()}


def packages(bill: str) -> dict[str, dict[str, Any]]:
    return {canonicalize_name(each["name"]): each for each in json.loads(bill)["components"] if each["type"] == "library"}


def test_there_is_one_for_the_wheel_and_one_for_each_image(bills: dict[str, str]) -> None:
    assert bills.keys() == LOCKS.keys()
    roots = {name: json.loads(bill)["metadata"]["component"] for name, bill in bills.items()}
    assert {each["version"] for each in roots.values()} == {__version__}
    assert {name: each["type"] for name, each in roots.items()} == {"service": "application", "gateway": "container", "worker": "container"}


@each_product
def test_the_schema_accepts_them(bills: dict[str, str], product: str) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(bills[product]) is None
    broken = bills[product].replace('"type": "library"', '"type": "book"', 1)
    assert validator.validate_str(broken) is not None


@each_product
def test_they_name_what_is_locked_with_licences_and_hashes(bills: dict[str, str], product: str) -> None:
    locked = [line.split("==") for line in (ROOT / f"requirements/{LOCKS[product]}.txt").read_text().split()]
    found = packages(bills[product])
    assert {name: each["version"] for name, each in found.items()} == {canonicalize_name(name): version for name, version in locked}
    assert {each["purl"] for each in found.values()} == {f"pkg:pypi/{name}@{each['version']}" for name, each in found.items()}
    assert {name for name, each in found.items() if not each.get("licenses")} <= UNLICENSED
    lock = ROOT / f"requirements/{product}.hashes.txt"
    for name, each in found.items() if lock.exists() else ():
        hashes = {value["content"] for value in each["externalReferences"][0].get("hashes", ())}
        assert hashes <= set(re.findall("[0-9a-f]{64}", lock.read_text()))
        assert hashes or name == "torch", "each index has files of its own"


@each_product
def test_everything_is_needed_by_something(bills: dict[str, str], product: str) -> None:
    bill = json.loads(bills[product])
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    reached, todo = set(), ["root"]
    while todo:
        if (ref := todo.pop()) not in reached:
            reached.add(ref)
            todo += needs[ref]
    assert reached == {"root", *(each["bom-ref"] for each in bill["components"])}
    found = packages(bills[product])
    assert product == "worker" or found["starlette"]["bom-ref"] in needs[found["fastapi"]["bom-ref"]]


def test_the_weights_and_the_base_images_are_told(bills: dict[str, str]) -> None:
    digest = hashlib.sha256((ROOT / "model/proscale/data/default/model.safetensors").read_bytes()).hexdigest()
    for product, bill in bills.items():
        others = {each["type"]: each for each in json.loads(bill)["components"] if each["type"] != "library"}
        assert others["machine-learning-model"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
        if product != "service":
            dockerfile = "gateway" if product == "gateway" else "triton"
            image = f"{others['container']['name']}:{others['container']['version']}"
            assert f"_IMAGE={image}\n" in (ROOT / f"docker/{dockerfile}.Dockerfile").read_text()


def test_two_runs_of_one_moment_differ_in_their_serial_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    script = runpy.run_path(str(ROOT / "docker/sbom.py"))
    product = script["PRODUCTS"][1]
    first, second = (json.loads(script["JsonV1Dot6"](script["bill_of"](product)).output_as_string()) for _ in range(2))
    assert first.pop("serialNumber") != second.pop("serialNumber")
    assert first == second
    assert first["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
