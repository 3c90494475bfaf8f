"""What parts of the training recipe are worth: the same network, views and number of steps, with one part changed at a time.

    nice python benchmarks/recipe.py train [--steps 600] [--seeds 0,1] [--names NAME ...] [--runs runs/recipe] [--out FILE]
    python benchmarks/recipe.py write [--out FILE] [--document docs/training.md]

`train` starts both decoders of the embedded network from random weights, on its trained backbone, which stays as it is; one thread.
It may be killed at any moment: the same command goes on where it was. `write` puts the table into the document.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claim import judge, read, write
from claim_counts import as_array, panoptic_quality
from claim_rows import RECIPE, Material, read_material
from models_page import in_words, replace_tables
from processor import processor, slug
from torch import Tensor

from proscale.allocator import keep_freed_memory
from proscale.checkpoints.model_folder import DEFAULT_FOLDER, load_folder
from proscale.config import ModelConfig, PreprocessConfig
from proscale.network import SegmentationNetwork
from proscale.training.config import embedded_model_config
from proscale.training.loop import InterruptedTrainingError, Trainer
from proscale.training.run_state import STATE_FILE

SIDE = 224
BASE = replace(RECIPE, crop=SIDE, scene_share=0.3, scene_side=(224, 288))
VARIANTS = {
    "costs over all cells": BASE,
    "costs over 1,024 random cells": replace(BASE, losses=replace(BASE.losses, matching_points=1024)),
    "with 60 pilots": replace(BASE, losses=replace(BASE.losses, pilots=60)),
    "with the dense loss": replace(BASE, losses=replace(BASE.losses, dense_weight=2.0)),
    "with mosaics, a fifth": replace(
        BASE,
        data_augmentation=replace(BASE.data_augmentation, mosaic=0.2),
        scene_augmentation=replace(BASE.scene_augmentation, mosaic=0.2),
    ),
    "crowded pictures more often (0.5)": replace(BASE, crowding=0.5),
}
"""The first is what the others are compared with."""
NUCLEUS = "nucleus"


def network_config(classes: int) -> ModelConfig:
    """The embedded network at this size; every query answers for itself, as published."""
    network = embedded_model_config(classes)
    post = replace(network.postprocess, overlap_threshold=0.5, mask_threshold=0.5, connected=(), min_pixels=1)
    return replace(network, preprocess=PreprocessConfig(short_side=SIDE, long_side=2 * SIDE), postprocess=post)


def beginning(seed: int, config: ModelConfig) -> dict[str, Tensor]:
    """Random decoders on the trained backbone."""
    torch.manual_seed(seed)
    state = SegmentationNetwork(config).state_dict()
    trained = load_folder(DEFAULT_FOLDER)[2]
    return state | {name: value.float() for name, value in trained.items() if name.startswith("backbone.")}


def train_one(name: str, seed: int, steps: int, folder: Path, material: Material) -> dict[str, Any]:
    """One recipe of one seed, trained to the end and judged."""
    config = network_config(len(material.categories))
    trainer = Trainer(folder, replace(VARIANTS[name], steps=steps, seed=seed), config, material.categories)
    if (folder / STATE_FILE).is_file():
        trainer.resume()
    else:
        trainer.start_from(beginning(seed, config), material.categories)
    trainer.learner.network.backbone.requires_grad_(False)
    started = time.process_time()
    taken_up = trainer.step
    if trainer.step < steps:
        trainer.run(material.pictures.__getitem__, len(material.pictures), material.scenes, workers=0)
    seconds = (time.process_time() - started) / max(steps - taken_up, 1)
    ids = [category.id for category in material.categories]
    counts = as_array(judge(trainer, material)["pictures"], ids)
    sources = np.array([source for source, _, _ in material.judged])
    nucleus = ids.index(next(category.id for category in material.categories if category.name == NUCLEUS))
    nuclei = counts[sources == "nuclei"].sum(0)[nucleus]
    return {
        "name": name,
        "seed": seed,
        "processor_seconds_per_step": round(seconds, 4),
        "pq": float(panoptic_quality(counts.sum(0))),
        "pq_nucleus": float(nuclei[0] / max(nuclei[1] + (nuclei[2] + nuclei[3]) / 2, 1)),
        "found_nuclei": float(nuclei[1] / (nuclei[1] + nuclei[3])),
        "pq_scenes": float(panoptic_quality(counts[sources == "scenes"].sum(0))),
    }


def train(args: argparse.Namespace) -> None:
    """Every row that the file lacks."""
    held = read(args.out)
    recipe = {"steps": args.steps, "side": SIDE, "settings": json.loads(json.dumps(asdict(BASE)))}
    if held["rows"] and held["about"]["recipe"] != recipe:
        sys.exit(f"{args.out} holds rows of another recipe, which cannot be compared with these. Name another --out.")
    done = {(row["name"], row["seed"]) for row in held["rows"]}
    left = [(name, seed) for seed in args.seeds for name in args.names or VARIANTS if (name, seed) not in done]
    if not left:
        print("every row is there")
        return
    material = read_material(args.data, args.scenes, BASE)
    held["about"] = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": processor(),
        "torch": torch.__version__,
        "threads": 1,
        "command": " ".join(["python", "benchmarks/recipe.py", *sys.argv[1:]]),
        "recipe": recipe,
        "judged": len(material.judged),
    }
    for name, seed in left:
        folder = args.runs / f"{list(VARIANTS).index(name)}-{seed}"
        print(f"{name}, seed {seed}", flush=True)
        held["rows"].append(train_one(name, seed, args.steps, folder, material))
        print(held["rows"][-1], flush=True)
        write(args.out, held)
        (folder / STATE_FILE).unlink()  # the row is safe


def table(held: dict[str, Any]) -> str:
    """Means over seeds, beside every seed's own."""
    about, rows = held["about"], held["rows"]
    seeds = sorted({row["seed"] for row in rows})
    steps = about["recipe"]["steps"]
    lines = [
        f"{in_words(about['hardware'])}, one thread, {about['date']}; {steps} steps of 2 views of {SIDE} x {SIDE} pixels; "
        f"judged on {about['judged']} pictures. `{about['command']}`",
        "",
        "| | PQ(nucleus) | by seed | nuclei found | PQ of scenes | by seed | processor seconds a step |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in VARIANTS:
        own = [row for seed in seeds for row in rows if row["name"] == name and row["seed"] == seed]
        if not own:
            continue
        mean = {key: float(np.mean([row[key] for row in own])) for key in own[0] if key not in ("name", "seed")}
        each = {key: ", ".join(f"{row[key]:.3f}" for row in own) for key in ("pq_nucleus", "pq_scenes")}
        lines.append(
            f"| {name} | {mean['pq_nucleus']:.3f} | {each['pq_nucleus']} | {mean['found_nuclei']:.3f} | {mean['pq_scenes']:.3f} | "
            f"{each['pq_scenes']} | {mean['processor_seconds_per_step']:.2f} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "write"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"recipe-{slug()}.json")
    parser.add_argument("--data", type=Path, default=Path("data/nuclei"))
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"), help="folder of states")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1])
    parser.add_argument("--names", nargs="*", choices=VARIANTS, help="these recipes alone")
    parser.add_argument("--scenes", type=int, default=40, help="drawn scenes that are judged on")
    parser.add_argument("--document", type=Path, default=Path("docs/training.md"))
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
    else:
        replace_tables(args.document, {"recipe": table(read(args.out))})


if __name__ == "__main__":
    main()
