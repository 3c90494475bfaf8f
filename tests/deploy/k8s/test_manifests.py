"""The manifests that every overlay renders to: valid for Kubernetes' own schemas, and what they promise holds between them."""

import json
import re
import shutil
import subprocess
import sys
from inspect import signature
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from k8s.render import PROMETHEUS_RULE, ROOT, RULES, overlays, prometheus_rule
from tests.deploy.environment import WORKER_VARIABLES

from proscale.worker_probe import look
from proscale_service.settings import PREFIX, Settings

from .rendered import manifests, matches, of_kind, one, pods, variables, workloads

CUSTOM = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "HTTPRoute"}
"""Kinds of operators, without a schema here. tests/deploy/keda checks the ScaledObject."""

PROBE_SECONDS = signature(look).parameters["timeout_s"].default

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")

each_overlay = pytest.mark.parametrize("overlay", overlays())


@pytest.mark.slow
@each_overlay
def test_kubernetes_schemas_accept_every_manifest(overlay: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(manifests(overlay)))
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    complaints = [line for line in output.splitlines() if not line.startswith("INFO")]
    unknown = [re.search(r"schema for kind (\w+) ", line) for line in complaints]
    assert all(match and match[1] in CUSTOM for match in unknown), complaints
    assert output.count("passed for resource") + len(complaints) == len(manifests(overlay))


@each_overlay
def test_quantities_parse(overlay: str, tmp_path: Path) -> None:
    # An offline command that decodes into Kubernetes' own types: the schemas take any text for a quantity.
    for workload in workloads(overlay):
        path = tmp_path / "one.yaml"
        path.write_text(json.dumps(workload))
        command = ["kubectl", "set", "env", "--local", "-f", str(path), "A=b", "-o", "yaml"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_there_is_an_overlay_for_cpus_and_one_for_gpus() -> None:
    assert overlays() == ["cpu", "gpu"]


@each_overlay
def test_everything_lives_in_one_restricted_namespace(overlay: str) -> None:
    namespace = of_kind(overlay, "Namespace")[0]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in manifests(overlay):
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]


@each_overlay
def test_pods_keep_to_the_restricted_level(overlay: str) -> None:
    for name, pod in pods(overlay):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == image_user(name), name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {"emptyDir", "persistentVolumeClaim"}, name
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


def image_user(name: str) -> int:
    """The user that the Dockerfile names."""
    users = re.findall(r"^USER (\d+):\d+$", (ROOT / f"docker/{name}.Dockerfile").read_text(), re.MULTILINE)
    return int(users[-1])


@each_overlay
def test_selectors_select_the_pods_they_mean(overlay: str) -> None:
    labels = {workload["metadata"]["name"]: workload["spec"]["template"]["metadata"]["labels"] for workload in workloads(overlay)}
    for workload in workloads(overlay):
        name = workload["metadata"]["name"]
        assert matches(workload["spec"]["selector"], labels[name])
        for constraint in workload["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert matches(constraint["labelSelector"], labels[name])
        # Nobody else's pods.
        assert [other for other in labels if matches(workload["spec"]["selector"], labels[other])] == [name]
    for service in of_kind(overlay, "Service"):
        selected = [name for name in labels if matches({"matchLabels": service["spec"]["selector"]}, labels[name])]
        assert selected == [service["metadata"]["name"]]
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert matches(budget["spec"]["selector"], labels[budget["metadata"]["name"]])
    services = {service["metadata"]["name"]: service for service in of_kind(overlay, "Service")}
    for monitor in of_kind(overlay, "ServiceMonitor"):
        found = [name for name, service in services.items() if matches(monitor["spec"]["selector"], service["metadata"]["labels"])]
        assert found == [monitor["metadata"]["name"]]
        ports = {port["name"] for port in services[found[0]]["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
        # The rules ask for these jobs.
        jobs = [rule["replacement"] for endpoint in monitor["spec"]["endpoints"] for rule in endpoint["relabelings"]]
        assert jobs == [f"proscale-{found[0]}"]
        assert f'job="{jobs[0]}"' in RULES.read_text()


@each_overlay
def test_named_ports_exist(overlay: str) -> None:
    ports = {}
    for name, pod in pods(overlay):
        ports[name] = {port["name"] for container in pod["containers"] for port in container["ports"]}
        for container in pod["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert "exec" in container[probe] or container[probe]["httpGet"]["port"] in ports[name], (name, probe)
    for service in of_kind(overlay, "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports[service["metadata"]["name"]]
    for policy in of_kind(overlay, "NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())]
        named = {port["port"] for rule in rules for port in rule["ports"] if isinstance(port["port"], str)}
        assert named <= set.union(*ports.values())


@each_overlay
def test_probes_ask_for_paths_that_exist(overlay: str) -> None:
    from proscale_service.app import create_app

    paths = set(create_app(Settings(warmup="")).openapi()["paths"])
    for name, pod in pods(overlay):
        container = pod["containers"][0]
        startup, ready, live = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
        if name == "gateway":
            assert {probe["httpGet"]["path"] for probe in (startup, ready, live)} <= paths
            assert live["httpGet"]["path"].endswith("/live"), "a pod that is merely not ready must not be ended"
        else:
            # Triton's own word says nothing of the model.
            assert [probe["exec"]["command"] for probe in (ready, live)] == [
                ["python3", "-m", "proscale.worker_probe", what] for what in ("ready", "live")
            ]
            assert min(ready["timeoutSeconds"], live["timeoutSeconds"]) > 3 * PROBE_SECONDS, "it asks up to three times"
            assert startup["httpGet"]["path"] == "/v2/health/ready"
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 600, "large models take minutes to load from slow volumes"


@each_overlay
def test_every_container_has_requests_and_limits(overlay: str) -> None:
    for name, pod in pods(overlay):
        for container in pod["containers"]:
            resources = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory"}, name
            assert {"cpu", "memory"} <= resources["limits"].keys(), name


@each_overlay
def test_pods_get_longer_to_end_than_draining_takes(overlay: str) -> None:
    settings = variables(overlay, "gateway")
    drain = float(settings["PROSCALE_DRAIN_DELAY_S"]) + float(settings["PROSCALE_DRAIN_S"])
    found = dict(pods(overlay))
    assert found["gateway"]["terminationGracePeriodSeconds"] > drain + 5
    # Endpoints need some seconds to forget a pod; until then it must serve.
    assert float(settings["PROSCALE_DRAIN_DELAY_S"]) >= 5
    arguments = found["triton"]["containers"][0]["args"]
    exit_timeout = next(int(argument.split("=")[1]) for argument in arguments if argument.startswith("--exit-timeout-secs="))
    assert found["triton"]["terminationGracePeriodSeconds"] > exit_timeout


@each_overlay
def test_the_worker_is_started_as_its_image_starts_it(overlay: str) -> None:
    arguments = dict(pods(overlay))["triton"]["containers"][0]["args"]
    command = re.findall(r"^CMD (\[.*\])$", (ROOT / "docker/triton.Dockerfile").read_text(), re.MULTILINE)[-1]
    assert arguments == json.loads(command)


@each_overlay
def test_variables_are_settings(overlay: str) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    gateway = variables(overlay, "gateway")
    assert gateway.keys() <= known
    Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in gateway.items()})
    assert variables(overlay, "triton").keys() <= WORKER_VARIABLES


@each_overlay
def test_gateways_know_as_many_workers_as_may_run(overlay: str) -> None:
    urls = variables(overlay, "gateway")["PROSCALE_TRITON_URL"].split(",")
    workers = one(overlay, "StatefulSet", "triton")
    service = one(overlay, "Service", workers["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    port = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc")
    most = [scaled["spec"]["maxReplicaCount"] for scaled in of_kind(overlay, "ScaledObject")]
    assert urls == [f"triton-{number}.{service['metadata']['name']}:{port}" for number in range(len(urls))]
    assert max([workers["spec"].get("replicas", 1), *most]) <= len(urls)
    assert service["spec"]["publishNotReadyAddresses"] is True, "a worker that is not ready could not be healed"


@each_overlay
def test_autoscalers_point_at_workloads_and_do_not_fight_over_replicas(overlay: str) -> None:
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        workload = one(overlay, target["kind"], target["name"])
        assert workload["apiVersion"] == target["apiVersion"]
        assert "replicas" not in workload["spec"], "an apply would undo the autoscaler's count"
        if scaler["kind"] == "ScaledObject":
            fallback = scaler["spec"]["fallback"]
            assert fallback["behavior"] == "currentReplicasIfHigher", "without Prometheus it must not shrink"
            assert fallback["replicas"] >= scaler["spec"]["minReplicaCount"]
            for trigger in scaler["spec"]["triggers"]:
                assert f'namespace="{scaler["metadata"]["namespace"]}"' in trigger["metadata"]["query"], "others' queues must not scale us"
                assert 'model="proscale"' in trigger["metadata"]["query"]
                assert trigger["metadata"]["ignoreNullValues"] == "false"
        if scaler["kind"] == "HorizontalPodAutoscaler":
            assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
            requested = workload["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
            assert {metric["resource"]["name"] for metric in scaler["spec"]["metrics"]} <= requested.keys()


@each_overlay
def test_only_gateways_reach_workers_and_workers_reach_nobody(overlay: str) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    triton = policies["triton"]
    assert triton["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in triton
    allowed = {rule["ports"][0]["port"]: rule["from"] for rule in triton["ingress"]}
    assert allowed.keys() == {"grpc", "metrics"}, "Triton's HTTP port can load and unload models"
    gateway = one(overlay, "Deployment", "gateway")["spec"]["template"]["metadata"]["labels"]
    assert len(allowed["grpc"]) == 1
    assert allowed["grpc"][0].keys() == {"podSelector"}
    assert matches(allowed["grpc"][0]["podSelector"], gateway)
    egress = policies["gateway"]["egress"]
    assert [sorted(port["port"] for port in rule["ports"]) for rule in egress] == [["grpc"], [53, 53]]
    assert all(rule["to"] for rule in egress)
    # kube-dns and CoreDNS by either label, and the node's cache.
    by_label = [peer["podSelector"] for peer in egress[1]["to"] if "podSelector" in peer]
    assert set(by_label[0]["matchExpressions"][0]["values"]) >= {"kube-dns", "coredns"}
    assert by_label[1]["matchLabels"] == {"app.kubernetes.io/name": "coredns"}
    assert [peer["ipBlock"]["cidr"] for peer in egress[1]["to"] if "ipBlock" in peer] == ["169.254.20.10/32"]


def test_a_changed_setting_rolls_the_pods() -> None:
    # The GPU overlay changes the worker's settings, so its config map has another name, and the pods refer to it.
    assert names_of_config_maps("cpu")["triton"] != names_of_config_maps("gpu")["triton"]
    assert names_of_config_maps("cpu")["gateway"] == names_of_config_maps("gpu")["gateway"]


def names_of_config_maps(overlay: str) -> dict[str, str]:
    return {name: pod["containers"][0]["envFrom"][0]["configMapRef"]["name"] for name, pod in pods(overlay)}


def test_the_gpu_overlay_requests_gpus() -> None:
    pod = dict(pods("gpu"))["triton"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert variables("gpu", "triton")["PROSCALE_DEVICE"] == "cuda"
    assert pod["containers"][0]["image"].endswith("-gpu")
    assert "nvidia.com/gpu" not in dict(pods("cpu"))["triton"]["containers"][0]["resources"]["limits"]


def test_checkpoints_are_mounted_where_the_setting_points() -> None:
    pod = dict(pods("gpu"))["triton"]
    folder = variables("gpu", "triton")["PROSCALE_CHECKPOINT"]
    mount = next(mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "checkpoints")
    assert Path(folder).parent == Path(mount["mountPath"])
    assert mount["readOnly"] is True
    claim = next(volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if volume["name"] == "checkpoints")
    assert one("gpu", "PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadWriteMany"]
    fill = yaml.safe_load((ROOT / "k8s/components/checkpoints/fill-pod.yaml").read_text())
    assert fill["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    assert variables("cpu", "triton")["PROSCALE_CHECKPOINT"] == ""


@each_overlay
def test_results_of_a_picture_fit_into_shared_memory(overlay: str) -> None:
    volumes = {volume["name"]: volume for volume in dict(pods(overlay))["triton"]["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"


def test_the_operators_rules_are_up_to_date() -> None:
    assert PROMETHEUS_RULE.read_text() == prometheus_rule(), "run `make manifests`"


def test_replicas_rise_faster_than_they_fall() -> None:
    behavior = one("cpu", "HorizontalPodAutoscaler", "gateway")["spec"]["behavior"]
    windows = [behavior[direction]["stabilizationWindowSeconds"] for direction in ("scaleUp", "scaleDown")]
    assert all(quick < slow for quick, slow in pairwise(windows))
