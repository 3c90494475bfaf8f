"""Dashboard, rules and autoscaler ask for metrics that exist, in expressions that Prometheus accepts; alerts fire when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from .queries import (
    ROOT,
    RULES,
    dashboard,
    dashboard_queries,
    gateway_metrics,
    metrics_in,
    recorded,
    rules,
    triton_metrics,
)

HERE = Path(__file__).parent
OBSERVABILITY = ROOT / "docker/observability"
RULE_TESTS = ("rules_test.yml", "slow_burn_test.yml")
JOB_PREFIX = "proscale-"
"""Before the names of the services: Prometheus watches others too, and `gateway` is a common name."""


HAVE_A_MODEL = ("nv_inference_", "proscale_worker_", "proscale_model_", "proscale_servers_", "proscale_heals_", "model:")


def promtool(*arguments: str | Path, cwd: Path = ROOT) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    done = subprocess.run(["promtool", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_names_are_found_in_expressions() -> None:
    assert metrics_in('sum by (a, b) (rate(x_total{l="y_total"}[5m])) / ignoring(c) (z:w > 0) / 1e6 or vector(0)') == {"x_total", "z:w"}
    assert metrics_in("histogram_quantile(0.5, sum by (le) (rate(h_bucket[1m])))") == {"h_bucket"}


@pytest.mark.parametrize(
    ("where", "expression"), [*dashboard_queries().items(), *((str(r.get("record", r.get("alert"))), r["expr"]) for r in rules())]
)
def test_every_metric_is_exported_by_somebody(where: str, expression: str) -> None:
    named = metrics_in(expression)
    assert named, where
    assert named <= gateway_metrics() | triton_metrics() | recorded() | {"up", "ALERTS"}, where


def test_the_models_own_metrics_are_known() -> None:
    model = (ROOT / "docker/triton/model_repository/proscale/1/model.py").read_text()
    assert set(re.findall(r'"(proscale_worker_\w+)"', model)) == {name for name in triton_metrics() if name.startswith("proscale_")}


def test_the_workers_autoscaler_follows_a_recorded_metric() -> None:
    scaled = yaml.safe_load((ROOT / "k8s/components/worker-autoscaling/scaled-object.yaml").read_text())
    for trigger in scaled["spec"]["triggers"]:
        asked = metrics_in(trigger["metadata"]["query"])
        assert asked
        assert asked <= recorded()


def test_prometheus_accepts_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", OBSERVABILITY / "prometheus/prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_prometheus_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    queries = dashboard_queries()
    assert len(queries) > 25
    made = [{"record": f"dashboard:{number}", "expr": expression} for number, expression in enumerate(queries.values())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": made}]}))  # JSON is YAML
    assert f"{len(queries)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


@pytest.mark.slow
def test_alerts_fire_when_they_should_and_only_then() -> None:
    for name in RULE_TESTS:
        assert "SUCCESS" in promtool("test", "rules", HERE / name)


def test_every_alert_is_tested_both_ways_and_says_what_to_do() -> None:
    tests = [test for name in RULE_TESTS for test in yaml.safe_load((HERE / name).read_text())["tests"]]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    for rule in rules():
        if "alert" in rule:
            assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
            assert rule["labels"]["severity"] in ("page", "ticket")
            outcomes = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == rule["alert"]}
            assert outcomes == {True, False}, rule["alert"]


def test_the_operators_rules_are_the_same() -> None:
    operator = yaml.safe_load((ROOT / "k8s/components/monitoring/prometheus-rule.yaml").read_text())
    assert operator["spec"] == yaml.safe_load(RULES.read_text()), "run `make manifests`"


def test_the_dashboard_is_complete() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_asks_the_chosen_source_namespace_and_model() -> None:
    chosen = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(chosen) == ["datasource", "namespace", "model"]
    sources = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert chosen["datasource"]["current"]["value"] in {source["uid"] for source in sources}
    # Without Kubernetes there is no namespace, and all of none is everything.
    assert all(chosen[name]["includeAll"] and chosen[name]["allValue"] == ".*" for name in ("namespace", "model"))
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
            expression = target["expr"]
            assert expression.count('namespace=~"$namespace"') == len(re.findall(r"\{", re.sub(r'"[^"]*"', "", expression))), expression
            for name in metrics_in(expression):
                asks_model = re.search(rf'(?<![\w:]){re.escape(name)}\{{[^}}]*model=~"\$model"', expression)
                assert bool(asks_model) == name.startswith(HAVE_A_MODEL), (panel["title"], name)


def test_grafana_finds_source_and_dashboard_where_compose_puts_them() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in services["grafana"]["volumes"])
    provider = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/dashboards/proscale.yml").read_text())["providers"][0]
    folder = ROOT / mounts[provider["options"]["path"]]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()
    assert (ROOT / mounts["/etc/grafana/provisioning"] / "dashboards").is_dir()
    url = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]["url"]
    assert url.split("/")[2].split(":")[0] in services


def test_prometheus_scrapes_the_services_of_compose() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    jobs = yaml.safe_load((OBSERVABILITY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        service = job["job_name"].removeprefix(JOB_PREFIX)
        assert job["job_name"] == JOB_PREFIX + service
        assert service in services
        assert set(services["prometheus"]["networks"]) & set(services[service]["networks"])


def test_every_alert_has_its_paragraph() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    paragraphs = dict(re.findall(r"^### (\w+)\n\n(.+?)\n\n", page + "\n\n", re.MULTILINE | re.DOTALL))
    alerts = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules() if "alert" in rule}
    assert alerts.keys() == {name for name in paragraphs if name.startswith("Proscale")}
    for name, url in alerts.items():
        assert url == f"docs/operations.md#{name.lower()}"
        assert len(paragraphs[name].split()) > 25, f"{name} says too little"


def test_every_rule_is_of_one_service_alone() -> None:
    for rule in rules():
        assert "namespace" in rule["expr"] or rule["expr"].startswith(("service:", "nv_gpu")), rule
        for name in metrics_in(rule["expr"]):
            if name.startswith("nv_inference"):
                assert re.search(rf"{name}\[\w+\]\) and on \(instance, model\) proscale_worker_", rule["expr"]), rule
