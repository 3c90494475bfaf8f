"""The service in front of an engine that computes elsewhere, and that may be away."""

from ..engines_remote import RemoteThreshold
from ..pictures import blob, encoded
from ..serving import http, metric, serving

OCTETS = {"content-type": "application/octet-stream"}


def test_ready_follows_the_engine() -> None:
    engine = RemoteThreshold(batch_size=2, up=False)
    with serving(engine) as server:
        assert http.get(f"{server.url}/health/startup").status_code == 200
        for _ in range(2):
            for response in (
                http.get(f"{server.url}/health/ready"),
                http.get(f"{server.url}/models"),
                http.post(f"{server.url}/segment", content=encoded(blob()), headers=OCTETS),
                http.post(f"{server.url}/segment/plan?width=9&height=9"),
            ):
                assert response.status_code == 503
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["type"].endswith(":unavailable")
            assert metric(server.url, "proscale_engine_up") == 0
            engine.up = True
            engine.changed()
            assert http.get(f"{server.url}/health/ready").status_code == 200
            assert metric(server.url, "proscale_engine_up") == 1
            answer = http.post(f"{server.url}/segment", content=encoded(blob()), headers=OCTETS).json()
            assert answer["compute"]["batch_size"] == 2
            assert answer["timings_ms"]["infer"] == 2
            assert answer["segments"][0]["label"] == "blob"
            engine.up = False
            engine.changed()
    assert engine.closed
