from ..pictures import encoded, gradient
from ..serving import Running, http
from .asking import BOX, PICTURE, base64_of, in_json, problem


def test_a_batch_answers_per_picture(server: Running) -> None:
    good, bad = PICTURE, encoded(gradient(), "JPEG")[:200]
    in_form = http.post(
        f"{server.url}/segment/batch", files=[("image", ("a", each)) for each in (good, bad, good)], data={"labels": "blob"}
    )
    as_json = in_json(server, "/segment/batch", images=[base64_of(each) for each in (good, bad, good)], labels=["blob"])
    for response in (in_form, as_json):
        assert response.status_code == 200, response.text
        items = response.json()["items"]
        assert [item["index"] for item in items] == [0, 1, 2]
        assert items[0]["result"]["segments"][0]["bbox"] == list(BOX)
        assert items[1]["error"]["status"] == 422
        assert "result" not in items[1]
        assert items[2]["result"]["segments"] == items[0]["result"]["segments"]


def test_batches_are_bounded(server: Running) -> None:
    files = [("image", ("a", PICTURE)) for _ in range(5)]
    problem(http.post(f"{server.url}/segment/batch", files=files), 400, "malformed")
    problem(in_json(server, "/segment/batch", images=[base64_of(PICTURE)] * 5), 400, "malformed")
    problem(in_json(server, "/segment/batch", images=[]), 400, "malformed")
    problem(in_json(server, "/segment/batch", images="abc"), 400, "malformed")
    problem(in_json(server, "/segment/batch", images=[base64_of(PICTURE)], threshold=7), 422, "invalid-parameter")
