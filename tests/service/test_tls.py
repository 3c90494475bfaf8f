"""HTTPS by file names, with certificates made here."""

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from proscale_service.access.keys import hash_of, new_key
from proscale_service.certificate import Certificate, CertificateError
from proscale_service.settings import Settings, is_loopback

from .serving import COMMAND, process, until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there to make certificates with")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def replace(source: tuple[Path, Path], target: tuple[Path, Path]) -> None:
    for old, new in zip(target, source, strict=True):
        old.write_bytes(new.read_bytes())


@pytest.mark.slow
def test_the_server_speaks_https_and_takes_a_renewed_certificate(tmp_path: Path, small_checkpoint: Path) -> None:
    first, second = certificate(tmp_path, "first"), certificate(tmp_path, "second")
    used = tmp_path / "tls.crt", tmp_path / "tls.key"
    replace(first, used)
    files = {"PROSCALE_TLS_CERT_FILE": str(used[0]), "PROSCALE_TLS_KEY_FILE": str(used[1])}
    with process("--checkpoint", str(small_checkpoint), scheme="https", **files) as (url, _):

        def answers(trusted: tuple[Path, Path]) -> bool:
            context = ssl.create_default_context(cafile=str(trusted[0]))
            try:
                return httpx.get(f"{url}/health/live", verify=context, timeout=10).is_success
            except httpx.ConnectError:
                return False

        assert answers(first)
        assert not answers(second)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"), timeout=10)
        used[1].write_text("half of a key")
        until(lambda: answers(first))
        replace(second, used)
        until(lambda: answers(second), 30)


def test_files_that_do_not_fit_stop_the_start(tmp_path: Path) -> None:
    first, second = certificate(tmp_path, "first"), certificate(tmp_path, "second")
    for pair in ((first[0], second[1]), (tmp_path / "no", first[1]), (first[1], first[0])):
        with pytest.raises(CertificateError, match="cannot be used"):
            Certificate(*pair)
    with pytest.raises(ValidationError, match="belong together"):
        Settings(tls_cert_file=first[0])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_without_keys_the_server_listens_on_loopback_only(host: str, loopback: bool, tmp_path: Path) -> None:
    assert is_loopback(host) == loopback
    if not loopback:
        with pytest.raises(ValidationError, match=r"PROSCALE_KEYS_FILE .*PROSCALE_PUBLIC=true"):
            Settings(host=host)
    else:
        assert Settings(host=host).host == host
    assert Settings(host=host, public=True).public
    assert Settings(host=host, keys_file=tmp_path / "keys").keys_file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PROSCALE_HOST": "0.0.0.0"}, "PROSCALE_PUBLIC=true"),
        ({"PROSCALE_KEYS_FILE": "/nothing/keys"}, "the keys file /nothing/keys cannot be read"),
        ({"PROSCALE_TLS_CERT_FILE": "/nothing", "PROSCALE_TLS_KEY_FILE": "/nothing"}, "TLS certificate and key"),
    ],
)
def test_the_command_does_not_start_with_insecure_or_missing_files(variables: dict[str, str], words: str) -> None:
    ended = subprocess.run([*COMMAND, "--port", "0"], env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_command_serves_with_keys_beyond_this_machine(tmp_path: Path, small_checkpoint: Path) -> None:
    key = new_key()
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: a, hash: '{hash_of(key)}'}}]")
    with process("--checkpoint", str(small_checkpoint), "--host", "0.0.0.0", "--keys-file", str(tmp_path / "keys.yaml")) as (url, _):
        assert httpx.get(f"{url}/models").status_code == 401
        assert httpx.get(f"{url}/models", headers={"x-api-key": key}, timeout=30).status_code == 200
