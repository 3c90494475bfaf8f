"""What the overlays render to, by kubectl."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from k8s.render import render

Manifest = dict[str, Any]


@cache
def manifests(overlay: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(render(overlay)) if document]


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests(overlay) if manifest["kind"] in kinds]


def one(overlay: str, kind: str, name: str) -> Manifest:
    found = [manifest for manifest in of_kind(overlay, kind) if manifest["metadata"]["name"] == name]
    assert len(found) == 1, (overlay, kind, name)
    return found[0]


def workloads(overlay: str) -> list[Manifest]:
    return of_kind(overlay, "Deployment", "StatefulSet")


def pods(overlay: str) -> Iterator[tuple[str, Manifest]]:
    for workload in workloads(overlay):
        yield workload["metadata"]["name"], workload["spec"]["template"]["spec"]


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


def variables(overlay: str, workload: str) -> dict[str, str]:
    """The environment of a workload's container, config maps resolved; values from fields as an empty text."""
    pod = dict(pods(overlay))[workload]
    container = pod["containers"][0]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= one(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {variable["name"]: variable.get("value", "") for variable in container.get("env", ())}
