"""SegFormer, SETR and EoMT against transformers and OpenVINO on the same network, random weights, in one run.

    python benchmarks/networks.py [--networks segformer-b0,setr-pup,eomt-b] [--threads 2] [--clock wall] [--device cpu] [--out FILE]

Without --out rows go to benchmarks/results/networks-PROCESSOR.json, each as soon as it is measured; rows that the file holds of the same
processor, threads and clock stay. --document writes the table into docs/models.md. A quarter of an hour on two processors.

Two things are timed. `network`: normalised pixels to logits. `whole`: a decoded picture to results, RLE here, maps there. Contenders take
turns, and the least of the rounds counts, because whatever else the machine does only adds. On a machine that others load, take
`--threads 1 --clock processor`: the processor time of one thread, which neighbours hardly change. OpenVINO joins where it is installed
(`requirements/bench.txt`); it is given the peer's network, for one size. SETR has no class in transformers: its peer is the network as
published, by torch. `gemm_share` is the share that our network reaches of torch's best matrix product in the same run.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models_page import peer_table, read, replace_tables
from openvino_form import in_openvino
from processor import processor, slug
from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from proscale.allocator import keep_freed_memory
from proscale.any_network import Network, build_network
from proscale.config import EomtModelConfig, MixTransformerConfig, NetworkConfig, SemanticModelConfig
from proscale.cuda_graphs import GraphedNetwork
from proscale.labels import contiguous_categories
from proscale.network_flops import count_baseline, count_network, network_cost
from proscale.precision import cpu_bfloat16
from proscale.predictor import Predictor
from proscale.published import PUBLISHED
from proscale.results import SegmentationOptions
from proscale.semantic_network import SemanticNetwork

NETWORKS = ("segformer-b0", "segformer-b2", "setr-pup", "eomt-s", "eomt-b")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
PICTURE = (480, 640)
"""(height, width) in pixels of the picture of the whole way."""


class AsPublished(nn.Module):
    """A network for semantic segmentation without its short form, in torch's public functions."""

    def __init__(self, network: SemanticNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():  # no weight wants a gradient, but nothing of ours takes the place of torch's functions
            logits: Tensor = self.network(images).logits
        return logits


def peer_of(config: NetworkConfig) -> Any:
    """The same network elsewhere, and what transformers does before and after it (None for SETR)."""
    if isinstance(config, EomtModelConfig):
        vit = config.backbone
        model = EomtForUniversalSegmentation(
            EomtConfig(
                hidden_size=vit.dim,
                num_hidden_layers=vit.layers,
                num_attention_heads=vit.heads,
                num_labels=config.classes,
                num_blocks=config.query_blocks,
            )
        )
        model.attn_mask_probs.zero_()
        return model.eval(), EomtImageProcessor(do_pad=True)
    assert isinstance(config, SemanticModelConfig)
    if isinstance(config.backbone, MixTransformerConfig):
        mit = config.backbone
        widths = {"hidden_sizes": list(mit.channels), "depths": list(mit.depths), "num_attention_heads": list(mit.heads)}
        model = SegformerForSemanticSegmentation(SegformerConfig(**widths, decoder_hidden_size=config.head.dim, num_labels=config.classes))
        return model.eval(), SegformerImageProcessor(size={"height": 512, "width": 683})
    network = build_network(config)
    assert isinstance(network, SemanticNetwork)
    return AsPublished(network).eval().requires_grad_(False), None


def whole_of_peer(model: Any, processor_: Any, picture: np.ndarray, dtype: torch.dtype, device: str) -> Callable[[], Any]:
    """A decoded picture -> what transformers' post-processing makes of it."""

    def run() -> Any:
        given = processor_(images=picture, return_tensors="pt")
        said = model(given["pixel_values"].to(device, dtype))
        for name in ("logits", "class_queries_logits", "masks_queries_logits"):
            if hasattr(said, name):
                setattr(said, name, getattr(said, name).float())
        sizes = [picture.shape[:2]]
        if isinstance(processor_, EomtImageProcessor):
            return processor_.post_process_panoptic_segmentation(said, target_sizes=sizes)
        return processor_.post_process_semantic_segmentation(said, target_sizes=sizes)

    return run


def least(contenders: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each, the least of the rounds; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            started = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(clock() - started)
    return {name: round(min(values), 4) for name, values in seconds.items()}


def gemm_peak(clock: Callable[[], float]) -> float:
    """Multiply-accumulates a second, in billions, of the best of some large float32 products."""
    best = 0.0
    for rows, inner, columns in ((2048, 1024, 4096), (4096, 768, 3072), (1600, 3072, 768)):
        left, right = torch.randn(rows, inner), torch.randn(inner, columns)
        for turn in range(6):
            started = clock()
            torch.mm(left, right)
            if turn:
                best = max(best, rows * inner * columns / (clock() - started) / 1e9)
    return best


def contenders_of(
    name: str, precision: str, threads: int, device: str
) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Of `network`, and of `whole`."""
    dtype = getattr(torch, precision)
    classes = 133 if name.startswith("eomt") else 150
    config = PUBLISHED[name](classes)
    side = 640 if name.startswith("eomt") else 512
    peer, processor_ = peer_of(config)
    network: Network = build_network(config)
    picture = np.random.default_rng(0).integers(0, 256, (*PICTURE, 3), np.uint8)
    predictor = Predictor(network, contiguous_categories(classes), precision=precision, device=device)  # type: ignore[arg-type]
    images = torch.randn(1, 3, side, side, device=device)
    found: dict[str, Callable[[], Any]] = {"ours": lambda: predictor.network.predict(images)}
    whole: dict[str, Callable[[], Any]] = {"ours": lambda: predictor.segment([picture], [SegmentationOptions(config.tasks[:1])])}
    openvino = in_openvino(peer, images, precision, threads) if device == "cpu" and find_spec("openvino") else None
    peer.to(device, dtype)
    if device != "cpu":
        graphed = GraphedNetwork(predictor.network)
        found["ours, CUDA graphs"] = lambda: graphed.predict(images)
    given = images.to(dtype)
    found["published form, torch" if processor_ is None else "transformers"] = lambda: peer(given)
    if openvino is not None:
        found["OpenVINO"] = lambda: openvino(images)
    if processor_ is not None:
        whole["transformers"] = whole_of_peer(peer, processor_, picture, dtype, device)
    return found, whole


def measure(name: str, threads: int, rounds: int, clock: Callable[[], float], device: str) -> list[dict[str, Any]]:
    """Rows of one network, one per precision."""
    config = PUBLISHED[name](133 if name.startswith("eomt") else 150)
    size = (640, 640) if name.startswith("eomt") else (512, 512)
    rows = []
    for precision in ("float32", "bfloat16"):
        if precision == "bfloat16" and device == "cpu" and not cpu_bfloat16()[0]:
            continue
        found, whole = contenders_of(name, precision, threads, device)
        with torch.inference_mode():
            row: dict[str, Any] = {"network": name, "precision": precision, "input": list(size), "seconds": least(found, rounds, clock)}
            row["whole_seconds"] = least(whole, rounds, clock)
        if device == "cpu" and precision == "float32":
            row["gemm_gmacs"] = round(gemm_peak(clock), 1)
            assert isinstance(config, EomtModelConfig | SemanticModelConfig)
            backbone, head = network_cost(config, size, published=False)
            row["gemm_share"] = round((backbone.products + head.products) / 1e9 / row["seconds"]["ours"] / row["gemm_gmacs"], 3)
        row["gflops"] = round(count_network(config, size, size, config.tasks[:1]).total / 1e9, 2)
        row["published_gflops"] = round(count_baseline(config, size, size, config.tasks[:1]).total / 1e9, 2)
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Under what the rows were measured."""
    hardware = processor() if args.device == "cpu" else torch.cuda.get_device_name()
    said = {"date": time.strftime("%Y-%m-%d"), "hardware": hardware, "torch": torch.__version__, "threads": args.threads}
    said |= {"rounds": args.rounds, "clock": args.clock}
    return said | {"what": "seconds, the least of interleaved rounds; random weights", "command": " ".join(sys.argv)}


def main() -> None:
    """Print a row per network and precision, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"networks-{slug()}.json")
    parser.add_argument("--document", type=Path, help="the page whose table is written anew, docs/models.md")
    args = parser.parse_args()
    if unknown := set(args.networks.split(",")) - set(PUBLISHED):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(PUBLISHED)}")
    if args.device == "cpu" and not find_spec("openvino"):
        print("OpenVINO is not installed and will not take part (pip install -r requirements/bench.txt)", file=sys.stderr)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    said = about(args)
    held: dict[str, Any] = read(args.out) if args.out.exists() else {"about": said, "rows": []}
    same = {key: held["about"].get(key) for key in ("hardware", "threads", "clock")} == {
        key: said[key] for key in ("hardware", "threads", "clock")
    }
    rows = {(row["network"], row["precision"]): row for row in held["rows"]} if same else {}
    for name in args.networks.split(","):
        for row in measure(name, args.threads, args.rounds, CLOCKS[args.clock], args.device):
            rows[row["network"], row["precision"]] = row
            args.out.write_text(json.dumps({"about": said, "rows": list(rows.values())}, indent=1) + "\n")
    if args.document:
        replace_tables(args.document, {"peers": peer_table(read(args.out))})


if __name__ == "__main__":
    main()
