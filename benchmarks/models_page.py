"""Tables of README.md, docs/models.md and docs/performance.md, made of what the benchmarks have written: nothing there is typed by hand."""

import json
import re
from pathlib import Path
from typing import Any

TITLES = {
    "segformer-b0": "SegFormer-B0",
    "segformer-b2": "SegFormer-B2",
    "setr-pup": "SETR-PUP",
    "eomt-s": "EoMT-S",
    "eomt-b": "EoMT-B",
}


def quality_table(rows: list[dict[str, Any]], metric: str, about: dict[str, Any]) -> str:
    """Published quality, GFLOPs, seconds, licence: one line a network."""
    semantic = metric == "mIoU"
    head = ["semantic alone" if semantic else "panoptic, instance, semantic", f"published {metric}", "GFLOPs"]
    head += [*(["as published"] if semantic else []), "seconds", "licence of published weights"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        if row["metric"] == metric:
            published = [str(row["published_gflops"])] if semantic else []
            figures = [str(row["quality"]), str(row["gflops"]), *published, f"{row['seconds']:.2f}"]
            lines.append([row["title"], *figures, row["licence"]])
    said = f"Seconds: {in_words(about['hardware'])}, one thread's processor time in float32, {about['date']}."
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", said])


def peer_table(held: dict[str, Any]) -> str:
    """Seconds here and there, and how many times as long: one line a network and precision."""
    head = ["normalised pixels to logits", "size", "here", "transformers, or the published form", "OpenVINO", "share of the GEMM peak"]
    lines = [head, ["---"] * len(head)]
    for row in held["rows"]:
        seconds = row["seconds"]
        cells = [f"{seconds['ours']:.3f}"]
        for names in (("transformers", "published form, torch"), ("OpenVINO",)):
            value = next((seconds[name] for name in names if name in seconds), None)
            cells.append("-" if value is None else f"{value:.3f} ({value / seconds['ours']:.2f} times)")
        size = "x".join(map(str, row["input"]))
        share = f"{row['gemm_share']:.0%}" if "gemm_share" in row else "-"
        lines.append([f"{TITLES.get(row['network'], row['network'])} {row['precision']}", size, *cells, share])
    about = held["about"]
    clock = "wall clock" if about["clock"] == "wall" else "processor time"
    under = f"{about['threads']} threads, {clock}, the least of {about['rounds']} interleaved rounds"
    said = f"{in_words(about['hardware'])}, {under}, {about['date']}."
    return "\n".join([said, "", *(f"| {' | '.join(line)} |" for line in lines)])


def model_tables(report: dict[str, Any]) -> str:
    """Of `model.py`: seconds of every contender at every size, and how many times as fast as the peers it is."""
    under = f"{report['threads']} threads, torch {report['torch']}, medians of {report['rounds']} rounds"
    said = f"{report['hardware']}, {under}, {report['date']}."
    parts = [said]
    head = ["", "seconds", "times as fast as transformers", "as OpenVINO, the same precision"]
    for size in dict.fromkeys(record["size"] for record in report["records"]):
        records = [record for record in report["records"] if record["size"] == size]
        openvino = {record["precision"]: record["seconds"] for record in records if record["contender"].startswith("OpenVINO")}
        lines = [[f"padded to {size}", *head[1:]], ["---"] * len(head)]
        for record in sorted(records, key=lambda record: float(record["seconds"])):
            peer = openvino.get(record["precision"])
            against = "-" if peer is None else f"{peer / record['seconds']:.2f}"
            lines.append([record["contender"], f"{record['seconds']:.3f}", str(record.get("times_as_fast", "-")), against])
        parts += ["", *(f"| {' | '.join(line)} |" for line in lines)]
    return "\n".join(parts)


def in_words(hardware: str | dict[str, Any]) -> str:
    """What computed, for a table's heading. Args: hardware: of `processor()`, or a GPU's name."""
    if isinstance(hardware, str):
        return hardware
    return f"{hardware['name']} (family {hardware.get('family', '?')}, model {hardware.get('model', '?')}, {hardware['kernels']})"


def replace_tables(page: Path, tables: dict[str, str]) -> None:
    """Write each table between `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
        ValueError: the page has no such place.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"{page} has no place for the table {name}")
        text = pattern.sub(lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", text)  # type: ignore[misc]
    page.write_text(text, encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A file of results."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
