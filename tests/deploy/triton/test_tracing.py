"""One trace through both processes: from a caller's span through the gateway and gRPC into the worker behind a real Triton."""

import pytest
from tests.deploy.triton.server import TritonServer, needs_triton
from tests.service.collector import Collector
from tests.service.pictures import blob, encoded
from tests.service.serving import http, process, until

pytestmark = [pytest.mark.slow, needs_triton]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NO_TORCH = "import sys; sys.modules['torch'] = None  # importing it fails from here on"


def test_a_trace_reaches_into_the_worker(triton: TritonServer, collector: Collector) -> None:
    settings = {"PROSCALE_ENGINE": "triton", "PROSCALE_TRITON_URL": triton.url, "PROSCALE_OTLP_ENDPOINT": collector.url}
    with process(first=NO_TORCH, **settings) as (url, _):
        until(lambda: http.get(f"{url}/health/ready").status_code == 200)
        headers = {"content-type": "image/png", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert http.post(f"{url}/segment", content=encoded(blob()), headers=headers).status_code == 200
        wanted = {"proscale-worker/worker", "proscale-worker/inference", "proscale/triton", "proscale/POST /segment"}
        until(lambda: wanted <= collector.of_trace(TRACE).keys())
    spans = collector.of_trace(TRACE)
    root, call, worker = (spans[name] for name in ("proscale/POST /segment", "proscale/triton", "proscale-worker/worker"))
    assert (root.parent_id, call.parent_id, worker.parent_id) == (PARENT, root.span_id, call.span_id)
    assert call.attributes == {"server": triton.url}
    parts = {"wait", "preprocess", "inference", "postprocess", "encode"}
    assert {spans[f"proscale-worker/{part}"].parent_id for part in parts} == {worker.span_id}
    # Clocks of one machine.
    assert call.began <= worker.began <= spans["proscale-worker/inference"].began
    assert worker.ended <= root.ended
    assert spans["proscale-worker/inference"].ended > spans["proscale-worker/inference"].began
