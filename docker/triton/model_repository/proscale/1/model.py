"""Triton's side of `proscale.triton_worker`: converts tensors and arrays, and exports metrics."""

import json
import logging
import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils

from proscale import leftovers, wire
from proscale.allocator import keep_freed_memory
from proscale.log_lines import configure_worker
from proscale.processors import configure_openmp

configure_openmp()  # before torch is imported, which the next lines do

from proscale.tracing import TRACEPARENT, TracingError, make_tracer  # noqa: E402
from proscale.triton_worker import Request, end_worker_span, from_process  # noqa: E402
from proscale.worker_thread import WorkerThread  # noqa: E402

COUNTERS = {
    "proscale_worker_pictures_total": "Pictures segmented.",
    "proscale_worker_batches_total": "Batches that the network computed.",
    "proscale_worker_errors_total": "Pictures answered with an error.",
    "proscale_worker_flops_total": "FLOPs spent; 1 FLOP = 1 multiply-accumulate.",
    "proscale_worker_baseline_flops_total": "FLOPs that Mask2Former with 6 encoder layers would have spent.",
}
STAGES = ("preprocess", "infer", "postprocess", "encode")


class TritonPythonModel:
    """What Triton's Python backend looks for; one per instance."""

    def initialize(self, args):
        """Load and warm up; Triton reports the model as ready when this returns."""
        keep_freed_memory()  # before the thread below is started
        configure_worker(os.environ, args["model_name"])
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._families = []  # kept as long as the model: when a family is garbage-collected, its metrics disappear
        self._counters = {name: self._family(name, text).Metric(labels=labels) for name, text in COUNTERS.items()}
        text = "Seconds per stage, counted once per batch; wait: seconds that each picture waited for the network."
        seconds = self._family("proscale_worker_stage_seconds_total", text)
        self._stages = {stage: seconds.Metric(labels=labels | {"stage": stage}) for stage in (*STAGES, "wait")}
        left = self._family("proscale_worker_leftovers_total", "Leftovers of dead and hung processes of the model that were removed.")
        self._leftovers = {kind: left.Metric(labels=labels | {"kind": kind}) for kind in leftovers.KINDS}
        waiting = "Pictures taken from Triton's queue that wait for the network."
        self._waiting = self._family("proscale_worker_waiting_pictures", waiting, "GAUGE").Metric(labels=labels)
        self._thread = WorkerThread(
            lambda: from_process(json.loads(args["model_config"]), args["model_instance_kind"], args["model_instance_device_id"]),
            answer=self._answer,
            gone=lambda ticket: ticket[0].is_cancelled(),
            on_waiting=self._waiting.increment,
        )
        self._tracer = _tracer()
        leftovers.watch(lambda kind, number: self._leftovers[kind].increment(number))

    def execute(self, requests):
        """Accept a dynamic batch. The worker's thread answers each picture when it is done."""
        now = time.perf_counter()
        spans = [self._begin(request) for request in requests]
        tickets = [(request, request.get_response_sender(), now, span) for request, span in zip(requests, spans, strict=True)]
        self._thread.submit([(ticket, _read(ticket[0])) for ticket in tickets])

    def finalize(self):
        """Called when everything is answered."""
        self._thread.close()
        if self._tracer is not None:
            self._tracer.close()

    def _begin(self, request):
        """The span of a request, if its sender traces it."""
        if self._tracer is None:
            return None
        traceparent = json.loads(request.parameters() or "{}").get(TRACEPARENT, "")
        return self._tracer.begin("worker", "server", traceparent) if traceparent else None

    def _family(self, name, text, kind="COUNTER"):
        self._families.append(pb_utils.MetricFamily(name, text, getattr(pb_utils.MetricFamily, kind)))
        return self._families[-1]

    def _answer(self, ticket, reply):
        _, sender, taken, span = ticket
        # Counted before it is sent: a client that reads the metrics after its answer finds the answer counted. Likewise the span, which
        # otherwise could outlive the caller's.
        self._count(reply, time.perf_counter() - taken)
        if span is not None:
            end_worker_span(span, reply)
        sender.send(_response(reply), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _count(self, reply, seconds):
        prediction = reply.prediction
        self._counters["proscale_worker_errors_total"].increment(reply.error is not None)
        if prediction is None:
            return
        self._counters["proscale_worker_pictures_total"].increment(1)
        self._counters["proscale_worker_batches_total"].increment(reply.opens_batch)
        self._counters["proscale_worker_flops_total"].increment(prediction.plan.flops)
        self._counters["proscale_worker_baseline_flops_total"].increment(prediction.plan.baseline_flops)
        spent = {stage: prediction.timings.get(stage, 0.0) for stage in STAGES}
        self._stages["wait"].increment(max(0.0, seconds - sum(spent.values())))
        for stage, own in spent.items():
            shared = stage in ("preprocess", "infer")
            self._stages[stage].increment(own / (reply.batch_size if shared else 1))


def _tracer():
    """None if tracing is off or cannot start: a worker without spans is better than no worker."""
    try:
        return make_tracer(os.environ.get("PROSCALE_OTLP_ENDPOINT"), "proscale-worker")
    except TracingError as error:
        logging.getLogger("proscale").error("%s", error)
        return None


def _read(request):
    def tensor(name):
        return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]

    return Request(tensor(wire.PICTURE), tuple(tensor(wire.SIZES).tolist()), tensor(wire.OPTIONS)[0], request.request_id())


def _response(reply):
    if reply.error is not None:
        faults = ((reply.cancelled, pb_utils.TritonError.CANCELLED), (reply.internal, pb_utils.TritonError.INTERNAL))
        code = next((code for true, code in faults if true), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reply.error, code))
    result = np.array([[reply.text.encode()]], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor(wire.RESULT, result)])
