"""The keys in force: read from their file, and read anew when it changes. A file that turns bad while serving changes nothing, loudly."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proscale_service import logs
from proscale_service.access.keys import Key, KeysError, find, read_keys
from proscale_service.access.quota import Quota
from proscale_service.file_stamp import stamp

LOOK_EVERY_S = 1.0
REPEAT_AFTER_S = 60.0
"""How often a file that cannot be used is complained about."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Whose request it is."""

    key: Key
    quota: Quota


class Keyring:
    """The keys of a file. Used from the event loop's thread only."""

    def __init__(
        self, path: Path, on_stale: Callable[[bool], None] = lambda stale: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: on_stale: called with whether the file in force is another one than the file on disk, whenever that may have changed.

        Raises:
            KeysError: the file cannot be used.
        """
        self._path, self._on_stale, self._clock = path, on_stale, clock
        self._stamp = stamp(path)
        self._keys = read_keys(path)
        self._quotas = {key.name: _quota(key) for key in self._keys}
        self._looked, self._complained = clock(), float("-inf")

    def find(self, presented: str) -> Caller | None:
        """Who presents this key; None when it is none of ours."""
        self._look()
        key = find(self._keys, presented)
        return None if key is None else Caller(key, self._quotas[key.name])

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        found = stamp(self._path)
        if found == self._stamp:
            return
        try:
            keys = read_keys(self._path)
        except KeysError as error:
            self._on_stale(True)
            if now - self._complained >= REPEAT_AFTER_S:
                self._complained = now
                logs.event(
                    _LOG, logging.ERROR, "the keys file has changed and cannot be used: the OLD KEYS STAY IN FORCE", reason=str(error)
                )
            return
        before = {key.name: key for key in self._keys}
        # Who had a quota keeps what is used of it, unless it was set anew.
        self._quotas = {key.name: self._quotas[key.name] if _limits(key) == _limits(before.get(key.name)) else _quota(key) for key in keys}
        self._keys, self._stamp, self._complained = keys, found, float("-inf")
        self._on_stale(False)
        logs.event(_LOG, logging.WARNING, "the keys file was read anew", keys=len(keys))


def _limits(key: Key | None) -> tuple[float | None, float | None, int | None] | None:
    return None if key is None else (key.requests_per_s, key.pixels_per_s, key.concurrent_pictures)


def _quota(key: Key) -> Quota:
    return Quota(key.requests_per_s, key.pixels_per_s, key.concurrent_pictures)
