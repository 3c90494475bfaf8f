"""Many pictures on Ray Data: on this machine, or on a cluster (the extra `bulk`)."""

from typing import Any

from proscale.bulk.options import BulkOptions

__all__ = ["BulkOptions", "segment"]


def segment(dataset: Any, options: BulkOptions) -> Any:
    """A Ray dataset with a column `path` -> a dataset of `rows.SCHEMA`, lazily: a row per picture. Ray must be running."""
    from proscale.bulk.job import segment as mapped  # here: `proscale bulk --help` should not wait for torch

    return mapped(dataset, options)
