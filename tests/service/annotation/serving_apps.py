"""Applications of annotation tools on a free port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from proscale_service.server import bind, url_of

from ..serving import until


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application; its URL."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join(30)
