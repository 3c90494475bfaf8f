"""Faults on purpose, while clients ask: `pytest -s tests/service/chaos` prints what recovering took."""

import socket


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port
