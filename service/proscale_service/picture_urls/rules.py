"""Which URLs are allowed, decided before any connection is made."""

import fnmatch
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from proscale_service.errors import UnfetchablePicture
from proscale_service.picture_urls.addresses import Network

MAX_CHARACTERS = 4096
DEFAULT_PORTS = {"https": 443, "http": 80}

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


@dataclass(frozen=True)
class UrlRules:
    """What an operator allows."""

    schemes: tuple[str, ...] = ("https",)
    hosts: tuple[str, ...] = ()
    """Names or patterns, `*.example.org`, each perhaps with a port (`:8443`, `:*`); empty: every host, at the scheme's own port."""
    networks: tuple[Network, ...] = ()
    """Networks that may be connected to without being public."""
    max_bytes: int = 20 * 1024 * 1024
    max_redirects: int = 3
    timeout_s: float = 10.0
    """For everything: names, redirects, the picture's last byte."""


def checked_url(text: str, rules: UrlRules) -> httpx.URL:
    """A URL that may be asked for; its host's addresses are judged later, when they are known.

    Raises:
        UnfetchablePicture: what is wrong with it.
    """
    if len(text) > MAX_CHARACTERS:
        raise UnfetchablePicture(f"the picture's URL has more than {MAX_CHARACTERS} characters")
    # What parsers disagree about is what attacks are made of.
    if any(ord(character) <= 0x20 or character in "\\\x7f" for character in text.strip()):
        raise UnfetchablePicture("the picture's URL has white space, control characters or backslashes")
    try:
        url = httpx.URL(text.strip())
        port = url.port
        host = url.raw_host.decode("ascii").lower()
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise UnfetchablePicture("the picture's URL cannot be read") from error
    if url.scheme not in rules.schemes:
        raise UnfetchablePicture(f"pictures are fetched by {' or '.join(rules.schemes)} only, not by {url.scheme[:20]!r}")
    if url.userinfo or "@" in url.netloc.decode("ascii", "replace"):
        raise UnfetchablePicture("the picture's URL has a user name or password, which is not allowed")
    _check_host(host)
    if port is not None and not 0 < port < 65536:
        raise UnfetchablePicture("the port in the picture's URL is invalid")
    if not _is_listed(host.rstrip("."), port or DEFAULT_PORTS[url.scheme], DEFAULT_PORTS[url.scheme], rules.hosts):
        raise UnfetchablePicture("the host or port in the picture's URL is not allowed here")
    return url


def _check_host(host: str) -> None:
    try:
        if ipaddress.ip_address(host).version == 6 and "%" in host:
            raise UnfetchablePicture("the address in the picture's URL names an interface")
    except ValueError:
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to some resolvers: a name must not end in a number.
        if not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise UnfetchablePicture("the host in the picture's URL is neither a name nor an ordinary IP address") from None


def _is_listed(host: str, port: int, default: int, listed: Sequence[str]) -> bool:
    if not listed:
        return port == default
    for entry in listed:
        pattern, wanted = split_port(entry)
        if fnmatch.fnmatchcase(host, pattern.lower()) and (wanted == "*" or port == (int(wanted) if wanted else default)):
            return True
    return False


def split_port(entry: str) -> tuple[str, str]:
    """`"*.example.org:8443"` -> ("*.example.org", "8443"); brackets around IPv6 addresses are taken off; no port: empty."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = entry.partition(":")
    return host, port
