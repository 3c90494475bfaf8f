"""Triton's side of `proscale.triton_worker`: tensors to arrays and back, metrics, nothing else."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from proscale import wire
from proscale.triton_worker import Request, from_process

COUNTERS = {
    "proscale_worker_pictures_total": "Pictures segmented.",
    "proscale_worker_batches_total": "Batches that Triton formed.",
    "proscale_worker_errors_total": "Pictures answered with an error.",
    "proscale_worker_flops_total": "FLOPs spent; 1 FLOP = 1 multiply-accumulate.",
    "proscale_worker_baseline_flops_total": "FLOPs that Mask2Former with 6 encoder layers would have spent.",
}
STAGES = ("preprocess", "infer", "postprocess", "encode")


class TritonPythonModel:
    """What Triton's Python backend looks for; one per instance."""

    def initialize(self, args):
        """Load and warm up; Triton reports the model as ready when this returns."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._worker = from_process(parameters, args["model_instance_kind"], args["model_instance_device_id"])
        labels = {"model": args["model_name"], "version": args["model_version"]}
        # Both must live as long as the model: a family that is collected takes its metrics along.
        self._families = {name: pb_utils.MetricFamily(name, text, pb_utils.MetricFamily.COUNTER) for name, text in COUNTERS.items()}
        self._counters = {name: family.Metric(labels=labels) for name, family in self._families.items()}
        seconds = pb_utils.MetricFamily(
            "proscale_worker_stage_seconds_total", "Seconds spent per stage; those of a whole batch once.", pb_utils.MetricFamily.COUNTER
        )
        self._families["stages"] = seconds
        self._stages = {stage: seconds.Metric(labels=labels | {"stage": stage}) for stage in STAGES}

    def execute(self, requests):
        """Answer a dynamic batch, each picture when its part of the batch is done; an error is answered to its own request alone."""
        senders = [request.get_response_sender() for request in requests]
        counted = False
        for index, reply in self._worker.handle([_read(request) for request in requests], lambda i: requests[i].is_cancelled()):
            # Counted before it is answered: who reads the metrics after his answer finds it there.
            self._count(reply, new_batch=not counted)
            counted = counted or reply.prediction is not None
            senders[index].send(_response(reply), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _count(self, reply, new_batch):
        prediction = reply.prediction
        self._counters["proscale_worker_errors_total"].increment(reply.error is not None)
        if prediction is None:
            return
        self._counters["proscale_worker_pictures_total"].increment(1)
        self._counters["proscale_worker_batches_total"].increment(new_batch)
        self._counters["proscale_worker_flops_total"].increment(prediction.plan.flops)
        self._counters["proscale_worker_baseline_flops_total"].increment(prediction.plan.baseline_flops)
        for stage, counter in self._stages.items():
            shared = stage in ("preprocess", "infer")
            counter.increment(prediction.timings.get(stage, 0.0) / (reply.batch_size if shared else 1))


def _read(request):
    def tensor(name):
        return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]

    return Request(tensor(wire.PICTURE), tuple(tensor(wire.SIZES).tolist()), tensor(wire.OPTIONS)[0])


def _response(reply):
    if reply.error is not None:
        faults = ((reply.cancelled, pb_utils.TritonError.CANCELLED), (reply.internal, pb_utils.TritonError.INTERNAL))
        code = next((code for true, code in faults if true), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reply.error, code))
    result = np.array([[reply.text.encode()]], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor(wire.RESULT, result)])
