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
        assert metrics_in(trigger["metadata"]["query"]) <= recorded()


def test_prometheus_accepts_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", OBSERVABILITY / "prometheus/prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_prometheus_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    queries = dashboard_queries()
    assert len(queries) > 25
    made = [{"record": f"dashboard:{number}", "expr": expression} for number, expression in enumerate(queries.values())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": made}]}))  # JSON is YAML
    assert f"{len(queries)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", HERE / "rules_test.yml")


def test_every_alert_is_tested_both_ways_and_says_what_to_do() -> None:
    cases = [case for test in yaml.safe_load((HERE / "rules_test.yml").read_text())["tests"] for case in test.get("alert_rule_test", ())]
    for rule in rules():
        if "alert" in rule:
            assert rule["annotations"].keys() == {"summary", "description"}
            assert rule["labels"]["severity"] in ("page", "ticket")
            outcomes = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == rule["alert"]}
            assert outcomes == {True, False}, rule["alert"]


def test_the_operators_rules_are_the_same() -> None:
    operator = yaml.safe_load((ROOT / "k8s/components/monitoring/prometheus-rule.yaml").read_text())
    assert operator["spec"] == yaml.safe_load(RULES.read_text()), "run `make manifests`"


def test_the_dashboard_is_whole() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    sources = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", ())}
    assert used == {source["uid"] for source in sources}


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
        assert job["job_name"] in services
        assert set(services["prometheus"]["networks"]) & set(services[job["job_name"]]["networks"])
