"""Published quality against what a picture costs here: measures every network on one picture and draws docs/images/models.png.

    python benchmarks/models.py [--out FILE] [--draw FILE] [--document FILE] [--networks NAME,NAME]

Without --out rows go to benchmarks/results/models-PROCESSOR.json. --document writes the tables into docs/models.md. Five minutes.

One picture of 640x480 pixels through each network at the size it was published with, random weights, no post-processing: the processor
time of one thread, the less of two runs. Rows join those that FILE holds. Quality is what the authors published, on their data set and at
their size; it is not measured here.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from models_page import quality_table, replace_tables
from processor import processor, slug

from proscale.allocator import keep_freed_memory
from proscale.any_network import build_network
from proscale.config import MASK2FORMER, PROSCALE, RESNET_50, SWIN_T, ModelConfig, NetworkConfig
from proscale.geometry import padded_size, resized_size
from proscale.network_flops import count_baseline, count_network
from proscale.packed_network import pack
from proscale.published import PUBLISHED

PICTURE = (480, 640)
MIT, NVIDIA = "MIT", "NVIDIA: research or evaluation only"
NETWORKS: dict[str, tuple[NetworkConfig, str, float, str]] = {
    "PRO-SCALE R50": (ModelConfig("PRO-SCALE R50", 133, RESNET_50, PROSCALE), "PQ", 51.44, "non-commercial"),
    "PRO-SCALE Swin-T": (ModelConfig("PRO-SCALE Swin-T", 133, SWIN_T, PROSCALE), "PQ", 52.88, "non-commercial"),
    "Mask2Former R50": (ModelConfig("Mask2Former R50", 133, RESNET_50, MASK2FORMER), "PQ", 51.9, "CC BY-NC 4.0"),
    "Mask2Former Swin-T": (ModelConfig("Mask2Former Swin-T", 133, SWIN_T, MASK2FORMER), "PQ", 53.2, "CC BY-NC 4.0"),
    "EoMT-S": (PUBLISHED["eomt-s"](133), "PQ", 46.7, MIT),
    "EoMT-B": (PUBLISHED["eomt-b"](133), "PQ", 51.6, MIT),
    "EoMT-B DINOv3": (PUBLISHED["eomt-b-dinov3"](133), "PQ", 53.1, "MIT, on Meta's DINOv3 licence"),
    "SegFormer-B0": (PUBLISHED["segformer-b0"](150), "mIoU", 37.4, NVIDIA),
    "SegFormer-B1": (PUBLISHED["segformer-b1"](150), "mIoU", 42.2, NVIDIA),
    "SegFormer-B2": (PUBLISHED["segformer-b2"](150), "mIoU", 46.5, NVIDIA),
    "SegFormer-B3": (PUBLISHED["segformer-b3"](150), "mIoU", 49.4, NVIDIA),
    "SegFormer-B5": (PUBLISHED["segformer-b5"](150), "mIoU", 51.0, NVIDIA),
    "SegViT-B": (PUBLISHED["segvit-b"](150), "mIoU", 51.3, "non-commercial"),
    "SegViT-L Shrunk": (PUBLISHED["segvit-l-shrunk"](150), "mIoU", 53.9, "non-commercial"),
    "SETR-PUP": (PUBLISHED["setr-pup"](150), "mIoU", 48.24, "Apache-2.0"),
}
"""Name -> network, published metric (PQ on COCO val, mIoU on ADE20K val, one scale), its value in percent, licence of the weights."""
SIZES = {
    "SegFormer-B5": "SegFormer-B5 (640)",
    "SegViT-B": "SegViT-B (windows of 512)",
    "SegViT-L Shrunk": "SegViT-L Shrunk (windows of 640)",
}
SIZES["SETR-PUP"] = "SETR-PUP (windows of 512)"
"""How tables call those whose sizes are not the usual ones."""


def measure(config: NetworkConfig, runs: int = 2) -> dict[str, Any]:
    """GFLOPs and seconds of one picture."""
    padded = padded_size(*resized_size(*PICTURE, config.preprocess), config.preprocess)
    network = build_network(config).eval().requires_grad_(False)
    network.fold()
    pack(network)
    images, seconds = torch.randn(1, 3, *padded), []
    with torch.inference_mode():
        for _ in range(runs):
            started = time.process_time()
            network.predict(images)
            seconds.append(time.process_time() - started)
    flops, published = (count(config, padded, PICTURE, config.tasks[:1]).total / 1e9 for count in (count_network, count_baseline))
    counted = {"gflops": round(flops, 1), "published_gflops": round(published, 1)}
    return {"input": list(padded), **counted, "seconds": round(min(seconds), 3)}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel per metric: quality over seconds, named points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, metric, what in zip(figure.subplots(1, 2), ("PQ", "mIoU"), ("panoptic, COCO", "semantic, ADE20K"), strict=True):
        shown = [row for row in rows if row["metric"] == metric]
        axes.scatter([row["seconds"] for row in shown], [row["quality"] for row in shown])
        for row in shown:
            # The lower of two that lie close has its name below it.
            below = any(1 < other["seconds"] / row["seconds"] < 1.2 and 0 <= other["quality"] - row["quality"] < 0.7 for other in shown)
            place = {"xytext": (4, -4), "va": "top"} if below else {"xytext": (4, 4), "va": "bottom"}
            axes.annotate(row["network"], (row["seconds"], row["quality"]), textcoords="offset points", fontsize=8, **place)
        axes.set(xscale="log", xlabel="seconds a picture, one thread", ylabel=f"published {metric}, %", title=what)
        axes.margins(0.2, 0.15)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"models-{slug()}.json")
    parser.add_argument("--draw", type=Path)
    parser.add_argument("--document", type=Path, help="the page whose tables are written anew, docs/models.md")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="by default all; none to draw alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = {row["network"]: row for row in json.loads(args.out.read_text())["rows"]} if args.out.exists() else {}
    for name in filter(None, args.networks.split(",")):
        config, metric, quality, licence = NETWORKS[name]
        said = {"network": name, "title": SIZES.get(name, name), "metric": metric, "quality": quality, "licence": licence}
        rows[name] = said | measure(config)
        print(json.dumps(rows[name]), flush=True)
        about = {"date": time.strftime("%Y-%m-%d"), "hardware": processor(), "torch": torch.__version__}
        args.out.write_text(json.dumps({"about": about, "rows": list(rows.values())}, indent=1) + "\n")
    ordered = [rows[name] for name in NETWORKS if name in rows]
    if args.document:
        replace_tables(
            args.document, {metric: quality_table(ordered, metric, json.loads(args.out.read_text())["about"]) for metric in ("PQ", "mIoU")}
        )
    if args.draw:
        draw(ordered, args.draw)


if __name__ == "__main__":
    main()
