"""Renders every overlay into build/k8s/, and keeps the PrometheusRule equal to the rules that docker compose loads.

`python k8s/render.py` (or `make manifests`); needs kubectl.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = ROOT / "docker/observability/prometheus/rules.yml"
PROMETHEUS_RULE = ROOT / "k8s/components/monitoring/prometheus-rule.yaml"
HEADER = """\
# Made by k8s/render.py from docker/observability/prometheus/rules.yml; change the rules there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: proscale
  labels: { release: kube-prometheus-stack }
spec:
"""


def prometheus_rule() -> str:
    """The rules as the Prometheus Operator wants them."""
    lines = [line for line in RULES.read_text().splitlines() if not line.startswith("#")]
    return HEADER + "\n".join("  " + line if line else "" for line in lines) + "\n"


def overlays() -> list[str]:
    """Names of the overlays."""
    return sorted(path.name for path in (ROOT / "k8s/overlays").iterdir())


def render(overlay: str) -> str:
    """The manifests of an overlay as one YAML stream.

    Raises:
        CalledProcessError: kustomize refuses; its stderr says why.
        FileNotFoundError: no kubectl.
    """
    command = ["kubectl", "kustomize", str(ROOT / "k8s/overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write everything."""
    PROMETHEUS_RULE.write_text(prometheus_rule())
    out = ROOT / "build/k8s"
    out.mkdir(parents=True, exist_ok=True)
    for overlay in overlays():
        (out / f"{overlay}.yaml").write_text(render(overlay))
        print(f"build/k8s/{overlay}.yaml")


if __name__ == "__main__":
    try:
        main()
    except FileNotFoundError:
        sys.exit("kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/")
    except subprocess.CalledProcessError as failure:
        sys.exit(failure.stderr)
