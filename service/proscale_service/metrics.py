"""Prometheus metrics: one registry per application, names in base units, labels from closed sets."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from proscale.config import TASKS
from proscale.results import Plan

STAGES = ("decode", "queue", "preprocess", "infer", "postprocess", "encode")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
HEAL_OUTCOMES = ("loaded", "failed")
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True)
class ModelSample:
    """How a model is when metrics are scraped."""

    name: str
    capacity: int
    waiting: int
    expected_seconds: float | None


class _Models(Collector):
    """Gauges of the models that are served now, so that one that was unloaded leaves no series behind."""

    def __init__(self) -> None:
        self.samples: Callable[[], Iterable[ModelSample]] = tuple

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("proscale_model_up", "1 while the model can compute.", labels=["model"])
        waiting = GaugeMetricFamily("proscale_model_waiting_pictures", "As proscale_queue_depth, by model.", labels=["model"])
        expected = GaugeMetricFamily(
            "proscale_model_expected_seconds", "Seconds until all admitted pictures of the model are expected to be done.", labels=["model"]
        )
        for sample in self.samples():
            up.add_metric([sample.name], min(1, sample.capacity))
            waiting.add_metric([sample.name], sample.waiting)
            if sample.expected_seconds is not None:
                expected.add_metric([sample.name], sample.expected_seconds)
        yield from (up, waiting, expected)


class Metrics:
    """The service's metrics. Everything is called from the event loop's thread."""

    def __init__(self) -> None:
        # Without this every counter also gets a series `_created` with the time it was made: noise beside the documented names.
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "proscale_requests_total",
            "Requests to /segment and /segment/batch, by tasks and status.",
            ["task", "status"],
            registry=registry,
        )
        self.request_duration = Histogram(
            "proscale_request_duration_seconds",
            "Seconds from the first byte of a request to its answer, by class of status.",
            ["task", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_duration = Histogram(
            "proscale_stage_duration_seconds",
            "Seconds per stage: preprocess and infer once per batch, the others once per picture.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "proscale_queue_depth",
            "Decoded pictures that wait for the engine; in front of Triton: that were sent and are not answered yet.",
            registry=registry,
        )
        self.batch_size = Histogram("proscale_batch_size", "Pictures per computed batch.", buckets=BATCH_SIZES, registry=registry)
        self.padding_pixels = Counter("proscale_padding_pixels_total", "Computed pixels that are padding.", registry=registry)
        self.rejected = Counter(
            "proscale_rejected_total", "Requests or pictures that got no masks, by reason.", ["reason"], registry=registry
        )
        self.promises = Histogram(
            "proscale_promise_ratio",
            "Time that an admitted picture took, divided by the time expected at its admission.",
            buckets=RATIOS,
            registry=registry,
        )
        self.flops = Counter(
            "proscale_flops_total", "FLOPs spent (1 FLOP = 1 multiply-accumulate), by encoder.", ["encoder"], registry=registry
        )
        self.baseline_flops = Counter(
            "proscale_baseline_flops_total",
            "FLOPs that the baseline would have spent: Mask2Former with 6 encoder layers, or the network as published.",
            registry=registry,
        )
        self.flops_saved = Counter("proscale_flops_saved_total", "Baseline minus spent.", registry=registry)
        self.engine_up = Gauge("proscale_engine_up", "1 while the engine can compute.", registry=registry)
        self.servers_up = Gauge(
            "proscale_servers_up", "Triton servers that can compute the model, according to this gateway.", ["model"], registry=registry
        )
        self.heals = Counter(
            "proscale_heals_total", "Attempts to load a dead model again, by outcome.", ["model", "outcome"], registry=registry
        )
        self.refusals = Counter(
            "proscale_refusals_total",
            "Requests that got no masks, by reason and by class of the API key.",
            ["reason", "key_class"],
            registry=registry,
        )
        self.keys_stale = Gauge(
            "proscale_keys_stale", "1 while the keys file cannot be used and the previous keys stay in force.", registry=registry
        )
        self.model_pictures = Counter("proscale_model_pictures_total", "Pictures segmented, by model.", ["model"], registry=registry)
        self.model_flops = Counter("proscale_model_flops_total", "FLOPs spent, by model.", ["model"], registry=registry)
        self._label: Callable[[], str] = lambda: "unnamed"
        self._models = _Models()
        registry.register(self._models)
        for stage in STAGES:
            self.stage_duration.labels(stage)

    def of_model(self, label: Callable[[], str]) -> "Metrics":
        """The same metrics, for what is counted of one model. Args: label: what it is called."""
        own = copy.copy(self)
        own._label = label
        return own

    def watch_models(self, samples: Callable[[], Iterable[ModelSample]]) -> None:
        """Read how models are when metrics are scraped."""
        self._models.samples = samples

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Read the queue's depth when metrics are scraped."""
        self.queue_depth.set_function(depth)

    def healed(self, model: str, outcome: str) -> None:
        """Count a heal. Args: model: its name on the servers; outcome: one of `HEAL_OUTCOMES`."""
        self.heals.labels(model, outcome).inc()

    def promise(self, ratio: float) -> None:
        """Observe how long an admitted picture took over what was expected. Any thread may call it."""
        self.promises.observe(ratio)

    def request(self, task: str, status: int, seconds: float, trace_id: str = "") -> None:
        """Count one finished request. Args: trace_id: of its trace, if that is kept."""
        self.requests.labels(task, str(status)).inc()
        # By class: refusals are answered in a moment, and would make the service look the faster the more it refuses.
        self.request_duration.labels(task, f"{status // 100}xx").observe(seconds, {"trace_id": trace_id} if trace_id else None)

    def stage(self, stage: str, seconds: float) -> None:
        """Observe one stage."""
        self.stage_duration.labels(stage).observe(seconds)

    def computed(self, plan: Plan, encoder: str) -> None:
        """Count what one picture cost and what it would have cost the baseline."""
        self.flops.labels(encoder).inc(plan.flops)
        self.model_pictures.labels(self._label()).inc()
        self.model_flops.labels(self._label()).inc(plan.flops)
        self.baseline_flops.inc(plan.baseline_flops)
        # A counter cannot fall: a Mask2Former with more layers than the baseline saves nothing rather than less than nothing.
        self.flops_saved.inc(max(0, plan.baseline_flops - plan.flops))
        self.padding_pixels.inc(plan.padded[0] * plan.padded[1] - plan.resized[0] * plan.resized[1])

    def text(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)

    def openmetrics(self) -> bytes:
        """The exposition in the OpenMetrics format, which has exemplars: the traces of requests in a histogram's buckets."""
        text: bytes = openmetrics.generate_latest(self.registry)
        return text


def task_label(tasks: Iterable[str]) -> str:
    """Label of a set of tasks, in fixed order, so that there are at most seven: `panoptic`, `panoptic+semantic` ..."""
    asked = set(tasks)
    return "+".join(task for task in TASKS if task in asked) or "unknown"
