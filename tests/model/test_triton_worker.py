"""The worker without Triton: configuration, batches within the pixel budget, errors that stay with their picture."""

import json
from pathlib import Path

import numpy as np
import pytest

from proscale import wire
from proscale.checkpoints.model_folder import DEFAULT_FOLDER
from proscale.config import TASKS
from proscale.errors import CheckpointError
from proscale.geometry import pad_picture, padded_size, resize_picture
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.runtime import RuntimeConfig
from proscale.triton_worker import Reply, Request, Worker, fingerprint, read_config


def request(image: np.ndarray, predictor: Predictor, options: str = "{}") -> Request:
    config = predictor.config.preprocess
    picture = resize_picture(image, config)
    height, width = picture.pixels.shape[:2]
    return Request(pad_picture(picture.pixels, padded_size(height, width, config)), (height, width, *picture.output_size), options.encode())


def handled(worker: Worker, requests: list[Request], gone: set[int] | None = None) -> list[Reply]:
    """One reply per request, in order."""
    replies = list(worker.handle(requests, (gone or set()).__contains__))
    assert sorted(index for index, _ in replies) == list(range(len(requests)))
    return [dict(replies)[index] for index in range(len(requests))]


def test_the_models_parameters_win_over_the_environment() -> None:
    environment = {"PROSCALE_CHECKPOINT": "/a", "PROSCALE_THREADS": "3", "PROSCALE_WARMUP": "48x64, 64x48"}
    config = read_config({"checkpoint": "/b", "threads": "", "precision": "bfloat16"}, "CPU", "0", environment)
    assert config == RuntimeConfig(Path("/b"), "cpu", "bfloat16", threads=3, warmup=((48, 64), (64, 48)))


@pytest.mark.parametrize(
    ("kind", "named", "device"),
    [
        ("CPU", "", "cpu"),
        ("GPU", "", "cuda:1"),
        ("GPU", "cuda", "cuda:1"),
        ("GPU", "cuda:0", "cuda:0"),
        ("GPU", "cpu", "cpu"),
        ("CPU", "cuda", "cuda"),
    ],
)
def test_an_instance_runs_where_triton_puts_it_unless_a_device_is_named(kind: str, named: str, device: str) -> None:
    assert read_config({"device": named}, kind, "1", {}).device == device


def test_warm_up_runs_every_size_and_task(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
    segment = Predictor.segment

    def watch(self: Predictor, images: list, options: list) -> list:
        seen.extend((image.shape, option.tasks) for image, option in zip(images, options, strict=True))
        return segment(self, images, options)

    monkeypatch.setattr(Predictor, "segment", watch)
    Worker.load(RuntimeConfig(small_checkpoint, warmup=((48, 64), (64, 48))))
    assert seen == [((48, 64, 3), TASKS), ((64, 48, 3), TASKS)]


def test_cuda_graphs_need_a_gpu(small_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="CUDA graphs need a CUDA device"):
        Worker.load(RuntimeConfig(small_checkpoint, cuda_graphs=True))


def test_compiling_needs_sizes(small_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="compile needs warmup"):
        Worker.load(RuntimeConfig(small_checkpoint, compile=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cuda_graphs", "maybe"),
        ("compile", "2"),
        ("threads", "two"),
        ("threads", "0"),
        ("warmup", "48"),
        ("precision", "int4"),
        ("max_batch_pixels", "-1"),
    ],
)
def test_values_that_cannot_be_used_are_named(name: str, value: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        read_config({name: value}, "CPU", "0", {})


def test_a_batch_is_computed_in_parts_of_the_pixel_budget(small_predictor: Predictor, picture: np.ndarray) -> None:
    worker = Worker(small_predictor, "abc", max_batch_pixels=2 * 96 * 128)
    replies = handled(worker, [request(np.roll(picture, i, 1), small_predictor) for i in range(5)])
    assert [reply.batch_size for reply in replies] == [2, 2, 2, 2, 1]
    assert all(json.loads(reply.text)["model"] == "abc" for reply in replies)


def test_a_part_is_answered_before_the_next_is_computed_and_nothing_is_computed_for_those_who_left(
    small_predictor: Predictor, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    segment = small_predictor.segment_resized

    def watch(pictures: list, options: list, plans: list) -> list:
        computed.append(len(pictures))
        return segment(pictures, options, plans)

    monkeypatch.setattr(small_predictor, "segment_resized", watch)
    worker = Worker(small_predictor, "abc", max_batch_pixels=2 * 96 * 128)
    requests = [request(np.roll(picture, i, 1), small_predictor) for i in range(6)]
    replies = worker.handle([request(picture, small_predictor, "{"), *requests])
    assert next(replies)[1].error
    assert computed == []
    assert [next(replies)[0] for _ in range(2)] == [1, 2]
    assert computed == [2]
    computed.clear()
    answers = handled(worker, requests, gone={0, 1, 3})
    assert [answer.cancelled for answer in answers] == [True, True, False, True, False, False]
    assert [answer.batch_size for answer in answers if not answer.cancelled] == [1, 2, 2]
    assert computed == [1, 2]


def test_a_failing_picture_does_not_affect_its_batch(
    small_predictor: Predictor, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = small_predictor.segment_resized

    def fail(pictures: list, options: list, plans: list) -> list:  # a fault that cannot be made with a picture
        if any(option.max_segments == 1 for option in options):
            raise RuntimeError("out of memory")
        return segment(pictures, options, plans)

    monkeypatch.setattr(small_predictor, "segment_resized", fail)
    options = wire.options_to_json(SegmentationOptions(max_segments=1))
    replies = handled(Worker(small_predictor, "abc"), [request(picture, small_predictor), request(picture, small_predictor, options)])
    assert replies[0].error is None
    assert replies[1].internal
    assert "out of memory" in str(replies[1].error)


def test_describing_runs_the_network(small_predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    segment = small_predictor.segment_resized

    def watch(pictures: list, options: list, plans: list) -> list:
        seen.extend(picture.output_size for picture in pictures)
        return segment(pictures, options, plans)

    monkeypatch.setattr(small_predictor, "segment_resized", watch)
    (reply,) = handled(Worker(small_predictor, "abc"), [Request(np.zeros((32, 32, 3), np.uint8), (32,) * 4, wire.DESCRIBE.encode())])
    assert wire.description_from_json(reply.text).info == small_predictor.info
    assert seen == [(64, 64)]


def test_fingerprints_of_different_models_differ(small_checkpoint: Path) -> None:
    assert fingerprint(small_checkpoint) == fingerprint(small_checkpoint) != fingerprint(DEFAULT_FOLDER)
