"""The RayJob of k8s/bulk: valid as far as Kubernetes' schemas reach, confined as our other pods are, and its command is ours."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s.render import ROOT

from proscale import __version__
from proscale.bulk.command import bulk

FOLDER = ROOT / "k8s/bulk"
JOB = {
    "backoffLimit": int,
    "entrypoint": str,
    "entrypointNumCpus": int,
    "rayClusterSpec": dict,
    "shutdownAfterJobFinishes": bool,
    "submissionMode": str,
    "ttlSecondsAfterFinished": int,
}
CLUSTER = {"headGroupSpec": dict, "rayVersion": str, "workerGroupSpecs": list}
HEAD = {"rayStartParams": dict, "template": dict}
WORKERS = HEAD | {"groupName": str, "maxReplicas": int, "minReplicas": int, "replicas": int}
"""Fields of KubeRay's ray.io/v1 that the manifest uses, with their types, read off its API: no package has its schema."""
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


@cache
def rendered() -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def job() -> dict[str, Any]:
    (found,) = [each for each in rendered() if each["kind"] == "RayJob"]
    spec: dict[str, Any] = found["spec"]
    return spec


def templates() -> dict[str, dict[str, Any]]:
    cluster = job()["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}
    return {name: group["template"] for name, group in groups.items()}


@pytest.mark.slow
def test_schemas_accept_everything_and_the_pods_inside(tmp_path: Path) -> None:
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template["metadata"]}, "spec": template["spec"]}
        for name, template in templates().items()
    ]
    rest = [each for each in rendered() if each["kind"] != "RayJob"]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([*rest, *pods]))
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", str(tmp_path / "all.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == len(rest) + len(pods)
    for number, pod in enumerate(pods):  # kubectl decodes quantities, which schemas take as any text
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(pod))
        done = subprocess.run(
            ["kubectl", "set", "env", "--local", "-f", str(path), "A=b", "-o", "yaml"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_fields_outside_the_pods_are_those_of_ray_io_v1() -> None:
    (found,) = [each for each in rendered() if each["kind"] == "RayJob"]
    assert found["apiVersion"] == "ray.io/v1"
    cluster = job()["rayClusterSpec"]
    parts = [(job(), JOB), (cluster, CLUSTER), (cluster["headGroupSpec"], HEAD), *((each, WORKERS) for each in cluster["workerGroupSpecs"])]
    for values, fields in parts:
        assert {name: type(value) for name, value in values.items()} == fields
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "a number there is refused"
    assert job()["submissionMode"] in {"K8sJobMode", "HTTPMode", "InteractiveMode"}


def test_pods_keep_to_the_restricted_level() -> None:
    user = re.findall(r"^USER (\d+):\d+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)[-1]
    claims = {each["metadata"]["name"] for each in rendered() if each["kind"] == "PersistentVolumeClaim"}
    for name, template in templates().items():
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == int(user), name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert container["image"] == f"proscale-bulk:{__version__}", name
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, name
        assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v} <= claims, name


def test_only_ray_itself_and_its_operator_reach_ray() -> None:
    (namespace,) = [each for each in rendered() if each["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace") for each in rendered()} == {None, namespace["metadata"]["name"]}
    (policy,) = [each["spec"] for each in rendered() if each["kind"] == "NetworkPolicy"]
    assert (policy["podSelector"], policy["policyTypes"]) == ({}, ["Ingress"])
    # Whoever reaches the job server runs programs: without a sender, only the port of the metrics is open.
    assert [rule["ports"] for rule in policy["ingress"] if "from" not in rule] == [[{"protocol": "TCP", "port": "metrics"}]]


def test_the_entrypoint_is_a_command_of_ours_and_fits_the_workers() -> None:
    command, name, *arguments = shlex.split(job()["entrypoint"])
    assert (command, name) == ("proscale", "bulk")
    with bulk.make_context("bulk", arguments) as context:
        given = context.params
    cluster = job()["rayClusterSpec"]
    processors = sum(
        group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for group in cluster["workerGroupSpecs"]
    )
    assert given["actors"] * given["threads"] == processors
    assert given["address"] == "auto"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "the head computes nothing"
    (head,) = templates()["head"]["spec"]["containers"]
    assert given["metrics_port"] == next(port["containerPort"] for port in head["ports"] if port["name"] == "metrics")
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in head["volumeMounts"]}
    assert mounts[given["sources"][0]] is True
    assert mounts[f"/{given['output'].parts[1]}"] is False
    (worker,) = templates()["workers"]["spec"]["containers"]
    assert given["sources"][0] in {mount["mountPath"] for mount in worker["volumeMounts"]}, "pictures are read by the actors"
    assert job()["backoffLimit"] > 0, "a job goes on where it was"


def test_ray_is_the_version_that_the_tests_run_with() -> None:
    assert job()["rayClusterSpec"]["rayVersion"] == version("ray")


def test_hadolint_has_nothing_to_say_and_what_is_copied_is_in_the_context() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), "--config", str(ROOT / ".hadolint.yaml"), "--failure-threshold", "style", str(FOLDER / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {
        path
        for line in re.findall(r"^COPY (?!--from)(.*)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
        for path in line.split()[:-1]
    }
    assert all(any(path == entry or path.startswith(entry + "/") for entry in allowed) for path in copied)
