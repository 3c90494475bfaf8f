"""CycloneDX SBOMs of what the wheel and the images install, from the lock files: `make sbom` writes them into build/sbom.

    python docker/sbom.py [FOLDER]

`service.cdx.json` is the package with the extra `model`, `gateway.cdx.json` and `worker.cdx.json` are what the images add to their base
images. Each names every package with version, licence, the hashes of its files where they are locked, and what needs it, and the weights
in the package. What a base image holds, and NVIDIA's libraries in the GPU image, is told by the SBOM that the build attaches to an image.
"""

import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageMetadata, metadata, requires
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proscale import __version__

ROOT = Path(__file__).parents[1]
PROJECT = "proscale-segmentation-service"
LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Product:
    """Something that is installed: its lock file, what the project asks for there, and the image that it is added to."""

    name: str
    lock: str
    extras: tuple[str, ...] = ()
    """Of the package."""
    wanted: str | None = None
    """File of requirements that take the place of the package's."""
    dockerfile: str | None = None


PRODUCTS = (
    Product("service", "run", ("model",)),
    Product("gateway", "gateway", ("gateway", "tracing"), dockerfile="gateway"),
    Product("worker", "worker", wanted="worker.in", dockerfile="triton"),
)


def main() -> None:
    """Write one file per product."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for product in PRODUCTS:
        path = folder / f"{product.name}.cdx.json"
        path.write_text(JsonV1Dot6(bill_of(product)).output_as_string(indent=1) + "\n")
        print(path)


def bill_of(product: Product) -> Bom:
    """The SBOM of a product."""
    pins, hashes = locked(product.lock), locked_hashes(product.lock)
    components = {name: package(name, pinned, hashes.get(name, ())) for name, pinned in pins.items()}
    root = Component(
        name=PROJECT if product.name == "service" else f"proscale-{product.name}",
        version=__version__,
        type=ComponentType.APPLICATION if product.dockerfile is None else ComponentType.CONTAINER,
        licenses=[LicenseFactory().make_from_string(LICENCE)],
        bom_ref="root",
    )
    bom = Bom(components=components.values())
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", datetime.now(UTC).timestamp())), UTC)
    bom.metadata.tools.components.add(this_component())
    others = [weights(), *([] if product.dockerfile is None else [base_image(product.dockerfile)])]
    bom.components.update(others)
    edges = needs(direct(product), pins)
    bom.register_dependency(root, [*(components[name] for name in sorted(edges.pop(""))), *others])
    for name, needed in edges.items():
        bom.register_dependency(components[name], [components[each] for each in sorted(needed)])
    return bom


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file; names as packaging compares them."""
    lines = (ROOT / f"requirements/{name}.txt").read_text().split()
    return {canonicalize_name(package): pinned for package, _, pinned in (line.partition("==") for line in lines)}


def locked_hashes(name: str) -> dict[str, list[str]]:
    """Package -> SHA-256 of each of its files, where they are locked."""
    path = ROOT / f"requirements/{name}.hashes.txt"
    lines = path.read_text().replace("\\\n", " ").splitlines() if path.exists() else []
    return {canonicalize_name(line.split("==")[0]): re.findall(r"--hash=sha256:([0-9a-f]{64})", line) for line in lines if line.strip()}


def package(name: str, pinned: str, hashes: Iterable[str]) -> Component:
    """A package from PyPI. Its hashes are those of its distributions, of which every platform has another one."""
    found = metadata(name)
    purl = PackageURL("pypi", name=name, version=pinned)
    reference = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes],
    )
    return Component(
        name=found["Name"],
        version=pinned,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=licences(found) if found["Version"].partition("+")[0] == pinned else (),
        external_references=[reference],
    )


def licences(found: PackageMetadata) -> list[License]:
    """What a package says its licence is: an SPDX expression, or the words that it has."""
    words = next((found[field] for field in ("License-Expression", "License") if field in found), "")
    if not words or "\n" in words.strip():  # some put the whole text there
        classified = [text.rpartition(" :: ")[2] for text in found.get_all("Classifier") or () if text.startswith("License ::")]
        words = " AND ".join(classified)
    return [LicenseFactory().make_from_string(words.strip())] if words.strip() else []


def weights() -> Component:
    """The model in the package."""
    folder = ROOT / "model/proscale/data/default"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return Component(
        name=json.loads((folder / "config.json").read_text())["name"],
        version=__version__,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        licenses=[LicenseFactory().make_from_string(LICENCE)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        bom_ref="weights",
    )


def base_image(dockerfile: str) -> Component:
    """The image that another one is built on, by default."""
    text = (ROOT / f"docker/{dockerfile}.Dockerfile").read_text()
    name, _, tag = re.findall(r"^ARG (?:PYTHON|TRITON)_IMAGE=(\S+)$", text, re.MULTILINE)[0].rpartition(":")
    return Component(name=name, version=tag, type=ComponentType.CONTAINER, bom_ref="base-image")


def direct(product: Product) -> Iterator[Requirement]:
    """What is asked for by name."""
    if product.wanted is not None:
        yield from map(Requirement, (ROOT / "requirements" / product.wanted).read_text().split())
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [*project["dependencies"], *(text for extra in product.extras for text in project["optional-dependencies"][extra])]
    while todo:
        asked = Requirement(todo.pop())
        if asked.name == PROJECT:
            todo += (text for extra in asked.extras for text in project["optional-dependencies"][extra])
        else:
            yield asked


def needs(asked: Iterable[Requirement], pins: dict[str, str]) -> dict[str, set[str]]:
    """Package -> the locked packages that it needs on this platform; under `` those that are asked for."""
    edges: dict[str, set[str]] = {"": set(), **{name: set() for name in pins}}
    todo = [("", each) for each in asked]
    done = set()
    while todo:
        owner, requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in pins:  # of another image: NVIDIA's libraries beside torch
            continue
        edges[owner].add(name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) not in done:
                done.add((name, extra))
                further = map(Requirement, requires(name) or ())
                todo += ((name, each) for each in further if each.marker is None or each.marker.evaluate({"extra": extra}))
    return edges


if __name__ == "__main__":
    main()
