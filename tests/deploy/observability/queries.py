"""What dashboards, rules and autoscalers ask Prometheus, and which metrics they name."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics_core import Metric

from proscale_service.metrics import HEAL_OUTCOMES, Metrics

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "docker/observability/grafana/dashboards/proscale.json"
RULES = ROOT / "docker/observability/prometheus/rules.yml"
TRITON_METRICS = Path(__file__).with_name("triton_metrics.txt")
_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset", "inf", "nan"}


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def variables() -> list[str]:
    """Names of the dashboard's variables."""
    return [variable["name"] for variable in dashboard()["templating"]["list"]]


def dashboard_queries() -> dict[str, str]:
    """`panel title / ref` -> expression, with Grafana's interval and all values of the variables put in."""
    queries = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m")
            for variable in variables():
                expression = expression.replace(f"${variable}", ".*")  # all of them
            queries[f"{panel['title']} / {target['refId']}"] = expression
    return queries


def rules() -> list[dict[str, Any]]:
    """All rules of all groups."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    """Names that recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def gateway_metrics() -> set[str]:
    """Names of all series that the gateway exports."""
    metrics = Metrics()
    metrics.request("panoptic", 200, 0.1)
    metrics.healed("proscale", HEAL_OUTCOMES[0])
    metrics.servers_up.labels("proscale")
    families: list[Metric] = list(metrics.registry.collect())
    names = {sample.name for family in families for sample in family.samples}
    labelled = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    histograms = {family.name + suffix for family in families if family.type == "histogram" for suffix in ("_bucket", "_sum", "_count")}
    return names | labelled | histograms


def triton_metrics(*, gpu: bool = True) -> set[str]:
    """Names that tritonserver exports; `gpu`: with those that only a machine with a GPU shows."""
    lines = [line.split() for line in TRITON_METRICS.read_text().splitlines() if line and not line.startswith("#")]
    return {line[0] for line in lines if gpu or "gpu" not in line[1:]}


def metrics_in(expression: str) -> set[str]:
    """Metric names in a PromQL expression: every word that is no function, keyword, label or string."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    words = re.findall(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])", text)
    return {word for word in words if word.lower() not in _WORDS}
