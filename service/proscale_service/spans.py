"""The spans of a request and of its pictures, where spans are wanted: see `proscale.tracing`."""

import time

from proscale.pictures import Header
from proscale.results import Prediction
from proscale.tracing import SPAN_NAMES, Span, current_span
from proscale_service.engines.base import Computed


def span_picture(began: float, read: float, header: Header, reading_seconds: tuple[float, float], computed: Computed) -> None:
    """Spans of a picture that is done now.

    Args:
        began, read: when its request was parsed, and when it was decoded and resized; seconds of `time.perf_counter`.
        reading_seconds: of decoding and of resizing.
    """
    if (span := current_span()) is None:
        return
    now, clock = time.time(), time.perf_counter()
    started, ready = now - (clock - began), now - (clock - read)
    decode_seconds, resize_seconds = reading_seconds
    span.part("accept", span.began, started)
    reading = span.part("read", started, ready, width=header.width, height=header.height)
    reading.part("decode", ready - resize_seconds - decode_seconds, ready - resize_seconds)
    reading.part("resize", ready - resize_seconds, ready)
    out_of_queue = min(now, ready + computed.queue_seconds)
    span.part("queue", ready, out_of_queue)
    batch = span.part(
        "batch", out_of_queue, now, model=computed.info.name, batch_size=computed.batch_size, flops=computed.prediction.plan.flops
    )
    span_stages(batch, out_of_queue, computed.prediction, resize_seconds)


def span_stages(batch: Span, began: float, prediction: Prediction, resize_seconds: float = 0.0) -> None:
    """Spans of what a batch goes through, one after the other. Args: began: seconds of `time.time`; resize_seconds: spent before."""
    for stage, name in SPAN_NAMES.items():
        seconds = max(0.0, prediction.timings.get(stage, 0.0) - (resize_seconds if stage == "preprocess" else 0.0))
        batch.part(name, began, began + seconds)
        began += seconds


def span_answer(seconds: float) -> None:
    """The span of an answer that was written just now."""
    if (span := current_span()) is not None:
        now = time.time()
        span.part("answer", now - seconds, now)
