import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from proscale_service.cli import serve

from .pictures import blob, encoded
from .serving import COMMAND, http, process, until


def failing(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(serve, arguments, env=environment)
    return result.exit_code, result.output


def test_a_wrong_checkpoint_is_refused_at_once_with_the_remedy(tmp_path: Path) -> None:
    started = time.process_time()
    for code, text in (failing("--checkpoint", str(tmp_path / "no")), failing(PROSCALE_CHECKPOINT=str(tmp_path / "no"))):
        assert code == 2
        assert "no checkpoint at" in text
        assert "--checkpoint or PROSCALE_CHECKPOINT" in text
        assert "Traceback" not in text
    assert time.process_time() - started < 1


@pytest.mark.slow
def test_an_unusable_checkpoint_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    ended = subprocess.run(
        [*COMMAND, "--port", "0", "--checkpoint", str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 2
    assert "missing" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.slow
def test_a_missing_device_is_refused(small_checkpoint: Path) -> None:
    device = "nowhere" if torch.cuda.is_available() else "cuda"
    command = [*COMMAND, "--port", "0", "--checkpoint", str(small_checkpoint), "--device", device]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert device in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--port", "99999"], {}, "--port: "),
        ([], {"PROSCALE_PORT": "http"}, "PROSCALE_PORT: "),
        ([], {"PROSCALE_MAX_PIXELS": "999999999999"}, "max_queue_pixels must be at least max_pixels"),
        (["--nonsense"], {}, "--nonsense"),
    ],
)
def test_wrong_settings_exit_2(arguments: list[str], environment: dict[str, str], words: str) -> None:
    code, text = failing(*arguments, **environment)
    assert code == 2
    assert words in text


@pytest.mark.slow
def test_a_port_in_use_is_named(small_checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [*COMMAND, "--port", port, "--checkpoint", str(small_checkpoint)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_help_does_not_load_the_web_or_torch() -> None:
    code = (
        "import sys; from proscale_service.cli import serve\n"
        "try: serve(['--help'])\n"
        "finally: print(sorted({'torch', 'fastapi', 'uvicorn'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert ended.stdout.endswith("[]\n")
    assert "Serving on URL" in ended.stdout


@pytest.mark.slow
def test_it_shuts_down_in_order_and_loses_nothing(small_checkpoint: Path) -> None:
    with process("--checkpoint", str(small_checkpoint), PROSCALE_PROT="1") as (url, started), httpx.Client() as client:
        assert client.get(f"{url}/health/ready").status_code == 200
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=120)
        assert started.returncode == 0
        assert "Traceback" not in err
        assert "PROSCALE_PROT is set, but no such setting exists" in err
        assert out == ""


def broken_tiff() -> bytes:
    """A TIFF about which libtiff complains to standard error."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = bytearray(encoded(noise, "TIFF", compression="tiff_lzw"))
    data[3000:6000] = b"\xff" * 3000
    return bytes(data)


NOISY = """
import ctypes, logging, os, sys, threading, warnings
def noise():
    os.write(2, b"from C\\nin two lines\\nand a half")
    os.write(2, b" one\\n\\xff\\xfe bytes\\r50%\\r100%\\n")
    ctypes.CDLL(None).perror(b"perror")
    print("from Python", file=sys.stderr)
    logging.getLogger("some.library").warning("from a\\nlibrary")
    logging.getLogger("some.library").info("not this")
    warnings.warn("a warning", UserWarning)
    raise ZeroDivisionError("in a thread")
warnings.simplefilter("always")
import proscale_service.server as server
run = server.run
def noisy(settings, announce):
    thread = threading.Thread(target=noise, name="noisy")
    thread.start()
    thread.join()
    return run(settings, announce)
server.run = noisy
"""


@pytest.mark.slow
def test_in_json_mode_every_line_is_json(small_checkpoint: Path) -> None:
    arguments = ("--checkpoint", str(small_checkpoint), "--log-format", "json", "--threads", "1")
    with process(*arguments, first=NOISY, PROSCALE_PROT="1") as (url, started):
        http.post(f"{url}/segment", content=encoded(blob()), headers={"content-type": "image/png", "x-request-id": "abc"})
        kind = {"content-type": "image/tiff"}
        assert http.post(f"{url}/segment", content=broken_tiff(), headers=kind).status_code == 422
        form = {"content-type": "multipart/form-data; boundary=x"}
        assert http.post(f"{url}/segment", content=b"--xnonsense", headers=form).status_code == 400
        started.terminate()
        out, err = started.communicate(timeout=120)
    assert (started.returncode, out) == (0, "")
    lines = [json.loads(line) for line in err.splitlines()]
    requests = [line for line in lines if line["message"] == "request"]
    assert {"id": "abc", "path": "/segment", "status": 200}.items() <= requests[0].items()
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    messages = [line["message"] for line in lines]
    raw = [line["message"] for line in lines if line.get("source") == "stderr"]
    for words in ("from C", "in two lines", "and a half one", "50%", "100%", "from Python", r"\xff\xfe bytes"):
        assert words in raw
    assert any(message.startswith("perror: ") for message in raw)
    assert any("not yet in table" in message for message in raw)
    assert {"level": "warning", "message": "from a\nlibrary", "logger": "some.library"}.items() <= lines[
        messages.index("from a\nlibrary")
    ].items()
    assert "not this" not in err
    assert any("UserWarning: a warning" in message for message in messages)
    assert any(line.get("logger") == "python_multipart.multipart" for line in lines)
    assert "PROSCALE_PROT is set, but no such setting exists" in messages
    uncaught = lines[messages.index("uncaught exception")]
    assert uncaught["thread"] == "noisy"
    assert "ZeroDivisionError: in a thread" in uncaught["traceback"]


@pytest.mark.slow
@pytest.mark.parametrize("setting", [{"PROSCALE_PORT": "-1"}, {"PROSCALE_CHECKPOINT": "/nothing/here"}, {"PROSCALE_HOST": "192.0.2.1"}])
def test_in_json_mode_a_failed_start_is_a_record_too(setting: dict[str, str]) -> None:
    env = os.environ | setting | {"PROSCALE_LOG_FORMAT": "json"}
    ended = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert lines[-1]["level"] == "error"
    assert next(iter(setting)) in lines[-1]["message"] or next(iter(setting.values())) in lines[-1]["message"]


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once(small_checkpoint: Path) -> None:
    with process("--checkpoint", str(small_checkpoint), PROSCALE_DRAIN_DELAY_S="60") as (url, started):
        started.send_signal(signal.SIGINT)
        until(lambda: http.get(f"{url}/health/ready").status_code == 503)
        assert started.poll() is None
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=120)
        assert started.returncode == 130
        assert "Traceback" not in err


@pytest.mark.slow
def test_a_gpu_that_failed_for_good_ends_the_process_so_that_another_can_start(small_checkpoint: Path) -> None:
    code = (
        "from proscale.errors import DeviceError\n"
        "from proscale.predictor import Predictor\n"
        "from proscale_service.cli import serve\n"
        "def lost(*args, **named): raise DeviceError('cuda:0 failed')\n"
        "Predictor.segment_resized = lost\n"
        "serve()\n"
    )
    command = [sys.executable, "-c", code, "--port", "0", "--checkpoint", str(small_checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        url = started.stdout.readline().removeprefix("Serving on ").strip()
        answer = http.post(f"{url}/segment", content=encoded(blob()), headers={"content-type": "image/png"})
        _, err = started.communicate(timeout=120)
    assert answer.status_code == 503
    assert "the GPU failed" in answer.json()["detail"]
    assert started.returncode == 2
    assert "cuda:0 failed" in err
    assert "Traceback" not in err
