"""`proscale keys`: makes and lists the API keys that `PROSCALE_KEYS_FILE` names."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import yaml

from proscale_service.access.keys import PRIORITIES, RIGHTS, Key, KeysError, hash_of, new_key, parse_keys, read_keys

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_HEADER = "# API keys of the segmentation service, hashed. Made by `proscale keys`, which keeps no other comments.\n"
_SHORTEST = 24


@click.group("keys")
def keys() -> None:
    """Make, list and remove API keys.

    A server that is started with PROSCALE_KEYS_FILE=FILE accepts only requests with one of its keys. The file holds hashes, so nobody can
    use it to send requests. A running server reloads a changed file.

    \b
    proscale keys add FILE NAME [--right segment|plan|models|url|admin] [--priority interactive|normal|bulk]
                                [--requests-per-s N] [--pixels-per-s N] [--concurrent-pictures N]
    proscale keys list FILE
    proscale keys remove FILE NAME
    proscale keys hash < KEY
    """


@keys.command("add")
@_FILE
@click.argument("name")
@click.option(
    "--right", "rights", multiple=True, type=click.Choice(RIGHTS), help="What the key may do. May be repeated. Default: all but admin."
)
@click.option(
    "--priority",
    "priorities",
    multiple=True,
    type=click.Choice(PRIORITIES),
    help="Priority that the key may use. May be repeated. Default: all.",
)
@click.option("--requests-per-s", type=click.FloatRange(min=0, min_open=True), help="Average requests per second. Default: no limit.")
@click.option(
    "--pixels-per-s", type=click.FloatRange(min=0, min_open=True), help="Average pixels of pictures per second. Default: no limit."
)
@click.option("--concurrent-pictures", type=click.IntRange(min=1), help="Pictures in the service at once. Default: no limit.")
def add(file: Path, name: str, **limits: Any) -> None:
    """Add a key called NAME to FILE and print the key. It is not stored and cannot be printed again."""
    existing = _read(file) if file.exists() else []
    if any(key.name == name for key in existing):
        raise click.ClickException(f"{file} has a key {name!r} already; remove it first, or choose another name")
    key = new_key()
    given = {field: value for field, value in limits.items() if value}
    try:
        added = Key(name=name, hash=hash_of(key), **given)
    except ValueError as error:
        raise click.ClickException(f"{name!r} cannot be a key's name: it must have 1 to 100 characters") from error
    _write(file, [*existing, added])
    click.echo(key)


@keys.command("remove")
@_FILE
@click.argument("name")
def remove(file: Path, name: str) -> None:
    """Remove the key called NAME from FILE. Servers refuse it within a second or two."""
    existing = _read(file)
    left = [key for key in existing if key.name != name]
    if len(left) == len(existing):
        raise click.ClickException(f"{file} has no key {name!r}")
    if not left:
        raise click.ClickException(f"{name!r} is the last key in {file}, and servers refuse an empty file; add another one first")
    _write(file, left)


@keys.command("list")
@_FILE
def list_keys(file: Path) -> None:
    """Check FILE and list its keys: id (as in logs), name, rights and limits."""
    for key in _read(file):
        limits = [
            f"{field}={getattr(key, field):g}" for field in ("requests_per_s", "pixels_per_s", "concurrent_pictures") if getattr(key, field)
        ]
        click.echo("  ".join([key.id, key.name, ",".join(key.rights), *_priorities(key), *limits]))


def _priorities(key: Key) -> list[str]:
    return [] if key.priorities == PRIORITIES else [f"priorities={','.join(key.priorities)}"]


@keys.command("hash")
def hash_key() -> None:
    """Read a key of your own from standard input and print its hash, to write it into a file by hand."""
    key = sys.stdin.readline().strip()
    if len(key) < _SHORTEST:
        raise click.ClickException(f"a key must have at least {_SHORTEST} characters, or it can be guessed from its hash")
    click.echo(hash_of(key))


def _read(file: Path) -> list[Key]:
    try:
        return read_keys(file)
    except KeysError as error:
        raise click.ClickException(str(error)) from error


def _write(file: Path, entries: list[Key]) -> None:
    """Replace the file in one step, so that a server never reads half of it; for the owner alone."""
    content = {"keys": [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]}
    text = _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    parse_keys(text, str(file))
    try:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        with tempfile.NamedTemporaryFile("w", dir=file.resolve().parent, prefix=f".{file.name}.", delete=False, encoding="utf-8") as part:
            part.write(text)
        os.chmod(part.name, mode)
        os.replace(part.name, file.resolve())
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
