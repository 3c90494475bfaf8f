"""CVAT's real SDK and command line against a stand-in server, and nuclio's contract."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.masks
import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from proscale_service.annotation.cvat_function import Detector, create
from proscale_service.annotation.cvat_nuclio import nuclio_app
from proscale_service.client import NO_RETRIES, AsyncClient
from proscale_service.cvat_command import cvat as command

from ..pictures import blob, encoded
from ..routes.asking import base64_of
from ..serving import Running
from .cvat_server import TASK, TOKEN, Standin, running
from .serving_apps import served

BOX = (10, 20, 30, 25)
LABELS = [(3, "blob", "any"), (4, "other", "mask")]
BRIGHT = blob(box=BOX)[:, :, 0] > 127
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def cvat() -> Iterator[Standin]:
    standin = Standin([encoded(blob(box=(10 + i, 20, 30, 25))) for i in range(7)], LABELS, deleted=[6])
    with running(standin):
        yield standin


@pytest.fixture
def annotate(cvat: Standin, server: Running) -> Callable[..., Result]:
    def run(*arguments: object, **environment: str) -> Result:
        given = ["annotate", TASK, "--url", server.url, "--cvat-url", cvat.url, *arguments]
        return CliRunner().invoke(command, list(map(str, given)), env={"CVAT_ACCESS_TOKEN": TOKEN} | environment)

    return run


def decoded(shape: dict[str, Any]) -> np.ndarray:
    return cvat_sdk.masks.decode_mask(shape["points"], image_width=96, image_height=64)


class TestTasks:
    def test_every_frame_gets_its_masks(self, cvat: Standin, annotate: Callable[..., Result]) -> None:
        result = annotate("--task", "instance", "--concurrency", 3)
        assert result.exit_code == 0, result.output
        assert "6 frames annotated with 6 shapes" in result.output
        assert "no such label: ground" in result.output
        assert sorted(shape["frame"] for shape in cvat.shapes) == [0, 1, 2, 3, 4, 5]
        for shape in cvat.shapes:
            assert (shape["label_id"], shape["type"], shape["source"]) == (3, "mask", "auto")
            np.testing.assert_array_equal(decoded(shape), blob(box=(10 + shape["frame"], 20, 30, 25))[:, :, 0] > 127)
        assert 1 < cvat.most_in_flight <= 3

    def test_the_next_run_does_the_failed_frames_and_none_twice(self, cvat: Standin, annotate: Callable[..., Result]) -> None:
        cvat.broken_frames = {2}
        cvat.frames[4] = b"no picture"
        result = annotate()
        assert result.exit_code == 1
        assert "frame 2 (frame-2.png): cannot be downloaded: HTTP status 500" in result.output
        assert "frame 4 (frame-4.png): the data is not a picture" in result.output
        assert "Run the same command again for the frames that are left" in result.output
        assert sorted(shape["frame"] for shape in cvat.shapes) == [0, 1, 3, 5]
        cvat.broken_frames = set()
        cvat.frames[4] = cvat.frames[3]
        result = annotate()
        assert result.exit_code == 0, result.output
        assert "2 frames annotated with 2 shapes, 4 had some already" in result.output
        assert sorted(shape["frame"] for shape in cvat.shapes) == [0, 1, 2, 3, 4, 5]
        assert "6 frames annotated" in annotate("--all-frames").output

    def test_an_upload_that_fails_is_that_frames_error(self, cvat: Standin, annotate: Callable[..., Result]) -> None:
        cvat.refuse_uploads = True
        result = annotate()
        assert result.exit_code == 1
        assert "its shapes cannot be uploaded: HTTP status 503" in result.output
        assert not cvat.shapes

    def test_polygons(self, cvat: Standin, annotate: Callable[..., Result]) -> None:
        assert annotate("--polygons", "--label", "blob").exit_code == 0
        first = next(shape for shape in cvat.shapes if shape["frame"] == 0)
        corners = {(first["points"][i], first["points"][i + 1]) for i in range(0, len(first["points"]), 2)}
        assert (first["type"], corners) == ("polygon", {(10, 20), (40, 20), (40, 45), (10, 45)})

    @pytest.mark.slow
    def test_impossible_requests_are_explained(self, cvat: Standin, annotate: Callable[..., Result], server: Running) -> None:
        cvat.labels = [(4, "car", "any"), (5, "blob", "rectangle")]
        output = annotate().output
        assert "has no label for a mask that the model knows. Its labels: blob, car; the model's: blob, ground" in output
        cvat.labels = LABELS
        for arguments, words in (
            (["--url", "http://127.0.0.1:1"], "the segmentation service at http://127.0.0.1:1"),
            (["--cvat-url", "http://127.0.0.1:1"], "CVAT at http://127.0.0.1:1"),
            (["--threshold", 7], "is not in the range"),
        ):
            result = annotate(*arguments)
            assert result.exit_code != 0
            assert words in result.output
            assert isinstance(result.exception, SystemExit), result.exception
        given = ["annotate", "5", "--url", server.url]
        assert "no credentials for CVAT" in CliRunner().invoke(command, given, env={"CVAT_ACCESS_TOKEN": "", "CVAT_USER": ""}).output


class Context(cvataa.DetectionFunctionContext):
    def __init__(self, threshold: float | None = None, polygons: bool = False) -> None:
        self.threshold, self.polygons = threshold, polygons

    frame_name = "frame.png"

    @property
    def conf_threshold(self) -> float | None:
        return self.threshold

    @property
    def conv_mask_to_poly(self) -> bool:
        return self.polygons


class TestFunction:
    def test_the_function_detects_through_cvats_sdk(self, server: Running) -> None:
        with closing(create(server.url, task="instance")) as function:
            self.check(function)

    def check(self, function: Detector) -> None:
        import PIL.Image

        assert [label.name for label in function.spec.labels] == ["blob", "ground"]
        image = PIL.Image.fromarray(blob(box=BOX))
        found = function.detect(Context(), image)
        np.testing.assert_array_equal(cvat_sdk.masks.decode_mask(found[0].points, image_width=96, image_height=64), BRIGHT)
        assert len(function.detect(Context(0.5), image)) == 1
        assert {str(shape.type) for shape in function.detect(Context(polygons=True), image)} == {"polygon"}

    def test_the_sdk_annotates_a_task_with_it(self, cvat: Standin, server: Running, tmp_path: Any) -> None:
        from cvat_sdk import make_client

        with make_client(cvat.url, access_token=TOKEN) as client, closing(create(server.url)) as function:
            client.config.cache_dir = tmp_path
            cvataa.annotate_task(client, TASK, function, allow_unmatched_labels=True)
        assert sorted(shape["frame"] for shape in cvat.shapes) == [0, 1, 2, 3, 4, 5]

    @pytest.mark.slow
    @pytest.mark.parametrize("polygons", [False, True])
    def test_cvats_command_line_creates_it_and_runs_its_agent(self, cvat: Standin, server: Running, polygons: bool) -> None:
        shown = CliRunner().invoke(command, ["function", "--url", server.url])
        path = shown.stdout.split()[0]
        environment = os.environ | {"CVAT_ACCESS_TOKEN": TOKEN}

        def cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
            host, _, port = cvat.url.rpartition(":")
            program = [sys.executable, "-m", "cvat_cli", "--server-host", host, "--server-port", port, "function", *arguments]
            return subprocess.run(
                [*program, "--function-file", path, "-p", f"url=str:{server.url}"],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )

        made = cli("create-native", "PRO-SCALE")
        assert made.returncode == 0, made.stderr
        assert made.stdout.strip() == "1"
        asked = {"task": TASK, "threshold": 0.0, "conv_mask_to_poly": polygons, "mapping": {"blob": {"name": "blob"}}}
        cvat.requests = [
            {"id": "whole", "category": "batch", "params": asked | {"type": "annotate_task"}},
            {"id": "one", "category": "interactive", "params": asked | {"type": "annotate_frame", "frame": 1}},
        ]
        ran = cli("run-agent", "1", "--burst")
        assert ran.returncode == 0, ran.stderr
        assert not cvat.failed, ran.stderr
        assert {shape["frame"] for shape in cvat.completed["whole"]["annotations"]["shapes"]} == {0, 1, 2, 3, 4, 5}
        (shape,) = cvat.completed["one"]["annotations"]["shapes"]
        assert (shape["type"], shape["label_id"]) == ("polygon" if polygons else "mask", 3)


class TestNuclio:
    @pytest.fixture
    def nuclio(self, server: Running) -> Iterator[str]:
        with served(nuclio_app(AsyncClient(server.url), 8070, "instance")) as url:
            yield url

    def test_the_list_of_functions(self, nuclio: str) -> None:
        import json

        (function,) = httpx.get(f"{nuclio}/api/functions").json().values()
        assert function == httpx.get(f"{nuclio}/api/functions/{function['metadata']['name']}").json()
        assert function["metadata"]["annotations"]["type"] == "detector"
        assert [label["name"] for label in json.loads(function["metadata"]["annotations"]["spec"])] == ["blob", "ground"]
        assert function["status"] == {"state": "ready", "httpPort": 8070}
        assert function["spec"]["description"]

    @pytest.mark.parametrize("path", ["/api/function_invocations", "/"])
    def test_detections(self, nuclio: str, path: str) -> None:
        body = {"image": base64_of(encoded(blob(box=BOX)))["base64"], "threshold": 0.0}
        found = httpx.post(f"{nuclio}{path}", json=body, headers={"x-nuclio-function-name": "proscale"}, timeout=30).json()
        detection = next(each for each in found if each["label"] == "blob")
        *crop, left, top, right, bottom = detection["mask"]
        assert (left, top, right, bottom) == (10, 20, 39, 44)
        mask = np.zeros((64, 96), bool)
        mask[top : bottom + 1, left : right + 1] = np.array(crop).reshape(bottom - top + 1, right - left + 1)
        np.testing.assert_array_equal(mask, BRIGHT)
        assert detection["type"] == "mask"
        assert 0 < float(detection["confidence"]) < 1
        assert len(httpx.post(f"{nuclio}{path}", json=body | {"threshold": 0.5}, timeout=30).json()) == 1

    @pytest.mark.parametrize(
        ("body", "name", "status", "word"),
        [
            (b"no json", "proscale", 400, "base64"),
            (b'{"image": 7}', "proscale", 400, "base64"),
            (b'{"image": "!"}', "proscale", 400, "base64"),
            (b'{"image": "AAAA", "threshold": 7}', "proscale", 400, "threshold"),
            (b'{"image": "' + base64.b64encode(b"no picture") + b'"}', "proscale", 422, "not a picture"),
            (b"{}", "other", 404, "proscale"),
        ],
    )
    def test_errors_have_its_form(self, nuclio: str, body: bytes, name: str, status: int, word: str) -> None:
        answer = httpx.post(f"{nuclio}/api/function_invocations", content=body, headers={"x-nuclio-function-name": name})
        assert answer.status_code == status
        assert answer.json().keys() == {"error"}
        assert word in answer.json()["error"]

    def test_a_service_that_is_not_there(self) -> None:
        with served(nuclio_app(AsyncClient("http://127.0.0.1:1", retries=NO_RETRIES), 8070)) as url:
            answer = httpx.get(f"{url}/api/functions", timeout=30)
            assert (answer.status_code, "does not answer" in answer.json()["error"]) == (503, True)
