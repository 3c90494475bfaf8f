"""A report as a table for people and as JSON that every parser takes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proscale.errors import DataError

HEADLINES = (
    ("panoptic", ("pq", "sq", "rq", "pq_things", "sq_things", "rq_things", "pq_stuff", "sq_stuff", "rq_stuff")),
    ("instances", ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")),
    ("cityscapes", ("cityscapes_ap", "cityscapes_ap50")),
    ("recall", ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")),
    ("semantic", ("miou", "pixel_accuracy", "boundary_iou")),
)
COLUMNS = ("pq", "sq", "rq", "ap", "iou", "boundary_iou", "union_iou", "found", "precision")


def report_table(report: Mapping[str, Any]) -> str:
    """The figures as text, in percent but for the cost."""
    lines = [f"{report['pictures']} pictures"]
    for title, names in HEADLINES:
        if any(name in report for name in names):
            lines.append(f"{title:<10} " + "  ".join(f"{name} {_percent(report[name])}" for name in names if name in report))
    cost = []
    if report.get("gflops") is not None:
        saved = 1 - report["gflops"] / report["baseline_gflops"]
        cost.append(f"{report['gflops']:.2f} GFLOPs a picture ({saved:.0%} less than {report['baseline_gflops']:.2f})")
    if report.get("pictures_per_second") is not None:
        cost.append(f"{report['pictures_per_second']:.2f} pictures a second")
    if cost:
        lines.append(f"{'cost':<10} " + ", ".join(cost))
    rows = report["classes"]
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    width = max([len("class"), *map(len, rows)]) + 2
    lines.append("")
    lines.append(f"{'class':<{width}}" + "".join(f"{name:>14}" for name in columns))
    for name, row in rows.items():
        cells = (_percent(row[column]) if column in row else "" for column in columns)
        lines.append((f"{name:<{width}}" + "".join(f"{cell:>14}" for cell in cells)).rstrip())
    return "\n".join(lines)


def valid_json(values: Any) -> str:
    """JSON with null where a number is not finite: NaN is not JSON."""
    return json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(valid_json(report), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(name): _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
