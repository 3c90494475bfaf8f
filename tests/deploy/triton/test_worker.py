"""The worker in a real Triton server, spoken to directly: batches, errors that fail alone, queue limits, model control, clean stop."""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tests.deploy.triton.server import REPOSITORY, TritonServer, needs_triton
from tests.service.serving import until
from tritonclient.utils import InferenceServerException

from proscale import wire
from proscale.checkpoints.model_folder import DEFAULT_FOLDER
from proscale.geometry import pad_picture, padded_size, resize_picture
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions

pytestmark = [pytest.mark.slow, needs_triton]
TASKS = SegmentationOptions(("panoptic", "instance", "semantic"))


@pytest.fixture
def client(triton: TritonServer) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(triton.url) as client:
        yield client


def inputs(image: np.ndarray, predictor: Predictor, options: str) -> list[grpc.InferInput]:
    """A request as a gateway makes it."""
    config = predictor.config.preprocess
    picture = resize_picture(image, config)
    resized = (picture.pixels.shape[0], picture.pixels.shape[1])
    return tensors(pad_picture(picture.pixels, padded_size(*resized, config)), (*resized, *picture.output_size), options)


def tensors(picture: np.ndarray, sizes: tuple[int, ...], options: str) -> list[grpc.InferInput]:
    values = {
        wire.PICTURE: (picture[None], "UINT8"),
        wire.SIZES: (np.array([sizes], np.int32), "INT32"),
        wire.OPTIONS: (np.array([[options.encode()]], np.object_), "BYTES"),
    }
    made = []
    for name, (value, kind) in values.items():
        tensor = grpc.InferInput(name, value.shape, kind)
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made


def infer(client: grpc.InferenceServerClient, tensors: list[grpc.InferInput]) -> bytes:
    text: bytes = client.infer("proscale", tensors).as_numpy(wire.RESULT)[0, 0]
    return text


def crops(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """Different pictures of one padded size."""
    return [np.roll(picture, 5 * i, axis=1) for i in range(count)]


def test_answers_are_the_predictors_own(client: grpc.InferenceServerClient, small_predictor: Predictor, picture: np.ndarray) -> None:
    for image in (picture, picture[:31], picture.transpose(1, 0, 2).copy()):
        expected = small_predictor.segment([image], [TASKS])[0]
        assert any(result.segments for result in expected.results.values())
        text = infer(client, inputs(image, small_predictor, wire.options_to_json(TASKS)))
        answer = wire.prediction_from_json(text, image.shape[:2], expected.plan)
        assert answer.prediction.results == expected.results


def test_the_worker_describes_its_model(client: grpc.InferenceServerClient, small_predictor: Predictor) -> None:
    description = wire.description_from_json(infer(client, tensors(np.zeros((32, 32, 3), np.uint8), (32, 32, 32, 32), wire.DESCRIBE)))
    assert description.info.categories == small_predictor.info.categories
    assert description.config["name"] == small_predictor.config.name
    assert len(description.fingerprint) == 16


def test_equal_sizes_share_a_batch_and_others_do_not(
    triton: TritonServer, client: grpc.InferenceServerClient, small_predictor: Predictor, picture: np.ndarray
) -> None:
    before = triton.metrics()
    pictures = [crop for pair in zip(crops(picture, 12), crops(picture.transpose(1, 0, 2).copy(), 12), strict=True) for crop in pair]
    requests = [inputs(image, small_predictor, wire.options_to_json(SegmentationOptions())) for image in pictures]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = [json.loads(text) for text in pool.map(lambda request: infer(client, request), requests)]
    assert max(answer["batch_size"] for answer in answers) > 1
    for image, answer in zip(pictures, answers, strict=True):
        plan = small_predictor.plan(*image.shape[:2])
        alone = small_predictor.segment([image], [SegmentationOptions()])[0]
        prediction = wire.prediction_from_json(json.dumps(answer), image.shape[:2], plan).prediction
        assert [segment.label for segment in prediction.results["panoptic"].segments] == [
            segment.label for segment in alone.results["panoptic"].segments
        ]
    name = '{model="proscale",version="1"}'
    after = triton.metrics()
    pictures_counted, batches = (
        after[f"proscale_worker_{kind}_total{name}"] - before.get(f"proscale_worker_{kind}_total{name}", 0.0)
        for kind in ("pictures", "batches")
    )
    assert pictures_counted == len(pictures)
    assert batches < pictures_counted
    flops = after[f"proscale_worker_flops_total{name}"] - before.get(f"proscale_worker_flops_total{name}", 0.0)
    assert flops == sum(small_predictor.plan(*image.shape[:2]).flops for image in pictures)
    assert after['proscale_worker_stage_seconds_total{model="proscale",stage="infer",version="1"}'] > 0


def test_a_bad_picture_fails_alone(client: grpc.InferenceServerClient, small_predictor: Predictor, picture: np.ndarray) -> None:
    good = inputs(picture, small_predictor, wire.options_to_json(TASKS))
    sizes = (96, 128, *picture.shape[:2])
    bad = {
        "ParameterError: the model has no label unicorn": inputs(
            picture, small_predictor, wire.options_to_json(SegmentationOptions(labels=("unicorn",)))
        ),
        "ParameterError: the options are not JSON": inputs(picture, small_predictor, "{"),
        "ModelChangedError: a picture of 60x80 is resized": tensors(np.zeros((96, 128, 3), np.uint8), (90, 128, *sizes[2:]), "{}"),
        "ModelChangedError: a picture of \\[96, 128\\] is padded": tensors(np.zeros((128, 128, 3), np.uint8), sizes, "{}"),
        "ModelChangedError: a picture of 0x80": tensors(np.zeros((96, 128, 3), np.uint8), (96, 128, 0, 80), "{}"),
    }
    with ThreadPoolExecutor(2 * len(bad)) as pool:
        others = [pool.submit(infer, client, good) for _ in bad]
        for text, request in bad.items():
            with pytest.raises(InferenceServerException, match=text):
                pool.submit(infer, client, request).result()
        assert all(json.loads(other.result())["results"] for other in others)


def test_a_full_queue_refuses_and_a_late_request_is_rejected(
    triton: TritonServer, client: grpc.InferenceServerClient, small_predictor: Predictor, picture: np.ndarray
) -> None:
    request = inputs(picture, small_predictor, wire.options_to_json(TASKS))
    (pid,) = triton.backend_pids()
    os.kill(pid, signal.SIGSTOP)  # a worker that is busy for as long as the test wants
    try:
        with ThreadPoolExecutor(110) as pool:
            waiting = [pool.submit(client.infer, "proscale", request, timeout=2_000_000) for _ in range(110)]
            assert "Exceeds maximum queue size" in str(next(as_completed(waiting)).exception())
            os.kill(pid, signal.SIGCONT)
            errors = [str(future.exception()) for future in waiting if future.exception()]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert all("Exceeds maximum queue size" in error or "timeout expired" in error for error in errors)
    assert len(errors) < len(waiting)


def test_another_checkpoint_is_loaded_into_the_running_server(
    triton: TritonServer, client: grpc.InferenceServerClient, small_checkpoint: Path
) -> None:
    def served() -> wire.Description:
        return wire.description_from_json(infer(client, tensors(np.zeros((32, 32, 3), np.uint8), (32, 32, 32, 32), wire.DESCRIBE)))

    before = served()
    config = client.get_model_config("proscale", as_json=True)["config"]
    config["parameters"]["checkpoint"]["string_value"] = str(DEFAULT_FOLDER)
    try:
        client.load_model("proscale", config=json.dumps(config))
        assert served().info.name != before.info.name
        assert served().fingerprint != before.fingerprint
        table = (DEFAULT_FOLDER.parents[3] / "docs/sizing.md").read_text().partition("\n## A Triton worker, at most\n")[2]
        started, at_work, *_ = (float(value) for value in re.findall(r"^\| [^|]+ \| (\d+) \|", table, re.MULTILINE))
        until(lambda: len(triton.backend_pids()) == 1)  # the one before ends
        assert sum(triton.memory().values()) < 1e6 * (started + at_work), "docs/sizing.md"
        client.load_model("proscale")  # nothing in the repository has changed: what was asked for last stays
        assert served().fingerprint != before.fingerprint
    finally:
        client.unload_model("proscale")
        client.load_model("proscale")  # the repository's own configuration again
    assert served() == before


def test_a_model_that_cannot_be_loaded_says_why(triton: TritonServer, client: grpc.InferenceServerClient) -> None:
    config = client.get_model_config("proscale", as_json=True)["config"]
    config["parameters"]["checkpoint"]["string_value"] = "/nowhere"
    with pytest.raises(InferenceServerException, match="no model folder at /nowhere"):
        client.load_model("proscale", config=json.dumps(config))
    assert client.is_model_ready("proscale")  # the one before goes on


def test_a_batch_is_answered_in_parts_and_a_clean_stop_leaves_nothing(
    tmp_path: Path, small_checkpoint: Path, small_predictor: Predictor, picture: np.ndarray
) -> None:
    environment = {"PROSCALE_CHECKPOINT": str(small_checkpoint), "PROSCALE_WARMUP": "60x80, 80x60", "PROSCALE_MAX_BATCH_PIXELS": "12288"}
    server = TritonServer(tmp_path, environment, REPOSITORY)  # a budget of one picture
    bad = SegmentationOptions(labels=("unicorn",))
    requests = [inputs(crop, small_predictor, wire.options_to_json(SegmentationOptions())) for crop in crops(picture, 12)]
    requests.insert(5, inputs(picture, small_predictor, wire.options_to_json(bad)))
    try:
        server.start()
        with grpc.InferenceServerClient(server.url) as client, ThreadPoolExecutor(len(requests)) as pool:
            futures = [pool.submit(infer, client, request) for request in requests]
            assert "unicorn" in str(futures.pop(5).exception())
            assert [json.loads(future.result())["batch_size"] for future in futures] == [1] * 12
        counted = server.metrics()
        name = '{model="proscale",version="1"}'
        assert counted[f"proscale_worker_pictures_total{name}"] == 12
        assert counted[f"proscale_worker_errors_total{name}"] == 1
        assert counted[f"proscale_worker_batches_total{name}"] == 12
        assert counted[f"proscale_worker_waiting_pictures{name}"] == 0
        assert server.shared_memory()
        assert server.stop() == 0
        assert not server.shared_memory()
    finally:
        server.kill()
