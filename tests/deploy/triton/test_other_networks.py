"""SegFormer and EoMT, as transformers saves them, converted, behind a real Triton server and a gateway without torch."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.deploy.triton.server import TritonServer, needs_triton
from tests.deploy.triton.test_gateway import OCTETS, gateway
from tests.model.checkpoints.semantic_peers import peer_eomt, peer_segformer
from tests.service.pictures import encoded
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from proscale.checkpoints.convert import Request, convert
from proscale.checkpoints.write_folders import write
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.worker_swap import swap
from proscale_service.client import Client

pytestmark = [pytest.mark.slow, needs_triton]
FLOPS = 'proscale_worker_flops_total{model="proscale",version="1"}'


def segformer() -> tuple[Any, Any]:
    return peer_segformer(), SegformerImageProcessorPil(size={"height": 96, "width": 128})


def eomt() -> tuple[Any, Any]:
    return peer_eomt(), EomtImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)


@pytest.mark.parametrize("make", [segformer, eomt])
def test_a_converted_model_behind_triton(triton: TritonServer, tmp_path: Path, picture: np.ndarray, make: Any) -> None:
    peer, processor = make()
    peer.save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "theirs")
    write(convert(str(tmp_path / "theirs"), Request(labels="numbered")), tmp_path / "ours")
    predictor = Predictor.load(tmp_path / "ours")
    task = predictor.config.tasks[0]
    swap(f"http://127.0.0.1:{triton.http_port}", "proscale", str(tmp_path / "ours"))
    before = triton.metrics().get(FLOPS, 0.0)
    try:
        with gateway(triton) as url, Client(url) as client:
            (model,) = httpx.get(f"{url}/models").json()["models"]
            assert (model["name"], model["tasks"]) == (predictor.config.name, list(predictor.config.tasks))
            for pixels in (picture, picture[:41].transpose(1, 0, 2).copy()):
                answer = client.segment(pixels, threshold=0.05)
                (direct,) = predictor.segment([pixels], [SegmentationOptions((task,), threshold=0.05)])
                expected = direct.results[task].segments
                assert [(s.category_id, s.segmentation) for s in answer.segments] == [(s.category_id, s.segmentation) for s in expected]
                assert answer.segments
            asked = httpx.post(f"{url}/segment?task=instance", content=encoded(picture, "PNG"), headers=OCTETS, timeout=60)
            assert asked.status_code == (422 if task == "semantic" else 200), asked.text
        assert triton.metrics()[FLOPS] > before
    finally:
        swap(f"http://127.0.0.1:{triton.http_port}", "proscale", "")
