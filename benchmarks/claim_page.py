"""What `claim.py` has written as a plot and as the tables of docs/claim.md: nothing there is typed by hand."""

from pathlib import Path
from typing import Any

from claim_counts import summary
from claim_rows import BASELINE, MAIN
from models_page import in_words, replace_tables

METRICS = {"pq": "PQ", "miou": "mIoU"}


def summarised(held: dict[str, Any]) -> dict[str, Any]:
    """Figures with intervals, of the rows that are there."""
    about = held["about"]
    return summary(held["rows"], about["sources"], [category["id"] for category in about["categories"]], BASELINE)


def gflops_of(held: dict[str, Any]) -> dict[str, float]:
    """Network -> GFLOPs of a judged picture, mean."""
    return {row["row"]: row["gflops"] for row in held["rows"]}


def draw(held: dict[str, Any], path: Path) -> None:
    """PQ over GFLOPs, and over seconds where they were measured: a point per seed, the mean with its interval over pictures."""
    from matplotlib.figure import Figure

    networks = summarised(held)["networks"]
    costs = [("GFLOPs a picture", gflops_of(held))]
    if "seconds" in held:
        least = held["seconds"]["least"]
        costs.append(("processor seconds a picture of 160 x 160, one thread", {name: values["small"] for name, values in least.items()}))
    figure = Figure(figsize=(6.2 * len(costs), 4.6), layout="constrained")
    for axes, (title, cost) in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
        for name, own in networks.items():
            colour = "C3" if name == BASELINE else "C0" if any(row.name == name for row in MAIN) else "C7"
            low, high = own["pq_over_pictures"]
            spread = [[own["pq"] - low], [high - own["pq"]]]
            axes.errorbar([cost[name]], [own["pq"]], yerr=spread, fmt="o", color=colour, capsize=3, lw=1)
            axes.scatter([cost[name]] * len(own["pq_by_seed"]), own["pq_by_seed"], marker="_", color=colour, s=120)
            axes.annotate(name, (cost[name], own["pq"]), xytext=(6, 5), textcoords="offset points", fontsize=8)
        axes.set(xlabel=title, ylabel="PQ (bar: 95% over pictures; dashes: seeds)")
        axes.margins(0.25, 0.2)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def write_tables(held: dict[str, Any], document: Path) -> None:
    """Replace the page's tables."""
    replace_tables(document, {"claim": quality_table(held), "claim-difference": difference_table(held), "claim-cost": cost_table(held)})


def quality_table(held: dict[str, Any]) -> str:
    """Every network's figures."""
    head = ["network", "GFLOPs", "PQ", "95% over pictures", "PQ by seed", "mIoU", "mIoU by seed"]
    gflops, lines = gflops_of(held), [head, ["---"] * len(head)]
    for name, own in summarised(held)["networks"].items():
        cells = [f"{own['pq']:.3f}", _range(own["pq_over_pictures"]), ", ".join(f"{value:.3f}" for value in own["pq_by_seed"])]
        cells += [f"{own['miou']:.3f}", ", ".join(f"{value:.3f}" for value in own["miou_by_seed"])]
        lines.append([name, f"{gflops[name]:.2f}", *cells])
    about = held["about"]
    recipe = about["recipe"]
    said = (
        f"{in_words(about['hardware'])}, one thread, {about['date']}; {recipe['steps']} steps of {recipe['settings']['batch_size']} views "
        f"of {recipe['side']} x {recipe['side']} pixels; judged on {len(about['sources'])} pictures. `python {about['command']}`"
    )
    return "\n".join([said, "", *(f"| {' | '.join(line)} |" for line in lines)])


def difference_table(held: dict[str, Any]) -> str:
    """Every network less the baseline, on the same pictures and seeds."""
    head = [f"less {BASELINE}", "PQ", "95% over pictures", "± over seeds", "mIoU", "95% over pictures", "± over seeds"]
    lines, found = [head, ["---"] * len(head)], summarised(held)
    for name, own in found["networks"].items():
        if "pq_difference" not in own:
            continue
        cells = []
        for metric in METRICS:
            half = own.get(f"{metric}_difference_half_width_over_seeds")
            cells += [f"{own[f'{metric}_difference']:+.3f}", _range(own[f"{metric}_difference_over_pictures"], "+.3f")]
            cells.append("-" if half is None else f"{half:.3f}")
        lines.append([name, *cells])
    told = (
        f"Standard deviation from seed to seed, pooled over networks: {found['pq_seed_deviation']:.3f} of PQ, "
        f"{found['miou_seed_deviation']:.3f} of mIoU ({found['seed_freedom']} degrees of freedom)."
        if found["seed_freedom"]
        else "One seed so far: nothing can be said yet of how much a seed changes."
    )
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", told])


def cost_table(held: dict[str, Any]) -> str:
    """GFLOPs by part, and seconds where they were measured."""
    rows = {row["row"]: row for row in held["rows"]}
    seconds = held.get("seconds")
    head = ["network", "GFLOPs", "of them pixel decoder", "of them encoder", "parameters, M"]
    head += ["seconds at 160 x 160", f"of {BASELINE}'s", "seconds at 640 x 640", f"of {BASELINE}'s"] if seconds else []
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        cells = [f"{row[part]:.2f}" for part in ("gflops", "pixel_decoder_gflops", "encoder_gflops")] + [f"{row['parameters'] / 1e6:.2f}"]
        for size in ("small", "large") if seconds else ():
            least = held["seconds"]["least"]
            cells += [f"{least[name][size]:.4f}", f"{least[name][size] / least[BASELINE][size]:.2f}"]
        lines.append([name, *cells])
    text = [f"| {' | '.join(line)} |" for line in lines]
    if seconds:
        load = " and ".join(map(str, seconds["load_before_and_after"]))
        text += ["", f"{in_words(seconds['hardware'])}, {seconds['date']}: {seconds['what']}; load of the machine {load}."]
    return "\n".join(text)


def _range(pair: list[float], form: str = ".3f") -> str:
    return f"{pair[0]:{form}} to {pair[1]:{form}}"
