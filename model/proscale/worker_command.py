"""The command `proscale worker`: Triton with the network in its Python backend, found, started and its log in one form.

It looks for `tritonserver` on PATH, as in NVIDIA's images, and then in the Python environment, where the wheel `nvidia-pytriton` brings
one, and tells Triton what each of them needs to run models in this very Python.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import click

from proscale import leftovers
from proscale.log_lines import foreign_line, json_line

_BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Triton:
    """A server, and what it needs."""

    program: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def find_triton(backends: Path, environment: dict[str, str]) -> Triton:
    """The server of this machine.

    Args:
        backends: an empty folder for the Python backend of a server that comes as a wheel.

    Raises:
        ClickException: there is none; the text says how to get one.
    """
    python = Path(sys.executable).parent
    # The backend runs models in the first python3 on PATH.
    path = {"PATH": f"{python}{os.pathsep}{environment.get('PATH', os.defpath)}"}
    if found := shutil.which("tritonserver", path=environment.get("PATH")):
        return Triton(Path(found), environment=path)
    if Path("/opt/tritonserver/bin/tritonserver").exists():
        return Triton(Path("/opt/tritonserver/bin/tritonserver"), environment=path)
    packages = Path(sysconfig.get_path("purelib"))
    triton = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / _STUB
    if not stub.exists():
        raise click.ClickException(
            "no tritonserver: neither on PATH nor in this Python environment. Use NVIDIA's image (docker/triton.Dockerfile), "
            "or install one for this machine with `make triton-env` and call .venv-triton/bin/python -m proscale.worker_command"
        )
    backend = backends / "python"
    backend.mkdir()
    # Links, not copies: the server looks for its own libraries beside the files.
    for part in [*(triton / "backends" / "python" / name for name in _BACKEND_FILES), stub]:
        (backend / part.name).symlink_to(part)
    libraries = [str(packages / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR"), environment.get("LD_LIBRARY_PATH")]
    linked = os.pathsep.join(filter(None, libraries))
    return Triton(triton / "bin" / "tritonserver", (f"--backend-directory={backends}",), path | {"LD_LIBRARY_PATH": linked})


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def worker(options: tuple[str, ...]) -> None:
    """Start a Triton server with the network in its Python backend.

    OPTIONS are those of tritonserver; see docs/triton.md:

    \b
    proscale worker --model-repository=docker/triton/model_repository --model-control-mode=explicit --load-model=proscale

    The model's settings are environment variables (PROSCALE_CHECKPOINT, PROSCALE_DEVICE, ...). With PROSCALE_LOG_FORMAT=json every line of
    the log is a JSON object, Triton's own lines too.
    """
    in_json = os.environ.get("PROSCALE_LOG_FORMAT") == "json"
    if removed := leftovers.remove_orphans():
        message = "removed shared memory of servers that were killed"
        print(
            json_line(time.time(), "warning", message, {"source": "worker", "regions": removed}) if in_json else f"{message}: {removed}",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory(prefix="proscale-worker-") as folder:
        triton = find_triton(Path(folder), dict(os.environ))
        sys.exit(_run([str(triton.program), *triton.options, *options], {**os.environ, **triton.environment}, in_json))


def _run(command: Sequence[str], environment: dict[str, str], in_json: bool) -> int:
    """Run until it ends, pass signals on, and return its exit status as a shell has it."""
    output = subprocess.PIPE if in_json else None
    with subprocess.Popen(command, env=environment, stdout=output, stderr=output and subprocess.STDOUT) as triton:

        def pass_on(number: int, frame: FrameType | None) -> None:
            triton.send_signal(number)  # once more after Ctrl-C in a terminal, which Triton ignores while it ends

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, pass_on)
        reader = threading.Thread(target=_copy, args=(triton,), daemon=True)
        if in_json:
            reader.start()
        status = triton.wait()
        if in_json:
            reader.join(5)  # a process of the model may hold the pipe for longer
        return 128 - status if status < 0 else status


def _copy(triton: "subprocess.Popen[bytes]") -> None:
    """Everything that Triton and its processes write, a JSON object per line."""
    assert triton.stdout is not None
    for line in triton.stdout:
        if text := line.decode(errors="backslashreplace").strip():
            print(foreign_line(text, time.time(), "triton"), file=sys.stderr, flush=True)


if __name__ == "__main__":
    worker()
