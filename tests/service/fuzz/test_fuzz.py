"""A few hundred mutated requests: no error of the server's own, nothing left open. `benchmarks/fuzz.py` sends as many as wanted."""

import os
import random
import tempfile
import threading
from pathlib import Path

import pytest

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import http, metric, serving, until
from .campaign import AT_ONCE, descriptors, files_below, nth, run, settles
from .mutants import mutant, originals

COUNT = 300
SEED = 20


@pytest.mark.slow
def test_no_request_causes_a_server_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving(
        ThresholdPredictor(), upload_timeout_s=1.0, keep_alive_s=2.0, max_pixels=1_000_000, log_level="error", decode_threads=2
    ) as server:
        run(server.url, SEED, range(AT_ONCE))  # what happens once per process
        before = descriptors(os.getpid()), threading.active_count()
        result = run(server.url, SEED, range(COUNT))
        assert not result.wrong, result.wrong[:3]
        assert result.counts.keys() >= {200, 400, 422}, "the attempts are all of one kind"
        assert settles(lambda: descriptors(os.getpid()), before[0]) <= before[0]
        assert threading.active_count() <= before[1] + AT_ONCE, "threads that read pictures"
        assert not files_below(tmp_path)
        assert server.pipeline.admission.pictures == server.pipeline.admission.pixels == 0
        until(lambda: metric(server.url, "proscale_queue_depth") == 0)
        for reason in ("internal", "engine_failure"):
            assert metric(server.url, f'proscale_rejected_total{{reason="{reason}"}}') == 0
        answer = http.post(f"{server.url}/segment", content=encoded(blob()), headers={"content-type": "image/png"})
        assert answer.status_code == 200


@pytest.mark.slow
def test_a_seed_gives_the_same_attempts() -> None:
    assert [nth(1, i) for i in range(30)] == [nth(1, i) for i in range(30)]
    assert nth(1, 0) != nth(2, 0)
    made = {mutant(random.Random(i)) for i in range(200)}
    assert len(made) > 150
    assert len(originals()) > 20
