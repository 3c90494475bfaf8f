"""`tile`: a large picture window by window, over HTTP."""

import base64
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from tests.model.heads.test_folding import CONFIGS

from proscale.any_network import build_network
from proscale.config import PreprocessConfig
from proscale.labels import Category
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.tiles import parse_tiling
from proscale_service.client import Client

from ..pictures import encoded
from ..predictors import ThresholdPredictor
from ..serving import Running, http, metric, serving, until
from .asking import comparable, in_json, post, problem


class SeesSmall(ThresholdPredictor):
    """As a real model it sees every picture at one size: windows of a large square one are 128 pixels a side."""

    def plan(self, height, width, tasks):
        return super().plan(min(height, 128), min(width, 128), tasks)


@pytest.fixture(scope="module")
def predictor() -> SeesSmall:
    return SeesSmall()


@pytest.fixture(scope="module")
def tiling_server(predictor: SeesSmall):
    with serving(predictor) as server:
        yield server


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """(500, 700): bright discs on dark ground."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:500, :700]
    image = np.zeros((500, 700, 3), np.uint8)
    for cy, cx in zip(rng.uniform(20, 480, 12), rng.uniform(20, 680, 12), strict=True):
        image[(y - cy) ** 2 + (x - cx) ** 2 < 400] = 255
    return image


def test_windows_give_the_result_of_the_whole(tiling_server: Running, scene: np.ndarray, predictor: SeesSmall) -> None:
    data = encoded(scene)
    whole = comparable(post(tiling_server, data, task="semantic"))
    predictor.batches.clear()
    tiled = comparable(post(tiling_server, data, task="semantic", tile="auto"))
    cost, before = tiled.pop("compute"), whole.pop("compute")
    assert [each["segmentation"] for each in tiled["segments"]] == [each["segmentation"] for each in whole["segments"]]
    assert cost["tiles"] == {"windows": 35, "size": [128, 128], "overlap": [35, 32], "scale": 1.0}
    assert cost["flops"] == 35 * 3 * 128 * 128
    assert "tiles" not in before
    assert sum(map(len, predictor.batches)) == 35
    assert {size for batch in predictor.batches for size in batch} == {(128, 128)}


def test_off_and_auto_on_small_pictures_cut_no_windows(tiling_server: Running, scene: np.ndarray) -> None:
    small = encoded(scene[:200, :200])
    plain = comparable(post(tiling_server, small))
    assert comparable(post(tiling_server, small, tile="off")) == plain
    assert comparable(post(tiling_server, small, tile="auto")) == plain


def test_the_plan_counts_windows_and_their_cost(tiling_server: Running) -> None:
    plain = http.get(f"{tiling_server.url}/segment/plan?width=700&height=500").json()
    planned = http.get(f"{tiling_server.url}/segment/plan?width=700&height=500&tile=auto").json()
    assert "tiles" not in plain["compute"]
    assert planned["compute"]["tiles"]["windows"] == 35
    assert planned["compute"]["flops"] == 35 * plain["compute"]["flops"]
    until(lambda: http.get(f"{tiling_server.url}/segment/plan?width=700&height=500&tile=auto").json()["expected_ms"] is not None)


@pytest.mark.parametrize(
    ("tile", "remedy"),
    [("256,200", "use 0 to 128"), ("20", "use 64 or more"), ("512,64,99", "0.01..16"), ("wide", "SIZE[,OVERLAP[,SCALE]]")],
)
def test_windows_that_cannot_be_are_422(tiling_server: Running, tile: str, remedy: str) -> None:
    assert remedy in problem(post(tiling_server, tile=tile), 422, "invalid-parameter")
    assert remedy in problem(http.get(f"{tiling_server.url}/segment/plan?width=9&height=9&tile={tile}"), 422, "invalid-parameter")


@pytest.fixture(scope="module")
def joint_server(small_predictor: Predictor):
    with serving(small_predictor) as server:
        yield server


def test_joint_windows_give_what_the_predictor_gives(joint_server: Running, small_predictor: Predictor, scene: np.ndarray) -> None:
    expected = small_predictor.segment_joint(scene[:200, :300], parse_tiling("joint,96,32"), SegmentationOptions(("semantic",)))
    data = encoded(scene[:200, :300])
    found = post(joint_server, data, task="semantic", tile="joint,96,32").json()
    assert found["compute"]["tiles"] == {"windows": 15, "size": [96, 96], "overlap": [32, 32], "scale": 1.0, "joint": True}
    assert (found["compute"]["flops"], found["compute"]["padded_size"]) == (expected.plan.flops, [224, 320])
    assert [each["segmentation"]["counts"] for each in found["segments"]] == [
        each.segmentation.counts for each in expected.results["semantic"].segments
    ]
    planned = http.get(f"{joint_server.url}/segment/plan?width=300&height=200&tile=joint,96,32&task=semantic").json()
    assert planned["compute"]["flops"] == expected.plan.flops
    small = encoded(scene[:90, :90])
    assert comparable(post(joint_server, small, tile="joint,96")) == comparable(post(joint_server, small))


def test_networks_without_a_joint_form_say_what_to_take_instead(scene: np.ndarray) -> None:
    config = replace(CONFIGS["segformer linear"], preprocess=PreprocessConfig(64, 256, align="stretch"))
    categories = tuple(Category(i, f"class {i}", False) for i in range(config.classes))
    with serving(Predictor(build_network(config), categories)) as server:
        for answer in (
            post(server, encoded(scene), tile="joint"),
            http.get(f"{server.url}/segment/plan?width=700&height=500&tile=joint"),
        ):
            assert "take windows that are merged: tile=auto" in problem(answer, 422, "invalid-parameter")


def test_one_window_that_fails_fails_the_picture_and_nothing_stays_behind(tiling_server: Running, scene: np.ndarray) -> None:
    image = scene.copy()
    image[93:99, 95:100] = ThresholdPredictor.POISON  # the corner of a window in the middle
    problem(post(tiling_server, encoded(image), tile="128,32"), 500, "engine-failure")
    pipeline = tiling_server.pipeline
    engine = pipeline.models.find(None).engine
    until(lambda: not len(engine.backlog) and not pipeline.admission.pixels and not engine.depth)


def test_a_batch_and_the_client_take_tile(tiling_server: Running, scene: np.ndarray) -> None:
    data = encoded(scene)
    images = [{"base64": base64.b64encode(data).decode()}] * 2
    items = in_json(tiling_server, "/segment/batch", images=images, tile="128,32").json()["items"]
    assert [item["result"]["compute"]["tiles"]["windows"] for item in items] == [35, 35]
    with Client(tiling_server.url) as client:
        assert client.segment(scene, tile="128,32").raw["compute"]["tiles"]["windows"] == 35
        assert client.plan(500, 700, tile="128,32")["compute"]["tiles"]["windows"] == 35


def test_a_picture_whose_windows_would_be_late_is_refused_at_once(scene: np.ndarray) -> None:
    slow = SeesSmall(delay_s=0.05)
    with serving(slow) as server:
        assert post(server, encoded(scene[:128, :128])).status_code == 200  # measured: 2 ms, as the predictor says
        for _ in range(3):
            post(server, encoded(scene[:128, :128]))
        until(lambda: server.pipeline.models.find(None).engine.backlog.pace > 2)
        calls = slow.calls
        post(server, encoded(scene), tile="auto", deadline_ms=200)  # an idle engine may try once
        problem(post(server, encoded(scene), tile="auto", deadline_ms=200), 429, "backlog")
        assert metric(server.url, "proscale_queue_depth") == 0
        assert slow.calls < calls + 35


def test_small_pictures_get_in_between_windows(scene: np.ndarray) -> None:
    slow = SeesSmall(delay_s=0.02)
    with serving(slow, decode_threads=2) as server:
        done: dict[str, float] = {}

        def ask(name: str, image: np.ndarray, **query: object) -> None:
            assert post(server, encoded(image), **query).status_code == 200
            done[name] = time.monotonic()

        large = threading.Thread(target=ask, args=("large", scene), kwargs={"tile": "auto", "priority": "bulk"})
        large.start()
        until(lambda: slow.calls > 2)
        ask("small", scene[:100, :100], priority="interactive")
        large.join()
        assert done["small"] < done["large"]
