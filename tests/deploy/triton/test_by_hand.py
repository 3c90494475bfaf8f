"""The commands by hand of docs/triton.md, letter for letter, on a machine of their own: a network namespace, where their ports are free."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.deploy.triton.server import ENVIRONMENT, ROOT, needs_triton

PAGE = (ROOT / "docs/triton.md").read_text()
NAMESPACE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec"]
WAIT = "until {probe} >/dev/null 2>&1; do sleep 0.2; done"

pytestmark = [pytest.mark.slow, needs_triton]


def commands() -> list[str]:
    """The lines of the first block of the section."""
    section = PAGE.partition("\n## By hand\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return blocks[0].splitlines()


def has_namespaces() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*NAMESPACE, "ip link set lo up"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="needs unshare, ip, and the right to make a network namespace")
@pytest.mark.skipif(not (ROOT / ".venv/bin/proscale").exists(), reason="needs .venv of `make install`")
def test_the_commands_by_hand_work_as_they_stand(tmp_path: Path) -> None:
    worker, gateway, ask = commands()
    assert worker.startswith(".venv-triton/bin/python -m proscale.worker_command ")
    assert (ENVIRONMENT / "bin/python").exists()
    script = "\n".join(
        [
            "ip link set lo up",
            f"{worker} > {tmp_path}/worker.log 2>&1 &",
            f"{gateway} > {tmp_path}/gateway.log 2>&1 &",
            WAIT.format(probe="curl -sf http://127.0.0.1:8080/health/ready"),
            ask.replace("curl ", "curl -sf ", 1),
        ]
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROSCALE_")}
    started = subprocess.Popen([*NAMESPACE, script], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        answer, _ = started.communicate(timeout=120)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.communicate()
    logs = "\n".join(path.read_text()[-2000:] for path in sorted(tmp_path.glob("*.log")))
    assert started.returncode == 0, logs
    assert '"label":"nucleus"' in answer.replace(" ", ""), answer[:300] + logs
