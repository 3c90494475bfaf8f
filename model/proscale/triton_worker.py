"""The predictor behind Triton's Python backend: requests as arrays and JSON in, JSON out. Knows nothing of Triton's own module.

Where the model comes from and what it runs on stand in the model's `parameters` (config.pbtxt, or a load request's changed config), or,
where they leave it open, in the environment: `PROSCALE_CHECKPOINT`, `PROSCALE_DEVICE`, `PROSCALE_PRECISION`, `PROSCALE_CUDA_GRAPHS`,
`PROSCALE_COMPILE`, `PROSCALE_THREADS`, `PROSCALE_WARMUP`, with the meaning that they have for `proscale serve`, and
`PROSCALE_MAX_BATCH_PIXELS`, which counts padded pixels alone here.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from proscale.checkpoints.model_folder import DEFAULT_FOLDER
from proscale.config import PRECISIONS, Precision
from proscale.config_json import config_to_json
from proscale.errors import CheckpointError, DeviceError, ImageError, ParameterError, ProscaleError
from proscale.geometry import ResizedPicture, padded_size, resized_size
from proscale.predictor import Predictor
from proscale.results import Prediction, SegmentationOptions
from proscale.wire import description_to_json, options_from_json, prediction_to_json

_LOG = logging.getLogger(__name__)
_MAX_BATCH_PIXELS, _MAX_BATCH_SIZE = 4_000_000, 16
_PROBE_SIZE = (64, 64)
"""(height, width) of the picture that runs when the worker is asked what it serves."""
_GPU_WARMUP = "480x640"
"""Where nothing is said: a GPU compiles and allocates at its first picture; a CPU would only be ready later for nothing."""
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


class ModelChangedError(ProscaleError):
    """The sender resized for another model than the one that is loaded: it should ask for the description again."""


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker loads, and how it runs it."""

    checkpoint: Path | None = None
    """Model folder; None: the model inside the package."""
    device: str = "cpu"
    precision: Precision | None = None
    cuda_graphs: bool = False
    compile: bool = False
    """For the sizes in `warmup`, on a CPU."""
    threads: int | None = None
    warmup: tuple[tuple[int, int], ...] = ()
    """(height, width) in pixels of pictures to segment before ready."""
    max_batch_pixels: int = _MAX_BATCH_PIXELS
    """Padded pixels computed at once; what is more is computed in parts."""
    max_batch_size: int = _MAX_BATCH_SIZE
    """Pictures computed at once."""


@dataclass(frozen=True)
class Request:
    """One picture as it comes over the wire (see `wire`)."""

    picture: NDArray[np.uint8]
    """(H, W, 3), zero-padded."""
    sizes: tuple[int, int, int, int]
    """Height and width of the resized, then of the output picture."""
    options: bytes

    @property
    def pixels(self) -> int:
        """Of the padded picture."""
        height, width = self.picture.shape[:2]
        return int(height * width)


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


@dataclass(frozen=True, eq=False)
class _Job:
    index: int
    picture: ResizedPicture
    options: SegmentationOptions
    padded: tuple[int, int]
    describe: bool


def read_config(parameters: Mapping[str, str], instance_kind: str, instance_device: str, environment: Mapping[str, str]) -> WorkerConfig:
    """A worker's configuration.

    Args:
        parameters: the Triton model's.
        instance_kind: `CPU` or `GPU`: where Triton puts this instance, when nothing names a device.
        instance_device: number of the GPU.

    Raises:
        CheckpointError: a value cannot be used; the text names it.
    """

    def value(name: str) -> str:
        return parameters.get(name) or environment.get(f"PROSCALE_{name.upper()}", "")

    def number(name: str) -> int | None:
        text = value(name)
        if text and (not text.isdecimal() or not int(text)):
            raise CheckpointError(f"{name} must be a whole number from 1, not {text!r}")
        return int(text) if text else None

    def switch(name: str) -> bool:
        text = value(name).lower()
        if text not in _YES + _NO:
            raise CheckpointError(f"{name} must be true or false, not {text!r}")
        return text in _YES

    checkpoint, precision = value("checkpoint"), value("precision")
    if precision and precision not in PRECISIONS:
        raise CheckpointError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    device, placed = value("device"), f"cuda:{instance_device}" if instance_kind == "GPU" else "cpu"
    if not device or (device == "cuda" and instance_kind == "GPU"):
        device = placed  # `cuda` alone leaves open which one, and torch would put every instance on the first
    # Empty in the environment means none, as for `proscale serve`; an empty parameter leaves it to the environment.
    warmup = parameters.get("warmup") or environment.get("PROSCALE_WARMUP", _GPU_WARMUP if device.startswith("cuda") else "")
    return WorkerConfig(
        checkpoint=Path(checkpoint) if checkpoint else None,
        device=device,
        precision=next((known for known in PRECISIONS if known == precision), None),
        cuda_graphs=switch("cuda_graphs"),
        compile=switch("compile"),
        threads=number("threads"),
        warmup=tuple(_size(part.strip()) for part in warmup.split(",") if part.strip()),
        max_batch_pixels=number("max_batch_pixels") or _MAX_BATCH_PIXELS,
    )


class Worker:
    """A predictor that takes what the wire brings. One thread at a time."""

    def __init__(
        self, predictor: Predictor, fingerprint: str, max_batch_pixels: int = _MAX_BATCH_PIXELS, max_batch_size: int = _MAX_BATCH_SIZE
    ) -> None:
        self.predictor, self.fingerprint = predictor, fingerprint
        self.max_batch_pixels, self.max_batch_size = max_batch_pixels, max_batch_size

    @classmethod
    def load(cls, config: WorkerConfig) -> Self:
        """Load the model and segment one picture of every size to warm up, for all tasks.

        Raises:
            CheckpointError: the model or the device cannot be used; the text names the remedy.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if config.compile and not config.warmup:
            raise CheckpointError("compile needs warmup: the sizes HEIGHTxWIDTH of the pictures that will come, such as 480x640")
        predictor = Predictor.load(
            config.checkpoint,
            device=config.device,
            precision=config.precision,
            cuda_graphs=config.cuda_graphs,
            compile_for=config.warmup if config.compile else (),
        )
        # Twice where CUDA graphs are recorded, which happens when a size comes again.
        for height, width in config.warmup * (2 if config.cuda_graphs else 1):
            predictor.segment([np.zeros((height, width, 3), np.uint8)], [SegmentationOptions(predictor.config.tasks)])
        return cls(predictor, fingerprint(config.checkpoint or DEFAULT_FOLDER), config.max_batch_pixels, config.max_batch_size)

    def handle(self, requests: Sequence[Request], gone: Callable[[int], bool] = lambda index: False) -> Iterator[tuple[int, Reply]]:
        """Answer pictures of any sizes, in batches of one padded size; what is wrong with one picture is that picture's error alone.

        Args:
            gone: whether nobody waits for the request of this index any more; asked before its batch is computed.

        Yields:
            index and reply of every request, once each, in any order, as soon as its batch is done.

        Raises:
            DeviceError: the GPU failed for good; what has no reply by then gets none.
        """
        batches: dict[tuple[int, int], list[list[_Job]]] = {}
        for index, request in enumerate(requests):
            try:
                job = self._read(index, request)
            except Exception as error:
                yield index, _failed(error)
                continue
            same = batches.setdefault(job.padded, [[]])
            size = len(same[-1]) + 1
            if same[-1] and (size > self.max_batch_size or size * job.padded[0] * job.padded[1] > self.max_batch_pixels):
                same.append([])
            same[-1].append(job)
        for jobs in (batch for same in batches.values() for batch in same):
            left = [job for job in jobs if gone(job.index)]
            yield from ((job.index, Reply(error="the request was cancelled", cancelled=True)) for job in left)
            if live := [job for job in jobs if job not in left]:
                yield from self._segment(live).items()

    def _read(self, index: int, request: Request) -> _Job:
        *resized, height, width = request.sizes
        config = self.predictor.config.preprocess
        options = _options(request.options)
        if options is None:
            # Who asks what is loaded does not know its sizes; the picture that runs is this one.
            probe = ResizedPicture(np.zeros((*_PROBE_SIZE, 3), np.uint8), _PROBE_SIZE)
            return _Job(
                index, probe, SegmentationOptions(self.predictor.config.tasks[:1]), padded_size(*_PROBE_SIZE, config), describe=True
            )
        self.predictor.check(options)
        expected = resized_size(height, width, config) if min(height, width) > 0 else None
        if expected is None or expected != tuple(resized):
            raise ModelChangedError(f"a picture of {height}x{width} is resized to {expected} for this model, not to {resized}")
        padded = padded_size(*expected, config)
        if request.picture.shape != (*padded, 3):
            raise ModelChangedError(f"a picture of {resized} is padded to {padded} for this model, not to {request.picture.shape[:2]}")
        picture = ResizedPicture(request.picture[: resized[0], : resized[1]], (height, width))
        return _Job(index, picture, options, padded, describe=False)

    def _segment(self, jobs: Sequence[_Job]) -> dict[int, Reply]:
        predictions: Sequence[Prediction] = ()
        try:
            predictions = self.predictor.segment_resized([job.picture for job in jobs], [job.options for job in jobs])
        except DeviceError:
            raise
        except Exception as error:
            if len(jobs) == 1:
                return {jobs[0].index: _failed(error)}
            _LOG.warning("a batch of %d failed (%s); its pictures are run singly", len(jobs), error)
        if not predictions:  # here and not above: the error holds the memory of the batch
            return {index: reply for job in jobs for index, reply in self._segment([job]).items()}
        return {
            job.index: self._describe() if job.describe else self._answer(prediction, len(jobs), opens_batch=not i)
            for i, (job, prediction) in enumerate(zip(jobs, predictions, strict=True))
        }

    def _answer(self, prediction: Prediction, batch_size: int, opens_batch: bool) -> Reply:
        text = prediction_to_json(prediction, batch_size, self.fingerprint)
        return Reply(text, prediction=prediction, batch_size=batch_size, opens_batch=opens_batch)

    def _describe(self) -> Reply:
        return Reply(description_to_json(self.predictor.info, config_to_json(self.predictor.config), self.fingerprint))


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits that differ between models: of all bytes in the folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def from_process(model: Mapping[str, Any], instance_kind: str, instance_device: str) -> Worker:
    """The worker that this process's environment and Triton's configuration of the model ask for."""
    parameters = {name: value["string_value"] for name, value in model["parameters"].items()}
    config = read_config(parameters, instance_kind, instance_device, os.environ)
    return Worker.load(replace(config, max_batch_size=max(1, model["max_batch_size"])))


def _options(text: bytes) -> SegmentationOptions | None:
    try:
        return options_from_json(text)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"the options are not JSON as `proscale.wire` writes it: {error}") from error


def _failed(error: Exception) -> Reply:
    if isinstance(error, ModelChangedError | ImageError | ParameterError):
        return Reply(error=f"{type(error).__name__}: {error}")
    _LOG.error("a picture failed", exc_info=error)
    return Reply(error=f"the worker failed: {type(error).__name__}: {error}", internal=True)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not height.isdecimal() or not width.isdecimal() or not int(height) or not int(width):
        raise CheckpointError(f"warmup: {text!r} is no size such as 480x640")
    return int(height), int(width)
