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
        """Answer a dynamic batch; an error is answered to its own request alone."""
        live = [i for i, request in enumerate(requests) if not request.is_cancelled()]
        replies = dict(zip(live, self._worker.handle([_read(requests[i]) for i in live]), strict=True))
        self._count(replies.values())
        return [_response(replies.get(i)) for i in range(len(requests))]

    def _count(self, replies):
        predictions = [reply.prediction for reply in replies if reply.prediction is not None]
        counted = {
            "proscale_worker_pictures_total": len(predictions),
            "proscale_worker_batches_total": bool(predictions),
            "proscale_worker_errors_total": sum(reply.error is not None for reply in replies),
            "proscale_worker_flops_total": sum(prediction.plan.flops for prediction in predictions),
            "proscale_worker_baseline_flops_total": sum(prediction.plan.baseline_flops for prediction in predictions),
        }
        for name, value in counted.items():
            self._counters[name].increment(value)
        for stage, counter in self._stages.items():
            seconds = [
                prediction.timings.get(stage, 0.0) / (size if stage in ("preprocess", "infer") else 1)
                for prediction, size in ((reply.prediction, reply.batch_size) for reply in replies)
                if prediction is not None
            ]
            counter.increment(sum(seconds))


def _read(request):
    def tensor(name):
        return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]

    return Request(tensor(wire.PICTURE), tuple(tensor(wire.SIZES).tolist()), tensor(wire.OPTIONS)[0])


def _response(reply):
    if reply is None:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("the request was cancelled", pb_utils.TritonError.CANCELLED))
    if reply.error is not None:
        code = pb_utils.TritonError.INTERNAL if reply.internal else pb_utils.TritonError.INVALID_ARG
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reply.error, code))
    result = np.array([[reply.text.encode()]], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor(wire.RESULT, result)])
