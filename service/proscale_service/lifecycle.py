"""The life of the engine: loaded, ready, drained, closed; and the threads that it shares with the reading of pictures."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from proscale.errors import ProscaleError
from proscale_service import logs
from proscale_service.engines.base import MAX_RETRY_AFTER, Engine, MakeEngine, Surroundings, retry_after
from proscale_service.engines.in_process import InProcessEngine
from proscale_service.errors import Draining, Loading, Unavailable
from proscale_service.metrics import Metrics
from proscale_service.settings import Settings

_LOG = logging.getLogger(__name__)
_REMOTE_RETRY_AFTER = 3
"""Seconds in which a worker that returned has been found."""

_MOST_READERS = 128

State = Literal["loading", "ready", "draining", "failed"]


def _triton_engine(around: Surroundings) -> Engine:
    # Here and not above: gRPC takes a while to import, and no other engine needs it.
    from proscale_service.engines.triton import TritonEngine

    return TritonEngine(around)


ENGINES: dict[str, MakeEngine] = {"in_process": InProcessEngine, "triton": _triton_engine}
"""From the setting `engine` to what makes it."""


class Lifecycle:
    """Made and used on the event loop's thread.

    States: loading -> ready -> draining; loading or ready -> failed.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        make_engine: MakeEngine | None = None,
        on_lost: Callable[[str], None] = lambda reason: None,
        admitted: Callable[[], int] = lambda: 0,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            make_engine: unset: the engine that the settings name.
            on_lost: called with the reason when the engine cannot compute any more in this process.
            admitted: pictures in the service.
        """
        self.state: State = "loading"
        self.failure = ""
        """Why the state is `failed`, and what to do."""
        # More than decode at once: a header is read, and a picture refused, while others are being decoded.
        self.pool = ThreadPoolExecutor(min(_MOST_READERS, settings.decode_threads + settings.max_concurrent_pictures), "reading")
        """Threads that read and write pictures."""
        self._settings, self._metrics, self._report_loss = settings, metrics, on_lost
        around = Surroundings(settings, metrics, self.pool, admitted, self._on_change, self._on_lost)
        self._engine = (make_engine or ENGINES[settings.engine])(around)
        self._open = False
        self._aborted = False
        metrics.watch_queue(lambda: self._engine.depth)

    async def start(self) -> bool:
        """Load the engine, warm it, and become ready. False when that failed; `failure` then says why and what to do."""
        try:
            await self._engine.open()
        except ProscaleError as error:
            self.failure = str(error)
        except Exception as error:
            logs.event(_LOG, logging.ERROR, "engine could not be loaded", error=error)
            self.failure = f"the engine could not be loaded: {type(error).__name__}: {error}"
        if self.failure:
            self.state = "failed"
            return False
        self._open = True
        if self.state == "loading":
            self.state = "ready"
        if self._engine.capacity:
            info = self._engine.info
            logs.event(_LOG, logging.INFO, "ready", model=info.name, encoder=info.encoder, labels=len(info.categories), source=info.source)
        return True

    def begin_drain(self) -> None:
        """Stop being ready, so that no new traffic is sent here; what comes nevertheless is still served."""
        self.state = "draining"

    def abort(self) -> None:
        """Give up what is still waiting: every unfinished picture is answered 503."""
        self._aborted = True
        self._engine.abort()

    async def stop(self) -> None:
        """Finish what was taken, within `drain_s`, then let go of the engine and the threads."""
        self.begin_drain()
        await self._engine.drain(0 if self._aborted else self._settings.drain_s)
        self._metrics.engine_up.set(0)
        await self._engine.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def engine(self) -> Engine:
        """The engine, when pictures can be computed.

        Raises:
            Loading, Draining, Unavailable: they cannot, now.
        """
        if self._aborted:
            raise Draining("the server is shutting down", retry_after=5)
        if self.state == "failed":
            raise Unavailable("the model could not be loaded or its GPU failed; see the server's log", retry_after=MAX_RETRY_AFTER)
        if not self._open:
            raise Loading("the model is being loaded; try again in a few seconds", retry_after=5)
        if not self._engine.capacity:
            raise Unavailable("nothing can compute now; try again in a few seconds", retry_after=_REMOTE_RETRY_AFTER)
        return self._engine

    def retry_after(self) -> int:
        """Seconds after which the work of now should be done, 1..60."""
        return retry_after(self._engine.backlog.expected_seconds())

    def _on_change(self) -> None:
        self._metrics.engine_up.set(min(1, self._engine.capacity))

    def _on_lost(self, reason: str) -> None:
        logs.event(_LOG, logging.CRITICAL, "the engine is lost", reason=reason)
        self.state, self.failure = "failed", reason
        self._report_loss(reason)
