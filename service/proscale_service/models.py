"""The served models: each an engine with a name; one lookup; loading, replacing and unloading while others are being served.

A model that replaces another one is loaded and warmed up beside it. Then it takes the name over in one step, and the former one computes
what it was given before it goes. The service therefore needs memory for both, and refuses what would not fit (`model_memory.py`).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from proscale.errors import ProscaleError
from proscale.results import ModelInfo
from proscale_service import logs
from proscale_service.engines.base import Engine
from proscale_service.errors import Conflict, Draining, InvalidParameter, Loading, ServiceError, Unavailable, UnknownModel
from proscale_service.model_memory import require_memory
from proscale_service.settings import NamedModel, Settings

_LOG = logging.getLogger(__name__)
_ABSENT_RETRY_AFTER = 3
"""Seconds in which a worker that returned has been found."""

MakeModelEngine = Callable[[Settings, Callable[[], str], bool], Engine]
"""From a model's settings, what it is called in metrics, and whether others are being served meanwhile."""


def still_loading() -> ServiceError:
    """The error of requests that come too early."""
    return Loading("the model is being loaded; try again in a few seconds", retry_after=5)


@dataclass(eq=False)
class Model:
    """A served model."""

    asked: NamedModel
    engine: Engine
    users: int = 0
    """Pictures that are on their way through it."""
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """What requests call it: what the settings say, or else what the model itself says. Unavailable when that is not known."""
        return self.asked.name or self.engine.info.name

    @property
    def label(self) -> str:
        """Its name in metrics, also before it is known."""
        return self.name if self.asked.name or self.engine.capacity else "unnamed"

    @property
    def info(self) -> ModelInfo:
        """What it is, under its name here."""
        return self.named(self.engine.info)

    def named(self, info: ModelInfo) -> ModelInfo:
        """`info` under the model's name here."""
        return replace(info, name=self.asked.name) if self.asked.name else info


class Models:
    """Made and used on the event loop's thread. The first model is what requests without `model` get."""

    def __init__(self, settings: Settings, make_engine: MakeModelEngine) -> None:
        """Nothing is loaded yet."""
        self._settings, self._make_engine = settings, make_engine
        self.refusal: Callable[[], ServiceError] | None = still_loading
        """Why nothing can be asked now; None: it can."""
        self._models = [self._make(asked, False) for asked in settings.model_list]
        self._loads: set[asyncio.Task[Model]] = set()
        self._busy: set[str] = set()
        """Names whose model is being loaded or unloaded."""
        self._retiring: dict[Model, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def find(self, name: str | None = None) -> Model:
        """The model of a name; None: the first one.

        Raises:
            ServiceError: `refusal`.
            UnknownModel: there is none of this name; the text names those that exist.
            Unavailable: nothing can compute it now.
        """
        if self.refusal is not None:
            raise self.refusal()
        model = self._models[0] if name is None else next((each for each in self._models if each.asked.name == name), None)
        if model is None and self._models[0].asked.name is None and self._models[0].name == name:
            model = self._models[0]
        if model is None:
            raise UnknownModel(f"model: there is no model {str(name)[:80]!r} here; this server has {', '.join(self._names())}")
        if not model.engine.capacity:
            raise Unavailable("nothing can compute now; try again in a few seconds", retry_after=_ABSENT_RETRY_AFTER)
        return model

    def any(self) -> Model:
        """A model that can compute, the first if it can: for requests whose body may yet name one. Errors: as `find`."""
        able = None if self.refusal else next((model for model in self._models if model.engine.capacity), None)
        return self.find() if able is None else able

    @contextmanager
    def use(self, name: str | None) -> Iterator[Model]:
        """`find`, and keep the model from being closed meanwhile."""
        model = self.find(name)
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1
            if not model.users:
                model.unused.set()

    async def open(self) -> None:
        """Load the models of the settings, one after another.

        Raises:
            ProscaleError, NotEnoughMemory: one cannot be used; the text names the remedy.
        """
        for model in self._models:
            if model.asked.name is not None:
                self._require_memory(model.asked)
            await model.engine.open()

    async def load(self, asked: NamedModel) -> Model:
        """Load a model while others are being served. One of this name is replaced: it serves until the new one can.

        It goes on when the caller is cancelled.

        Raises:
            ServiceError: `refusal`; Draining: the server goes down; Conflict: this name is being loaded or unloaded;
                NotEnoughMemory: it would not fit; InvalidParameter: it cannot be loaded, and why.
        """
        task = asyncio.get_running_loop().create_task(self._load(asked), name=f"load {asked.name}")
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)
        # Waited for, not awaited: `stop_loading` must not look like a cancellation of the caller.
        await asyncio.wait({task})
        if task.cancelled():
            raise Draining("the server is shutting down", retry_after=5)
        return task.result()

    async def _load(self, asked: NamedModel) -> Model:
        with self._changing(asked.name):
            self._require_memory(asked)
            model = self._make(asked, True)
            try:
                await self._open(model)
            except BaseException:
                await model.engine.close()
                raise
            former = self._of_name(asked.name)
            if former is None:
                self._models.append(model)
            else:
                self._models[self._models.index(former)] = model
                self._retire(former)
        logs.event(_LOG, logging.WARNING, "model loaded" if former is None else "model replaced", model=asked.name, source=asked.source)
        return model

    def unload(self, name: str) -> None:
        """Take a model away. What it was given is still computed.

        Raises:
            ServiceError: `refusal`; UnknownModel; Conflict: its name is being loaded, or it is the one for requests that name none.
        """
        with self._changing(name):
            model = self._of_name(name)
            if model is None:
                raise UnknownModel(f"model: there is no model {name[:80]!r} here; this server has {', '.join(self._names())}")
            if model is self._models[0]:
                raise Conflict(f"{name} is the default model and cannot be removed; replace it instead")
            self._models.remove(model)
            self._retire(model)
        logs.event(_LOG, logging.WARNING, "model unloaded", model=name)

    def infos(self) -> list[ModelInfo]:
        """Of the models that can compute now; empty while nothing can be asked."""
        return [] if self.refusal else [model.info for model in self._models if model.engine.capacity]

    def state(self, model: Model) -> Literal["ready", "replacing", "unavailable"]:
        """`ready`, `replacing` while another one of its name is being loaded, `unavailable` when nothing can compute it."""
        if not model.engine.capacity:
            return "unavailable"
        return "replacing" if model.asked.name in self._busy else "ready"

    @property
    def loading(self) -> list[str]:
        """Names that are being loaded and are not served yet."""
        return sorted(name for name in self._busy if self._of_name(name) is None)

    @property
    def capacity(self) -> int:
        """As `Engine.capacity`, of all models."""
        return sum(model.engine.capacity for model in self._models)

    @property
    def depth(self) -> int:
        """Pictures that wait for any model."""
        return sum(model.engine.depth for model in (*self._models, *self._retiring))

    def expected_seconds(self) -> float | None:
        """In how many seconds the work of now should be done; None: nobody knows."""
        known = [seconds for model in self._models if (seconds := model.engine.backlog.expected_seconds()) is not None]
        return max(known, default=None)

    def stop_loading(self) -> None:
        """Give up what is being loaded."""
        for task in self._loads:
            task.cancel()

    def abort(self) -> None:
        """Take no more, and fail whatever is not done with Draining."""
        for model in (*self._models, *self._retiring):
            model.engine.abort()

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted within `timeout_s`, and let go of all models."""
        for task in self._retiring.values():
            task.cancel()
        every = [*self._models, *self._retiring]
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)
        await asyncio.gather(*(model.engine.drain(timeout_s) for model in every))
        await asyncio.gather(*(model.engine.close() for model in every))

    def _make(self, asked: NamedModel, beside: bool) -> Model:
        model: Model | None = None
        engine = self._make_engine(self._settings.for_model(asked), lambda: model.label if model else "unnamed", beside)
        model = Model(asked, engine)
        return model

    async def _open(self, model: Model) -> None:
        asked = model.asked
        try:
            await model.engine.open()
        except ProscaleError as error:
            raise InvalidParameter(f"source: {error}") from error
        if not model.engine.capacity:
            raise InvalidParameter(f"source: no Triton server serves a usable model {asked.source!r}; load it there first")

    def _require_memory(self, asked: NamedModel) -> None:
        if self._settings.engine == "in_process":
            require_memory(asked.folder)

    @contextmanager
    def _changing(self, name: str | None) -> Iterator[None]:
        if self.refusal is not None:
            raise self.refusal()
        if name is None or name in self._busy:
            raise Conflict(f"{name} is being loaded or unloaded already; wait until that is done")
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)

    def _of_name(self, name: str | None) -> Model | None:
        return next((model for model in self._models if model.label == name), None)

    def _names(self) -> list[str]:
        return [model.label for model in self._models]

    def _retire(self, model: Model) -> None:
        """Close a model once nobody uses it."""

        async def retire() -> None:
            while model.users:
                model.unused.clear()
                await model.unused.wait()
            await model.engine.drain(0)
            await model.engine.close()
            del self._retiring[model]

        self._retiring[model] = asyncio.get_running_loop().create_task(retire(), name=f"retire {model.asked.name}")
