"""What Prometheus may ask a running job."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proscale.bulk.job import Summary
from proscale.errors import DataError


class JobMetrics(Collector):
    """The figures of a job's last `Summary`."""

    def __init__(self) -> None:
        self._summary, self._last = Summary(), 0.0

    def show(self, summary: Summary) -> None:
        """Tell these from now on."""
        if summary.pictures > self._summary.pictures:
            self._last = time.time()
        self._summary = replace(summary)

    def collect(self) -> Iterator[Any]:
        """See `Collector`."""
        now = self._summary
        pictures = CounterMetricFamily("proscale_bulk_pictures", "Pictures that this run has a row of.", labels=["outcome"])
        pictures.add_metric(["segmented"], now.pictures - now.failed)
        pictures.add_metric(["failed"], now.failed)
        yield pictures
        left = now.total - now.done_before - now.pictures
        yield GaugeMetricFamily("proscale_bulk_listed_pictures", "Pictures of INPUT.", now.total)
        yield GaugeMetricFamily("proscale_bulk_done_before_pictures", "Pictures that had a row when this run began.", now.done_before)
        yield GaugeMetricFamily("proscale_bulk_left_pictures", "Pictures without a row.", max(0, left))
        yield CounterMetricFamily("proscale_bulk_flops", "Multiply-accumulates of this run's pictures.", now.flops)
        yield CounterMetricFamily("proscale_bulk_baseline_flops", "What the baseline would have spent on them.", now.baseline_flops)
        yield GaugeMetricFamily("proscale_bulk_last_row_timestamp_seconds", "When the last row came; 0: none yet.", self._last)


@contextmanager
def serving(port: int, host: str) -> Iterator[tuple[JobMetrics, int]]:
    """Serve /metrics while the context lasts; the figures, and the port. Args: port: 0: any free one.

    Raises:
        DataError: the port cannot be used.
    """
    registry, metrics = CollectorRegistry(), JobMetrics()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise DataError(f"metrics cannot be served at {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield metrics, server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
