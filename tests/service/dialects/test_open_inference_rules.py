"""The rules of the Open Inference Protocol's REST part and its binary extension, one by one, by plain HTTP.

What must be where, of which type, and which status, as KServe's `rest_predict_v2` document and Triton's extension say it; that their
clients understand it is tested beside this.
"""

import json
import struct
from typing import Any

import jsonschema
import pytest

from ..predictors import ThresholdPredictor
from ..routes.asking import PICTURE, base64_of
from ..serving import Running, http, serving

MODEL = "threshold"
TENSOR: dict[str, Any] = {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [base64_of(PICTURE)["base64"]]}
STRING, COUNT = {"type": "string"}, {"type": "integer", "minimum": 1}
SCALARS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}


def record(required: str, optional: str = "", **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object that has these members and no others."""
    names = [*required.split(), *optional.split()]
    assert set(names) == properties.keys()
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


METADATA_TENSOR = record(
    "name datatype shape",
    name=STRING,
    datatype={"enum": ["BOOL", "UINT8", "INT32", "FP32", "BYTES"]},
    shape={"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": -1}},
)
SERVER = record("name version extensions", name=STRING, version=STRING, extensions={"type": "array", "items": STRING})
METADATA = record(
    "name platform inputs outputs",
    "versions",
    name=STRING,
    versions={"type": "array", "items": STRING},
    platform=STRING,
    inputs={"type": "array", "items": METADATA_TENSOR},
    outputs={"type": "array", "items": METADATA_TENSOR},
)
OUTPUT = record(
    "name shape datatype data",
    "parameters",
    name=STRING,
    shape={"type": "array", "items": COUNT},
    datatype={"const": "BYTES"},
    data={"type": "array", "items": STRING},
    parameters=SCALARS,
)
ANSWER = record(
    "model_name outputs",
    "model_version id parameters",
    model_name=STRING,
    model_version=STRING,
    id=STRING,
    parameters=SCALARS,
    outputs={"type": "array", "minItems": 1, "items": OUTPUT},
)
READY, MODEL_READY = record("ready", ready={"type": "boolean"}), record("name ready", name=STRING, ready={"type": "boolean"})
LIVE, ERROR = record("live", live={"type": "boolean"}), record("error", error={"type": "string", "minLength": 1})


def get(server: Running, path: str, schema: dict[str, Any], status: int = 200) -> Any:
    answer = http.get(f"{server.url}{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    jsonschema.validate(answer.json(), schema)
    return answer.json()


def infer(server: Running, status: int = 200, version: str = "", **body: Any) -> Any:
    answer = http.post(f"{server.url}/v2/models/{MODEL}{version}/infer", json={"inputs": [TENSOR]} | body)
    assert answer.status_code == status, answer.text
    jsonschema.validate(answer.json(), ANSWER if status == 200 else ERROR)
    return answer.json()


def test_health_is_told_by_status_and_body(server: Running) -> None:
    assert get(server, "/v2/health/live", LIVE) == {"live": True}
    assert get(server, "/v2/health/ready", READY) == {"ready": True}


def test_live_before_it_is_ready() -> None:
    with serving(ThresholdPredictor(), wait=False) as server:
        assert get(server, "/v2/health/live", LIVE) == {"live": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_models_readiness_and_metadata(server: Running, version: str) -> None:
    assert get(server, f"/v2/models/{MODEL}{version}/ready", MODEL_READY) == {"name": MODEL, "ready": True}
    told = get(server, f"/v2/models/{MODEL}{version}", METADATA)
    assert told["name"] == MODEL
    # What is described is what is taken and given.
    answer = infer(server, version=version)
    assert [each["name"] for each in told["inputs"]] == [TENSOR["name"]]
    assert [each["name"] for each in told["outputs"]] == [each["name"] for each in answer["outputs"]]
    assert [each["datatype"] for each in told["outputs"]] == [each["datatype"] for each in answer["outputs"]]


def test_server_metadata(server: Running) -> None:
    assert "binary_tensor_data" in get(server, "/v2", SERVER)["extensions"]
    get(server, "/v2/", SERVER)


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/other/ready", f"/v2/models/{MODEL}/versions/7", "/v2/nothing"])
def test_what_is_not_there_is_an_error_in_its_form(server: Running, path: str) -> None:
    get(server, path, ERROR, 404)


def test_the_answer_repeats_model_version_id_and_shape(server: Running) -> None:
    answer = infer(server, id="7b3", version="/versions/1")
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (MODEL, "1", "7b3")
    assert answer["outputs"][0]["shape"] == [1]
    assert len(answer["outputs"][0]["data"]) == 1


def test_data_may_be_nested_or_flat(server: Running) -> None:
    """Multi-dimensional data is row-major, and a list of lists or one list."""
    data = TENSOR["data"] * 2
    shapes = ([2], [2, 1], [2, 1])
    for shape, given in zip(shapes, (data, data, [[each] for each in data]), strict=True):
        (output,) = infer(server, inputs=[TENSOR | {"shape": shape, "data": given}])["outputs"]
        assert output["shape"] == shape
        assert len(output["data"]) == 2


def test_only_outputs_that_are_asked_for_and_known_ones(server: Running) -> None:
    assert [each["name"] for each in infer(server, outputs=[{"name": "SEGMENTS"}])["outputs"]] == ["SEGMENTS"]
    infer(server, 422, outputs=[{"name": "SEGMENTS"}, {"name": "MASKS"}])


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": None},
        {"inputs": [TENSOR, TENSOR]},
        {"inputs": [TENSOR | {"name": "OTHER"}]},
        {"inputs": [TENSOR | {"datatype": "FP32"}]},
        {"inputs": [TENSOR | {"shape": [3]}]},
        {"inputs": [TENSOR | {"shape": "1"}]},
        {"inputs": [{key: value for key, value in TENSOR.items() if key != "data"}]},
        {"parameters": [1]},
        {"inputs": [TENSOR | {"parameters": [1]}]},
        {"outputs": {"name": "SEGMENTS"}},
        {"outputs": [{"name": "SEGMENTS", "parameters": 3}]},
        {"id": 7},
    ],
)
def test_bodies_that_break_the_schema_are_refused(server: Running, body: dict[str, Any]) -> None:
    answer = http.post(f"{server.url}/v2/models/{MODEL}/infer", json={"inputs": [TENSOR]} | body)
    assert 400 <= answer.status_code < 500, answer.text
    jsonschema.validate(answer.json(), ERROR)


class TestBinary:
    def ask(self, server: Running, *, name: bool = True, **parameters: Any) -> Any:
        elements = struct.pack("<I", len(PICTURE)) + PICTURE
        tensor = {key: value for key, value in TENSOR.items() if key != "data"} | {"parameters": {"binary_data_size": len(elements)}}
        outputs = {"outputs": [{"name": "SEGMENTS", "parameters": parameters}]} if name else {"parameters": parameters}
        head = json.dumps({"inputs": [tensor]} | outputs).encode()
        headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
        return http.post(f"{server.url}/v2/models/{MODEL}/infer", content=head + elements, headers=headers)

    @pytest.mark.parametrize(("name", "wish"), [(True, "binary_data"), (False, "binary_data_output")])
    def test_binary_in_and_out(self, server: Running, name: bool, wish: str) -> None:
        answer = self.ask(server, name=name, **{wish: True})
        length = int(answer.headers["inference-header-content-length"])
        head = json.loads(answer.content[:length])
        (output,) = head["outputs"]
        assert "data" not in output
        elements = answer.content[length:]
        assert output["parameters"] == {"binary_data_size": len(elements)}
        assert struct.unpack_from("<I", elements)[0] == len(elements) - 4
        assert json.loads(elements[4:])["task"] == "panoptic"

    def test_binary_in_json_out(self, server: Running) -> None:
        answer = self.ask(server, binary_data=False)
        assert "inference-header-content-length" not in answer.headers
        jsonschema.validate(answer.json(), ANSWER)
