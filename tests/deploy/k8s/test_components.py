"""What the optional components change, in an overlay as users have it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from k8s.render import ROOT

from proscale_service.settings import Settings

from .rendered import Manifest, of_kind, pods

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def with_components(folder: Path, *components: str, patches: str = "") -> list[Manifest]:
    """What a user's own overlay renders to, which lies anywhere and adds components to the GPU overlay."""
    listed = "\n".join(f"  - {os.path.relpath(ROOT / 'k8s/components' / name, folder)}" for name in components)
    base = os.path.relpath(ROOT / "k8s/overlays/gpu", folder)
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    listed = f"components:\n{listed}\n" if components else ""
    (folder / "kustomization.yaml").write_text(f"{head}namespace: proscale\nresources: [{base}]\n{listed}{patches}")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.mark.slow
def test_optional_components_do_what_they_say_and_are_valid(tmp_path: Path) -> None:
    optional = {path.name for path in (ROOT / "k8s/components").iterdir()} - {"checkpoints", "monitoring", "worker-autoscaling"}
    assert optional == {"ingress", "gateway-api", "pull-secret", "gpu-nodes", "gpu-slice", "tracing"}
    rendered = with_components(tmp_path, *sorted(optional))
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(rendered))
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", str(tmp_path / "all.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in rendered}
    ports = {port["name"]: port["port"] for port in found["Service", "gateway"]["spec"]["ports"]}
    ingress = found["Ingress", "gateway"]["spec"]
    (path,) = ingress["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "gateway", "port": {"name": "http"}}
    assert ingress["tls"][0]["hosts"] == [ingress["rules"][0]["host"]]
    limits = found["Ingress", "gateway"]["metadata"]["annotations"]
    assert int(limits["nginx.ingress.kubernetes.io/proxy-body-size"].removesuffix("m")) * 2**20 >= Settings().max_upload_bytes
    assert int(limits["nginx.ingress.kubernetes.io/proxy-read-timeout"]) * 1000 > Settings().deadline_ms
    route = found["HTTPRoute", "gateway"]["spec"]["rules"][0]
    assert route["backendRefs"] == [{"name": "gateway", "port": ports["http"]}]
    assert int(route["timeouts"]["request"].removesuffix("s")) * 1000 > Settings().deadline_ms
    for name in ("gateway", "triton"):
        assert found["ServiceAccount", name]["imagePullSecrets"] == [{"name": "registry"}]
    pod = found["StatefulSet", "triton"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["runtimeClassName"] == "nvidia"
    endpoints = {
        urlsplit(each["data"]["PROSCALE_OTLP_ENDPOINT"])
        for each in rendered
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith(("gateway-", "triton-"))
    }
    (endpoint,) = endpoints  # both send there, and the policy lets them
    collector, names = found["NetworkPolicy", "spans"]["spec"]["egress"]
    assert collector["ports"] == [{"protocol": "TCP", "port": endpoint.port}]
    assert collector["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == str(endpoint.hostname).split(".")[1]
    assert names == found["NetworkPolicy", "gateway"]["spec"]["egress"][1]
    gpus = {name: count for name, count in pod["containers"][0]["resources"]["limits"].items() if name.startswith("nvidia.com/")}
    assert gpus == {"nvidia.com/mig-1g.10gb": 1}


@pytest.mark.slow
def test_the_release_that_prometheus_reads_is_set_in_one_place(tmp_path: Path) -> None:
    watched = of_kind("gpu", "ServiceMonitor", "PrometheusRule")
    assert len(watched) == 3
    assert {each["metadata"]["labels"]["release"] for each in watched} == {"kube-prometheus-stack"}
    patch = (
        "patches:\n  - target: { kind: ServiceMonitor|PrometheusRule }\n    patch: |\n"
        "      - { op: replace, path: /metadata/labels/release, value: mine }\n"
    )
    rendered = with_components(tmp_path, patches=patch)
    labels = [each["metadata"]["labels"] for each in rendered if each["kind"] in ("ServiceMonitor", "PrometheusRule")]
    assert [each["release"] for each in labels] == ["mine"] * 3
    assert "/metadata/labels/release" in (ROOT / "docs/deploy.md").read_text()


def test_an_ordinary_restart_leaves_time_to_load_and_a_dead_model_time_to_be_healed() -> None:
    container = dict(pods("gpu"))["triton"]["containers"][0]
    live = container["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] < 60, "after its own patience the probe should not wait for long"
    assert live["periodSeconds"] > live["timeoutSeconds"]
