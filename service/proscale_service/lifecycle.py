"""The life of the service: its models are loaded, it is ready, it drains, it is closed; and the threads that all models share."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from proscale.errors import ProscaleError
from proscale_service import logs
from proscale_service.engines.base import MAX_RETRY_AFTER, Engine, MakeEngine, Surroundings, retry_after
from proscale_service.engines.in_process import InProcessEngine
from proscale_service.engines.processor import Processor
from proscale_service.errors import Draining, NotEnoughMemory, Unavailable
from proscale_service.metrics import Metrics, ModelSample
from proscale_service.models import Model, Models, still_loading
from proscale_service.settings import Settings

_LOG = logging.getLogger(__name__)
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
        self._aborted = False
        self._processor = Processor(settings.decode_threads)
        self._settings, self._metrics, self._report_loss = settings, metrics, on_lost

        def make(own: Settings, label: Callable[[], str], beside: bool) -> Engine:
            around = Surroundings(
                own, metrics.of_model(label), self.pool, admitted, self._on_change, self._on_lost, self._processor, beside
            )
            return (make_engine or ENGINES[own.engine])(around)

        self.models = Models(settings, make)
        metrics.watch_queue(lambda: self.models.depth)
        metrics.watch_models(self._samples)

    async def start(self) -> bool:
        """Load the models, warm them, and become ready. False when that failed; `failure` then says why and what to do."""
        try:
            await self.models.open()
        except (ProscaleError, NotEnoughMemory) as error:
            self.failure = str(error)
        except Exception as error:
            logs.event(_LOG, logging.ERROR, "engine could not be loaded", error=error)
            self.failure = f"the engine could not be loaded: {type(error).__name__}: {error}"
        if self.failure:
            self._fail()
            return False
        if self.state == "loading":
            self.state = "ready"
        if self.models.refusal is still_loading:  # not when it was told to stop meanwhile
            self.models.refusal = None
        for model in self.models:
            if model.engine.capacity:
                info = model.info
                logs.event(
                    _LOG,
                    logging.INFO,
                    "ready",
                    model=info.name,
                    encoder=info.encoder,
                    labels=len(info.categories),
                    loaded_from=info.loaded_from,
                )
        return True

    def begin_drain(self) -> None:
        """Stop being ready, so that no new traffic is sent here; what comes nevertheless is still served."""
        self.state = "draining"

    def abort(self) -> None:
        """Give up what is still waiting: every unfinished picture is answered 503."""
        self.models.refusal = lambda: Draining("the server is shutting down", retry_after=5)
        self._aborted = True
        self.models.abort()

    async def stop(self) -> None:
        """Finish what was accepted, within `drain_s`, then let go of the models and the threads."""
        self.begin_drain()
        await self.models.close(0 if self._aborted else self._settings.drain_s)
        self._metrics.engine_up.set(0)
        self._processor.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def retry_after(self) -> int:
        """Seconds after which the work of now should be done, 1..60."""
        return retry_after(self.models.expected_seconds())

    def _samples(self) -> list[ModelSample]:
        return [_sample(model) for model in self.models]

    def _fail(self) -> None:
        self.state = "failed"
        self.models.refusal = lambda: Unavailable(
            "the model could not be loaded or its GPU failed; see the server's log", retry_after=MAX_RETRY_AFTER
        )

    def _on_change(self) -> None:
        self._metrics.engine_up.set(min(1, self.models.capacity))

    def _on_lost(self, reason: str) -> None:
        logs.event(_LOG, logging.CRITICAL, "the engine is lost", reason=reason)
        self.failure = reason
        self._fail()
        self._report_loss(reason)


def _sample(model: Model) -> ModelSample:
    engine = model.engine
    return ModelSample(model.label, engine.capacity, engine.depth, engine.backlog.expected_seconds())
