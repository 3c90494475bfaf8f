"""The paper's claim in small: is PRO-SCALE's encoder as good as Mask2Former's at a part of its cost? One recipe, one budget, several seeds.

    nice python benchmarks/claim.py train --steps 240 [--seeds 0,1] [--only main|parts] [--runs runs/claim] [--out FILE]
    python benchmarks/claim.py seconds [--out FILE]
    python benchmarks/claim.py draw [--out FILE] [--draw docs/images/claim.png] [--document docs/claim.md]

`train` trains and judges every network of `claim_rows.py` on nuclei and drawn scenes, one after the other on one thread, and writes each
row as it is done. It may be killed at any moment: the same command goes on where it was, within 50 steps. `seconds` times a forward pass of
all networks in turns, in the processor time of one thread; take it on a machine that has nothing else to do. `draw` writes the plot and the
tables of docs/claim.md. Without --out rows go to benchmarks/results/claim-PROCESSOR.json.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claim_counts import count
from claim_page import draw, write_tables
from claim_rows import BASELINE, MAIN, PARTS, RECIPE, ROWS, SIDE, Material, Row, open_trainer, read_material
from processor import processor, slug
from tqdm import tqdm

from proscale.allocator import keep_freed_memory
from proscale.config import Task
from proscale.evaluation.predicted import predicted_from
from proscale.flops import count_flops
from proscale.labels import Category
from proscale.network import SegmentationNetwork
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions
from proscale.training.export import export, inference_network
from proscale.training.loop import InterruptedTrainingError, Trainer
from proscale.training.run_state import STATE_FILE

TASKS: tuple[Task, ...] = ("panoptic", "semantic")
CHOICES = {"main": MAIN, "parts": PARTS, "all": ROWS}
ROUNDS = 30


def judge(trainer: Trainer, material: Material) -> dict[str, Any]:
    """Counts of every picture, and the mean FLOPs of one."""
    predictor = Predictor(inference_network(trainer.average), material.categories)
    ids = [category.id for category in material.categories]
    stuff = frozenset(category.id for category in material.categories if not category.isthing)
    pictures, flops = [], []
    for _, image, truth in tqdm(material.judged, unit="picture", desc="judging", leave=False):
        prediction = predictor.segment([image], [SegmentationOptions(TASKS)])[0]
        found = predicted_from(prediction.results, {number: number for number in ids}, stuff)
        assert found.panoptic is not None
        assert found.semantic is not None  # both were asked for
        pictures.append(count(truth, found.panoptic, found.semantic, ids))
        size = (image.shape[0], image.shape[1])
        flops.append(count_flops(predictor.config, prediction.plan.padded, size, ("panoptic",)))
    parts = {"gflops": "total", "pixel_decoder_gflops": "pixel_decoder", "encoder_gflops": "encoder"}
    said = {name: round(float(np.mean([getattr(one, part) for one in flops])) / 1e9, 5) for name, part in parts.items()}
    return said | {"pictures": pictures}


def train_row(row: Row, seed: int, steps: int, folder: Path, material: Material) -> dict[str, Any]:
    """One network of one seed, trained to the end and judged; its state is taken up where there is one."""
    trainer = open_trainer(row, seed, steps, folder, material.categories)
    if trainer.step < steps:
        trainer.run(material.pictures.__getitem__, len(material.pictures), material.scenes, workers=0)
    parameters = sum(parameter.numel() for parameter in trainer.learner.network.parameters())
    export(trainer.average, folder / "model", material.categories)
    return {"row": row.name, "seed": seed, "parameters": parameters} | judge(trainer, material)


def train(args: argparse.Namespace) -> None:
    """Every row that the file lacks."""
    held = read(args.out)
    recipe = {"steps": args.steps, "side": SIDE, "scenes_judged": args.scenes, "settings": json.loads(json.dumps(asdict(RECIPE)))}
    if held["rows"] and held["about"]["recipe"] != recipe:
        sys.exit(f"{args.out} holds rows of another recipe, which cannot be compared with these. Name another --out.")
    wanted = [(row, seed) for seed in args.seeds for row in CHOICES[args.only] if row.name in (args.names or [each.name for each in ROWS])]
    done = {(row["row"], row["seed"]) for row in held["rows"]}
    left = [(row, seed) for row, seed in wanted if (row.name, seed) not in done]
    if not left:
        print("every row is there")
        return
    material = read_material(args.data, args.scenes)
    held["about"] |= {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": processor(),
        "torch": torch.__version__,
        "threads": 1,
        "command": " ".join(sys.argv),
        "recipe": recipe,
        "categories": [asdict(category) for category in material.categories],
        "sources": [source for source, _, _ in material.judged],
    }
    for row, seed in left:
        folder = args.runs / f"{row.name.lower().replace(' ', '-')}-{seed}"
        print(f"{row.name}, seed {seed}", flush=True)
        result = train_row(row, seed, args.steps, folder, material)
        held["rows"].append(result)
        write(args.out, held)
        (folder / STATE_FILE).unlink()  # the row is safe, and the model with it


def measure_seconds(args: argparse.Namespace) -> None:
    """Processor time of one thread for one forward pass, the least of interleaved rounds; random weights, which change no time."""
    held = read(args.out)
    sizes = {"small": (SIDE, SIDE), "large": (640, 640)}
    networks, seconds = {}, dict[str, dict[str, list[float]]]()
    for row in ROWS:
        torch.manual_seed(0)
        categories = categories_of(held)
        networks[row.name] = Predictor(SegmentationNetwork(row.config(len(categories))), categories).network
    before = os.getloadavg()[0]
    with torch.inference_mode():
        for name, size in sizes.items():
            images = torch.randn(1, 3, *size).to(memory_format=torch.channels_last)
            rounds = args.rounds if name == "small" else max(args.rounds // 4, 3)
            for turn in tqdm(range(rounds + 1), unit="round", desc=name, leave=False):
                for title, network in networks.items():
                    started = time.process_time()
                    network.predict(images)
                    if turn:
                        seconds.setdefault(title, {}).setdefault(name, []).append(time.process_time() - started)
    load = [round(before, 2), round(os.getloadavg()[0], 2)]
    least = {title: {name: round(min(values), 5) for name, values in by_size.items()} for title, by_size in seconds.items()}
    middle = {title: {name: round(float(np.median(values)), 5) for name, values in by_size.items()} for title, by_size in seconds.items()}
    classes = len(categories_of(held))
    gflops = {
        row.name: {name: round(count_flops(row.config(classes), size, size, ("panoptic",)).total / 1e9, 4) for name, size in sizes.items()}
        for row in ROWS
    }
    held["seconds"] = {
        "what": f"processor seconds of one thread for a forward pass, least and median of {args.rounds} interleaved rounds (a quarter "
        "of them at 640x640)",
        "sizes": sizes,
        "hardware": processor(),
        "date": time.strftime("%Y-%m-%d"),
        "load_before_and_after": load,
        "least": least,
        "median": middle,
        "gflops": gflops,
    }
    write(args.out, held)
    print(f"load {load[0]} before, {load[1]} after: more than about 1 means that others were at work")
    for title, values in least.items():
        print(f"{title:<34}" + "".join(f"{values[name] / least[BASELINE][name]:>8.3f}" for name in sizes))


def categories_of(held: dict[str, Any]) -> tuple[Category, ...]:
    """The classes that the file names."""
    return tuple(Category(**values) for values in held["about"]["categories"])


def read(path: Path) -> dict[str, Any]:
    """What the file holds, or nothing yet."""
    if not path.exists():
        return {"about": {}, "rows": []}
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def write(path: Path, held: dict[str, Any]) -> None:
    """Whole or not at all; a line per row, so that a diff can be read."""
    lines = [f'"{name}": {json.dumps(value)}' for name, value in held.items() if name != "rows"]
    rows = ",\n  ".join(json.dumps(row) for row in held["rows"])
    temporary = path.with_suffix(".tmp")
    temporary.write_text("{\n " + ",\n ".join([*lines, f'"rows": [\n  {rows}\n ]']) + "\n}\n")
    temporary.replace(path)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "seconds", "draw"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"claim-{slug()}.json")
    parser.add_argument("--data", type=Path, default=Path("data/nuclei"))
    parser.add_argument("--runs", type=Path, default=Path("runs/claim"), help="folder of states and models")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1])
    parser.add_argument("--only", choices=CHOICES, default="all")
    parser.add_argument("--names", nargs="*", help="these networks alone")
    parser.add_argument("--scenes", type=int, default=40, help="drawn scenes that are judged on")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--draw", type=Path, default=Path("docs/images/claim.png"))
    parser.add_argument("--document", type=Path, default=Path("docs/claim.md"))
    return parser.parse_args(arguments)


def main() -> None:
    """Do what is asked."""
    args = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.what == "train":
        try:
            train(args)
        except (InterruptedTrainingError, KeyboardInterrupt):
            sys.exit("\nstopped; the state is saved, and the same command goes on")
    elif args.what == "seconds":
        measure_seconds(args)
    else:
        held = read(args.out)
        draw(held, args.draw)
        write_tables(held, args.document)


if __name__ == "__main__":
    main()
