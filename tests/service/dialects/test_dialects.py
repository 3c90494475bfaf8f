"""Every dialect through its own real client, against a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import supervision
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from tritonclient.utils import InferenceServerException

from proscale_service import settings
from proscale_service.access.keys import hash_of, new_key
from proscale_service.app import DIALECTS
from proscale_service.settings import Settings

from ..pictures import coco_mask, encoded
from ..predictors import ThresholdPredictor
from ..routes.asking import BOX, PICTURE, base64_of, post
from ..serving import Running, http, metric, serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MODEL = "threshold"


def expected(server: Running, task: str) -> dict[str, np.ndarray]:
    """Label -> mask of the service's own answer."""
    return {each["label"]: coco_mask(each["segmentation"]).astype(bool) for each in post(server, task=task).json()["segments"]}


def test_the_setting_names_every_dialect() -> None:
    assert set(settings.DIALECTS) == set(DIALECTS) == set(Settings().dialect_list)
    with pytest.raises(ValueError, match="known are"):
        Settings(dialects="huggingface,klingon")


def test_dialects_can_be_left_out() -> None:
    with serving(ThresholdPredictor(), dialects="") as server:
        assert [http.post(f"{server.url}{path}").status_code for path in ("/hf", "/infer/instance_segmentation", "/v2/models/x/infer")] == [
            404
        ] * 3


def test_documented_programs_name_what_is_there() -> None:
    text = (Path(__file__).parents[3] / "docs/dialects.md").read_text()
    assert all(path in text for path in ("/hf", "/infer/instance_segmentation", "/v2/models/NAME/infer", "IMAGE", "SEGMENTS"))


class TestHuggingFace:
    @pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
    def test_the_hubs_client_gets_the_same_masks(self, server: Running, task: str) -> None:
        client = InferenceClient(model=f"{server.url}/hf")
        found = client.image_segmentation(PICTURE, subtask=task, threshold=0.1)
        masks = {each.label: np.asarray(each.mask) > 127 for each in found}
        for label, mask in expected(server, task).items():
            np.testing.assert_array_equal(masks.pop(label), mask)
        assert not masks
        assert all(0 <= (each.score or -1) <= 1 for each in found)

    def test_raw_bytes_without_parameters(self, server: Running) -> None:
        assert {each.label for each in InferenceClient(model=f"{server.url}/hf").image_segmentation(PICTURE)} == {"blob", "ground"}

    @pytest.mark.parametrize(
        ("body", "status", "word"),
        [
            (b"", 400, "no picture"),
            (b"no picture", 422, "not a picture"),
            ({"inputs": 7}, 400, "inputs"),
            ({"inputs": "!"}, 400, "base64"),
            ({"inputs": base64_of(PICTURE)["base64"], "parameters": {"subtask": "x"}}, 422, "subtask: should be"),
            ({"inputs": base64_of(PICTURE)["base64"], "parameters": {"top_k": 5}}, 422, "top_k"),
            ({"inputs": base64_of(PICTURE)["base64"], "parameters": [1]}, 400, "parameters"),
        ],
    )
    def test_errors_have_its_form(self, server: Running, body: Any, status: int, word: str) -> None:
        sent = {"json": body} if isinstance(body, dict) else {"content": body}
        answer = http.post(f"{server.url}/hf", **sent)
        assert answer.status_code == status
        assert answer.json().keys() == {"error"}
        assert word in answer.json()["error"]

    def test_parameters_in_the_address_count_and_those_of_the_body_come_first(self, server: Running) -> None:
        def labels(**sent: Any) -> list[str]:
            answer = http.post(f"{server.url}/hf", **sent)
            assert answer.status_code == 200, answer.text
            return [each["label"] for each in answer.json()]

        everything, nothing = labels(content=PICTURE), labels(content=PICTURE, params={"mask_threshold": 0.999, "subtask": "semantic"})
        assert (sorted(everything), nothing) == (["blob", "ground"], ["ground"])
        body = {"inputs": base64_of(PICTURE)["base64"], "parameters": {"mask_threshold": 0.5}}
        assert labels(json=body, params={"mask_threshold": 0.999}) == everything
        unknown = http.post(f"{server.url}/hf", content=PICTURE, params={"threshhold": 0.5})
        assert (unknown.status_code, "query: unknown threshhold" in unknown.json()["error"]) == (422, True)

    def test_the_client_raises(self, server: Running) -> None:
        with pytest.raises(HfHubHTTPError, match="not a picture"):
            InferenceClient(model=f"{server.url}/hf").image_segmentation(b"nothing")


class TestRoboflow:
    def ask(self, server: Running, **values: Any) -> Any:
        body = {"image": {"type": "base64", "value": base64_of(PICTURE)["base64"]}} | values
        return http.post(f"{server.url}/infer/instance_segmentation", json=body)

    def test_supervision_reads_exact_masks(self, server: Running) -> None:
        answer = self.ask(server, response_mask_format="rle", model_id=MODEL).json()
        detections = supervision.Detections.from_inference(answer)
        masks = dict(zip(detections.data["class_name"], detections.mask, strict=True))
        for label, mask in expected(server, "instance").items():
            np.testing.assert_array_equal(masks[label], mask)
        blob = list(masks).index("blob")
        assert detections.xyxy[blob].tolist() == [BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]]
        assert detections.class_id[blob] == 7

    def test_supervision_reads_outlines(self, server: Running) -> None:
        detections = supervision.Detections.from_inference(self.ask(server).json())
        assert len(detections) == len(expected(server, "instance"))
        assert detections.mask is not None

    def test_a_list_is_answered_by_a_list(self, server: Running) -> None:
        picture = {"type": "base64", "value": base64_of(PICTURE)["base64"]}
        answers = self.ask(server, image=[picture, picture]).json()
        assert [len(each["predictions"]) for each in answers] == [len(expected(server, "instance"))] * 2
        assert answers[0]["predictions"][0]["detection_id"] != answers[1]["predictions"][0]["detection_id"]

    @pytest.mark.parametrize(
        ("values", "status", "word"),
        [
            ({"image": None}, 400, "base64"),
            ({"image": {"type": "url", "value": "http://127.0.0.1/"}}, 400, "base64"),
            ({"image": []}, 400, "1 to"),
            ({"model_id": "other/1"}, 422, "model_id"),
            ({"response_mask_format": "png"}, 422, "response_mask_format"),
            ({"confidence": 7}, 422, "confidence: should be"),
            ({"class_filter": ["blobb"]}, 422, "class_filter: the model has no label 'blobb'"),
        ],
    )
    def test_errors_have_its_form(self, server: Running, values: dict[str, Any], status: int, word: str) -> None:
        answer = self.ask(server, **values)
        assert answer.status_code == status
        assert answer.json().keys() == {"message"}
        assert word in answer.json()["message"]


class TestOpenInference:
    @pytest.fixture
    def client(self, server: Running) -> Iterator[triton.InferenceServerClient]:
        with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            yield client

    def tensor(self, *pictures: bytes, shape: tuple[int, ...] | None = None, binary: bool = True) -> triton.InferInput:
        values = np.array(pictures, dtype=object).reshape(shape or (len(pictures),))
        made = triton.InferInput("IMAGE", values.shape, "BYTES")
        made.set_data_from_numpy(values, binary_data=binary)
        return made

    def test_health_and_metadata(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        described = client.get_model_metadata(MODEL)
        assert (described["inputs"][0]["name"], described["outputs"][0]["name"]) == ("IMAGE", "SEGMENTS")

    @pytest.mark.parametrize("shape", [(2,), (2, 1)])
    @pytest.mark.parametrize("binary_output", [True, False])
    def test_tritons_client_gets_the_json_answers(
        self, server: Running, client: triton.InferenceServerClient, shape: tuple[int, ...], binary_output: bool
    ) -> None:
        output = triton.InferRequestedOutput("SEGMENTS", binary_data=binary_output)
        answer = client.infer(
            MODEL, [self.tensor(PICTURE, PICTURE, shape=shape)], outputs=[output], request_id="mine", parameters={"task": "instance"}
        )
        assert answer.get_response()["id"] == "mine"
        segments = answer.as_numpy("SEGMENTS")
        assert segments.shape == shape
        for text in segments.ravel():
            masks = {each["label"]: coco_mask(each["segmentation"]).astype(bool) for each in json.loads(text)["segments"]}
            for label, mask in expected(server, "instance").items():
                np.testing.assert_array_equal(masks[label], mask)

    def test_without_named_outputs(self, client: triton.InferenceServerClient) -> None:
        assert json.loads(client.infer(MODEL, [self.tensor(PICTURE)]).as_numpy("SEGMENTS")[0])["task"] == "panoptic"

    def test_cleaning(self, server: Running, client: triton.InferenceServerClient) -> None:
        asked = {"min_area": 1 + int(expected(server, "panoptic")["blob"].sum()), "merge_labels": "back=ground"}
        answer = json.loads(client.infer(MODEL, [self.tensor(PICTURE)], parameters=asked).as_numpy("SEGMENTS")[0])
        assert [each["label"] for each in answer["segments"]] == ["back"]
        assert answer["cleaning"]["dropped_small"] == 1

    def test_plain_json(self, server: Running) -> None:
        tensor = {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [base64_of(PICTURE)["base64"]]}
        answer = http.post(
            f"{server.url}/v2/models/{MODEL}/versions/1/infer", json={"inputs": [tensor], "parameters": {"task": "semantic"}}
        )
        (output,) = answer.json()["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("SEGMENTS", "BYTES", [1])
        assert json.loads(output["data"][0])["task"] == "semantic"

    def test_the_clients_errors_are_the_services(self, client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="not a picture"):
            client.infer(MODEL, [self.tensor(PICTURE, b"nothing")])
        with pytest.raises(InferenceServerException, match="no model 'other'"):
            client.infer("other", [self.tensor(PICTURE)])
        with pytest.raises(InferenceServerException, match="tusk"):
            client.infer(MODEL, [self.tensor(PICTURE)], parameters={"tusk": "x"})

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"inputs": []}, "one tensor"),
            ({"inputs": [{"name": "X"}]}, "IMAGE"),
            ({"inputs": [{"name": "IMAGE", "datatype": "FP32", "shape": [1], "data": [1.0]}]}, "BYTES"),
            ({"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1, 2], "data": ["AAAA", "AAAA"]}]}, "shape"),
            ({"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [True], "data": ["AAAA"]}]}, "shape"),
            ({"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [2], "data": ["AAAA"]}]}, "2 pictures"),
            ({"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [999], "data": []}]}, "at most"),
            ({"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [7]}]}, "base64"),
            ({"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]}, "binary_data_size"),
        ],
    )
    def test_wrong_tensors_are_400(self, server: Running, change: dict[str, Any], word: str) -> None:
        answer = http.post(f"{server.url}/v2/models/{MODEL}/infer", json=change)
        assert answer.status_code == 400
        assert word in answer.json()["error"]

    def test_cut_binary_data(self, server: Running) -> None:
        head = json.dumps(
            {"inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}]}
        ).encode()
        for body, length in ((head + b"\xff\0\0\0ab", str(len(head))), (head, "9999999"), (head, "x")):
            answer = http.post(f"{server.url}/v2/models/{MODEL}/infer", content=body, headers={"inference-header-content-length": length})
            assert answer.status_code == 400
            assert answer.json().keys() == {"error"}


class TestErrors:
    """What goes wrong in front of a dialect's routes, or in all of them alike, has the dialect's own form too."""

    FORMS = (
        ("/hf", "error"),
        ("/infer/instance_segmentation", "message"),
        (f"/v2/models/{MODEL}/infer", "error"),
    )

    def body(self, path: str, **values: Any) -> dict[str, Any]:
        picture = base64_of(PICTURE)["base64"]
        tensor = {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [picture]}
        bodies: dict[str, dict[str, Any]] = {
            "/hf": {"inputs": picture},
            "/infer/instance_segmentation": {"image": {"type": "base64", "value": picture}},
        }
        return bodies.get(path, {"inputs": [tensor]}) | values

    def check(self, answer: httpx.Response, status: int, member: str, word: str) -> None:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.json().keys() == {member}
        assert word in answer.json()[member]

    @pytest.mark.parametrize(
        ("path", "values", "status", "member"),
        [
            ("/hf/other", {}, 404, "error"),
            ("/infer/instance_segmentation", {"model_id": "other"}, 422, "message"),
            ("/v2/models/other/infer", {}, 404, "error"),
        ],
    )
    def test_a_model_that_is_not_served(self, server: Running, path: str, values: dict[str, Any], status: int, member: str) -> None:
        answer = http.post(f"{server.url}{path}", json=self.body(path.removesuffix("/other"), **values))
        self.check(answer, status, member, "no model 'other'")
        assert MODEL in answer.json()[member]

    @pytest.mark.parametrize(("path", "member"), FORMS)
    def test_a_format_of_another_dialect(self, server: Running, path: str, member: str) -> None:
        """`format` is a parameter of /segment alone; two of the dialects have parameters of their own that say so."""
        values = {"/hf": {"parameters": {"format": "geojson"}}, "/infer/instance_segmentation": {"response_mask_format": "geojson"}}
        answer = http.post(f"{server.url}{path}", json=self.body(path, **values.get(path, {"parameters": {"format": "geojson"}})))
        self.check(answer, 422, member, "format")

    @pytest.mark.parametrize(("path", "member"), FORMS)
    def test_a_body_over_the_limit(self, server: Running, path: str, member: str) -> None:
        answer = http.post(f"{server.url}{path}", content=bytes(3_000_000), headers={"content-type": "application/json"})
        self.check(answer, 413, member, "2000000")

    @pytest.mark.parametrize(("path", "member"), FORMS)
    def test_paths_and_methods_that_are_not_there(self, server: Running, path: str, member: str) -> None:
        self.check(http.get(f"{server.url}{path}"), 405, member, "method")
        self.check(http.post(f"{server.url}{path}/no/such/path", json={}), 404, member, "nothing at this path")

    def test_no_key(self, tmp_path: Path) -> None:
        keys = tmp_path / "keys.yaml"
        keys.write_text(f"keys: [{{name: planner, hash: '{hash_of(key := new_key())}', rights: [plan]}}]")
        with serving(ThresholdPredictor(), keys_file=keys) as server:
            for path, member in self.FORMS:
                answer = http.post(f"{server.url}{path}", json=self.body(path))
                self.check(answer, 401, member, "API key is needed")
                assert answer.headers["www-authenticate"] == "Bearer"
                self.check(http.post(f"{server.url}{path}", json=self.body(path), headers={"x-api-key": key}), 403, member, "the right to")
            with pytest.raises(HfHubHTTPError, match="API key is needed"):
                InferenceClient(model=f"{server.url}/hf").image_segmentation(PICTURE)


def test_requests_of_dialects_are_counted(server: Running) -> None:
    sample = 'proscale_requests_total{status="200",task="instance"}'
    before = metric(server.url, sample)
    TestRoboflow().ask(server)
    assert metric(server.url, sample) == before + 1


def test_the_services_own_faults_have_the_dialects_form_too(server: Running) -> None:
    poison = encoded(np.full((8, 8, 3), ThresholdPredictor.POISON, np.uint8))
    answer = http.post(f"{server.url}/hf", content=poison)
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    body = {"image": {"type": "base64", "value": base64_of(poison)["base64"]}}
    answer = http.post(f"{server.url}/infer/instance_segmentation", json=body)
    assert (answer.status_code, list(answer.json())) == (500, ["message"])
