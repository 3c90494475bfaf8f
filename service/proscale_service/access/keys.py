"""API keys: what a keys file says, and which key a caller presents.

    keys:
      - name: alice                 # for people; never logged
        hash: sha256:9f86d0...      # of the key; the key itself is nowhere
        rights: [segment, models]   # all but admin, if left out
        priorities: [normal, bulk]  # all, if left out
        class: partners             # what metrics count its refusals under
        requests_per_s: 5           # each limit is optional
        pixels_per_s: 20000000
        concurrent_pictures: 4

Keys are 32 random bytes, so that a plain SHA-256 of them cannot be turned back, and a flood of guesses costs little.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Right = Literal["segment", "plan", "models", "url", "admin"]
RIGHTS: tuple[Right, ...] = get_args(Right)
USUAL_RIGHTS: tuple[Right, ...] = tuple(right for right in RIGHTS if right != "admin")
"""Of a key that names none: who may change what is served is said explicitly."""
Priority = Literal["interactive", "normal", "bulk"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
PREFIX = "ps_"
MAX_KEY_CHARACTERS = 256
_CLASS = re.compile(r"[a-z0-9_-]{1,32}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class KeysError(Exception):
    """A keys file that cannot be used; the text says what is wrong with it, without anything secret."""


class Key(BaseModel):
    """One key: whose it is, its hash, what it may do."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: Annotated[str, Field(min_length=1, max_length=100)]
    hash: str
    rights: tuple[Right, ...] = USUAL_RIGHTS
    priorities: Annotated[tuple[Priority, ...], Field(min_length=1)] = PRIORITIES
    class_: Annotated[str, Field(alias="class")] = "other"
    """What metrics count its refusals under; many keys may share one."""
    requests_per_s: Rate | None = None
    pixels_per_s: Rate | None = None
    concurrent_pictures: Annotated[int, Field(ge=1)] | None = None

    @field_validator("class_")
    @classmethod
    def _is_class(cls, value: str) -> str:
        if not _CLASS.fullmatch(value):
            raise ValueError("must be 1 to 32 characters of a-z, 0-9, _ and -")
        return value

    @field_validator("hash")
    @classmethod
    def _is_hash(cls, value: str) -> str:
        if not _HASH.fullmatch(value):
            raise ValueError("must be sha256: and 64 hexadecimal digits, as `proscale keys hash` prints it")
        return value

    @property
    def id(self) -> str:
        """What logs call the key: the same for the same key, and neither its name nor a part of its hash."""
        return hashlib.sha256(f"id of {self.hash}".encode()).hexdigest()[:12]


def new_key() -> str:
    """A key that nobody guesses: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """What stands in the file for a key."""
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def find(keys: Sequence[Key], presented: str) -> Key | None:
    """The key that is presented. Takes the same time whichever it is, and whether it is any."""
    if len(presented) > MAX_KEY_CHARACTERS:
        return None
    hashed = hash_of(presented)
    found = None
    for key in keys:
        if hmac.compare_digest(key.hash, hashed):
            found = key
    return found


def read_keys(path: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        KeysError: the file cannot be read, is no keys file, has no keys, or two of the same name or hash.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise KeysError(f"the keys file {path} cannot be read: {reason}") from error
    return parse_keys(text, str(path))


def parse_keys(text: str, where: str) -> list[Key]:
    """The keys in the text of a file. Args: where: the file, for messages. Errors: as `read_keys`."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise KeysError(f"the keys file {where} is not YAML{'' if line is None else f', in line {line + 1}'}") from None
    if not isinstance(content, dict) or content.keys() != {"keys"} or not isinstance(content["keys"], list):
        raise KeysError(f"the keys file {where} must hold `keys:` and a list, and nothing else; `proscale keys add` makes one")
    if not content["keys"]:
        raise KeysError(f"the keys file {where} has no keys; `proscale keys add` makes some")
    keys = [_key(entry, number, where) for number, entry in enumerate(content["keys"], 1)]
    for field in ("name", "hash"):
        values = [getattr(key, field) for key in keys]
        if twice := next((number for number, value in enumerate(values, 1) if values.index(value) < number - 1), None):
            raise KeysError(f"the keys file {where}: key {twice} has the {field} of another one")
    return keys


def _key(entry: Any, number: int, where: str) -> Key:
    try:
        return Key.model_validate(entry)
    except ValidationError as error:
        # Not the values: a key pasted in place of its hash would stand in the log.
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'entry'}: {each['msg']}" for each in error.errors(include_input=False))
        raise KeysError(f"the keys file {where}: key {number}: {wrong}") from None
