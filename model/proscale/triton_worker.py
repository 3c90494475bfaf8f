"""The predictor behind Triton's Python backend: requests as arrays and JSON in, JSON out. Knows nothing of Triton's own module.

Where the model comes from and what it runs on is a `RuntimeConfig`, as for `proscale serve`. It stands in the model's `parameters`
(config.pbtxt, or a load request's changed config), or, where they leave it open, in the environment.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from proscale.batch_sizes import BatchSizes
from proscale.batches import Outcome, budget_pixels, compute_batch
from proscale.checkpoints.model_folder import DEFAULT_FOLDER
from proscale.config_json import config_to_json
from proscale.errors import ImageError, ParameterError, ProscaleError
from proscale.geometry import ResizedPicture, padded_size, resized_size
from proscale.loading import load_predictor
from proscale.predictor import Predictor
from proscale.results import Plan, Prediction, SegmentationOptions
from proscale.runtime import MAX_BATCH_PICTURES, MAX_BATCH_PIXELS, RuntimeConfig, runtime_from_texts, warm_up
from proscale.tracing import SPAN_NAMES, Span
from proscale.wire import description_to_json, options_from_json, prediction_to_json

_LOG = logging.getLogger(__name__)
_PROBE_SIZE = (64, 64)
"""(height, width) of the picture that runs when the worker is asked what it serves."""


class ModelChangedError(ProscaleError):
    """The sender resized for another model than the one that is loaded: it should ask for the description again."""


@dataclass(frozen=True)
class Request:
    """One picture as it comes over the wire (see `wire`)."""

    picture: NDArray[np.uint8]
    """(H, W, 3), zero-padded."""
    sizes: tuple[int, int, int, int]
    """Height and width of the resized, then of the output picture."""
    options: bytes
    id: str = ""
    """What the gateway's log calls it."""

    @property
    def pixels(self) -> int:
        """What it takes of a batch's budget."""
        return budget_pixels((self.picture.shape[0], self.picture.shape[1]), (self.sizes[2], self.sizes[3]))


@dataclass(frozen=True)
class Reply:
    """The answer to one request: a text, or an error that is this request's alone."""

    text: str = ""
    error: str | None = None
    internal: bool = False
    """The error is the worker's fault, not the request's."""
    cancelled: bool = False
    """Not computed, because nobody waited."""
    prediction: Prediction | None = None
    batch_size: int = 1
    """Pictures that were computed together with this one, itself included."""
    opens_batch: bool = False
    """The first of these that is answered."""


_CANCELLED = Reply(error="the request was cancelled", cancelled=True)


@dataclass(frozen=True, eq=False)
class _Job:
    index: int
    picture: ResizedPicture
    options: SegmentationOptions
    plan: Plan
    id: str
    describe: bool

    @property
    def pixels(self) -> int:
        return budget_pixels(self.plan.padded, self.picture.output_size)


class Worker:
    """A predictor that takes what the wire brings. One thread at a time."""

    def __init__(
        self,
        predictor: Predictor,
        fingerprint: str,
        max_batch_pixels: int = MAX_BATCH_PIXELS,
        max_batch_pictures: int = MAX_BATCH_PICTURES,
        batch_sizes: BatchSizes | None = None,
    ) -> None:
        """Args: batch_sizes: how many pictures go together within these bounds; None: as many as there are."""
        self.predictor, self.fingerprint = predictor, fingerprint
        self.max_batch_pixels, self.max_batch_pictures = max_batch_pixels, max_batch_pictures
        self._batch_sizes = batch_sizes

    @classmethod
    def load(cls, config: RuntimeConfig) -> Self:
        """Load the model and warm it up.

        Raises:
            CheckpointError: the model or the device cannot be used; the text names the remedy.
        """
        predictor = load_predictor(config)
        warm_up(lambda image, options: predictor.segment([image], [options]), config, predictor.info.tasks)
        most = config.max_batch_pictures
        return cls(predictor, fingerprint(config.checkpoint or DEFAULT_FOLDER), config.max_batch_pixels, most, BatchSizes(most))

    def handle(self, requests: Sequence[Request], gone: Callable[[int], bool] = lambda index: False) -> Iterator[tuple[int, Reply]]:
        """Answer pictures of any sizes, in batches of one padded size; what is wrong with one picture is that picture's error alone.

        Args:
            gone: whether nobody waits for the request of this index any more; asked before its batch is computed.

        Yields:
            index and reply of every request, once each, in any order, as soon as its batch is done.

        Raises:
            DeviceError: the GPU failed for good; what has no reply by then gets none.
        """
        for index, reply in self._handle(requests, gone):
            _log(requests[index], reply)
            yield index, reply

    def _handle(self, requests: Sequence[Request], gone: Callable[[int], bool]) -> Iterator[tuple[int, Reply]]:
        waiting: dict[tuple[int, int], list[_Job]] = {}
        for index, request in enumerate(requests):
            try:
                job = self._read(index, request)
            except Exception as error:
                yield index, _failed(error, request.id)
                continue
            waiting.setdefault(job.plan.padded, []).append(job)
        for padded, same in waiting.items():
            while same:
                jobs = self._take(padded, same)
                live = [job for job in jobs if not gone(job.index)]
                outcomes = dict(zip((job.index for job in live), self._compute(padded, live, gone), strict=True))
                for job in jobs:
                    outcome = outcomes.get(job.index)
                    yield job.index, _CANCELLED if outcome is None else self._reply(job, outcome)

    def _take(self, padded: tuple[int, int], waiting: list[_Job]) -> list[_Job]:
        """The next batch out of what waits: at least one picture, and as many as the budget allows and batches gain from."""
        limit = self._batch_sizes.limit(padded) if self._batch_sizes else self.max_batch_pictures
        count, pixels = 0, 0
        while count < min(limit, len(waiting)) and (not count or pixels + waiting[count].pixels <= self.max_batch_pixels):
            pixels += waiting[count].pixels
            count += 1
        taken, waiting[:] = waiting[:count], waiting[count:]
        return taken

    def _compute(self, padded: tuple[int, int], jobs: Sequence[_Job], gone: Callable[[int], bool]) -> list[Outcome | None]:
        started = time.perf_counter()
        outcomes = compute_batch(self._segment, jobs, lambda job: gone(job.index))
        if self._batch_sizes and jobs and all(outcome and outcome.batch_size == len(jobs) for outcome in outcomes):
            self._batch_sizes.measured(padded, len(jobs), time.perf_counter() - started)
        return outcomes

    def _read(self, index: int, request: Request) -> _Job:
        *resized, height, width = request.sizes
        config = self.predictor.config.preprocess
        options = _options(request.options)
        if options is None:
            # Who asks what is loaded does not know its sizes; the picture that runs is this one.
            probe = ResizedPicture(np.zeros((*_PROBE_SIZE, 3), np.uint8), _PROBE_SIZE)
            options = SegmentationOptions(self.predictor.config.tasks[:1])
            # It is not resized, so it is a batch of its own beside pictures that were.
            plan = self.predictor.plan(*_PROBE_SIZE, options.tasks)
            plan = replace(plan, resized=_PROBE_SIZE, padded=padded_size(*_PROBE_SIZE, config))
            return _Job(index, probe, options, plan, request.id, describe=True)
        self.predictor.check(options)
        expected = resized_size(height, width, config) if min(height, width) > 0 else None
        if expected is None or expected != tuple(resized):
            raise ModelChangedError(f"a picture of {height}x{width} is resized to {expected} for this model, not to {resized}")
        padded = padded_size(*expected, config)
        if request.picture.shape != (*padded, 3):
            raise ModelChangedError(f"a picture of {resized} is padded to {padded} for this model, not to {request.picture.shape[:2]}")
        picture = ResizedPicture(request.picture[: resized[0], : resized[1]], (height, width))
        return _Job(index, picture, options, self.predictor.plan(height, width, options.tasks), request.id, describe=False)

    def _segment(self, jobs: Sequence[_Job]) -> Sequence[Prediction]:
        return self.predictor.segment_resized([job.picture for job in jobs], [job.options for job in jobs], [job.plan for job in jobs])

    def _reply(self, job: _Job, outcome: Outcome) -> Reply:
        if outcome.prediction is None:
            assert outcome.error is not None
            return _failed(outcome.error, job.id)
        if job.describe:
            return Reply(description_to_json(self.predictor.info, config_to_json(self.predictor.config), self.fingerprint))
        text = prediction_to_json(outcome.prediction, outcome.batch_size, self.fingerprint)
        return Reply(text, prediction=outcome.prediction, batch_size=outcome.batch_size, opens_batch=outcome.opens_batch)


def end_worker_span(span: Span, reply: Reply) -> None:
    """The span of a request that is answered now, and its parts: the wait for the network, and the stages, the last of which just ended."""
    now, prediction = time.time(), reply.prediction
    stages = [] if prediction is None else [(name, prediction.timings.get(stage, 0.0)) for stage, name in SPAN_NAMES.items()]
    began = max(span.began, now - sum(seconds for _, seconds in stages))
    span.part("wait", span.began, began)
    for name, seconds in stages:
        span.part(name, began, began + seconds)
        began += seconds
    span.end(now, error=reply.error or "", batch_size=reply.batch_size)


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits that differ between models: of all bytes in the folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def read_config(parameters: Mapping[str, str], instance_kind: str, instance_device: str, environment: Mapping[str, str]) -> RuntimeConfig:
    """A worker's configuration.

    Args:
        parameters: the Triton model's.
        instance_kind: `CPU` or `GPU`: where Triton puts this instance, when nothing names a device.
        instance_device: number of the GPU.

    Raises:
        CheckpointError: a value cannot be used; the text names it.
    """
    # With a GPU `cuda` alone would leave open which one, and torch would put every instance on the first.
    return runtime_from_texts(parameters, environment, f"cuda:{instance_device}" if instance_kind == "GPU" else None)


def from_process(model: Mapping[str, Any], instance_kind: str, instance_device: str) -> Worker:
    """The worker that this process's environment and Triton's configuration of the model ask for."""
    parameters = {name: value["string_value"] for name, value in model["parameters"].items()}
    config = read_config(parameters, instance_kind, instance_device, os.environ)
    return Worker.load(replace(config, max_batch_pictures=max(1, model["max_batch_size"])))


def _options(text: bytes) -> SegmentationOptions | None:
    try:
        return options_from_json(text)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"the options are not JSON as `proscale.wire` writes it: {error}") from error


def _failed(error: Exception, request_id: str) -> Reply:
    if isinstance(error, ModelChangedError | ImageError | ParameterError):
        return Reply(error=f"{type(error).__name__}: {error}")
    _LOG.error("a picture failed", exc_info=error, extra={"fields": {"id": request_id}})
    return Reply(error=f"the worker failed: {type(error).__name__}: {error}", internal=True)


def _log(request: Request, reply: Reply) -> None:
    """One line per picture, by the id that the gateway's log has; canaries have none."""
    if not request.id:
        return
    status = "ok" if reply.error is None else "cancelled" if reply.cancelled else "failed" if reply.internal else "refused"
    fields = {"id": request.id, "status": status, "batch_size": reply.batch_size}
    if reply.prediction is not None:
        fields |= {"flops": reply.prediction.plan.flops, "ms": round(1e3 * sum(reply.prediction.timings.values()), 1)}
    _LOG.info("picture", extra={"fields": fields})
