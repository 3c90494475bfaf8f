import re

from ..pictures import encoded, gradient, png_header
from ..predictors import ThresholdPredictor
from ..serving import Running, http
from .asking import PICTURE, base64_of, in_json, post, problem


def test_a_plan_from_a_header_and_from_numbers(server: Running, engine: ThresholdPredictor) -> None:
    computed = len(engine.batches)
    by_picture = post(server, encoded(gradient(50, 70))[:200], "/segment/plan").json()
    by_numbers = http.post(f"{server.url}/segment/plan?width=70&height=50").json()
    as_json = in_json(server, "/segment/plan", width=70, height=50).json()
    read = http.get(f"{server.url}/segment/plan?width=70&height=50").json()
    picture_first = post(server, encoded(gradient(50, 70)), "/segment/plan", width=5, height=5).json()
    for body in (by_picture, by_numbers, as_json, read, picture_first):
        assert body["image"] == {"width": 70, "height": 50, "orientation_applied": 1}
        assert (body["resized_size"], body["compute"]["padded_size"]) == ([50, 70], [64, 96])
        assert body["compute"]["saved_ratio"] == 0.25
    assert len(engine.batches) == computed


def test_plans_that_are_wrong(server: Running) -> None:
    problem(http.post(f"{server.url}/segment/plan"), 400, "malformed")
    problem(http.post(f"{server.url}/segment/plan?width=70"), 422, "invalid-parameter")
    problem(http.post(f"{server.url}/segment/plan?width=0&height=5"), 422, "invalid-parameter")
    problem(in_json(server, "/segment/plan", image=base64_of(PICTURE), width=5, height=5), 422, "invalid-parameter")
    problem(http.get(f"{server.url}/segment/plan"), 400, "malformed")
    problem(http.get(f"{server.url}/segment/plan?height=5"), 422, "invalid-parameter")
    assert http.delete(f"{server.url}/segment/plan").headers["allow"] == "GET, HEAD, POST"
    problem(post(server, png_header(20000, 20000), "/segment/plan"), 413, "too-many-pixels")


def test_a_cut_header_says_how_much_is_needed(server: Running) -> None:
    whole = encoded(gradient(50, 70), "JPEG", icc_profile=bytes(240_000))
    first, tries = whole[:65536], 0
    while (response := post(server, first, "/segment/plan")).status_code != 200:
        needed = re.search(r"send at least (\d+) bytes", problem(response, 422, "undecodable-image"))
        assert needed is not None
        first, tries = whole[: int(needed[1])], tries + 1
    assert response.json()["image"]["width"] == 70
    assert tries <= 20
