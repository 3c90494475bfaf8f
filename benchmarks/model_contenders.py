"""What `benchmarks/model.py` compares: one contender per process, from a decoded picture to COCO RLE, with the time of every stage.

Run by `model.py` as `model_contenders.py '{"name": ..., ...}'`; answers every line on standard input ("run" or "time") with a line of JSON.

Every contender computes with random weights from one seed. What random weights say is noise: one contender would keep no segment, another a
hundred. So post-processing is handed the logits of one drawn scene (24 things, 4 stuff regions), the same for all, after the network
has computed its own in full.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from openvino_form import openvino_form
from torch import Tensor, nn

from proscale.allocator import keep_freed_memory
from proscale.checkpoints.convert import Converted
from proscale.checkpoints.provenance import Provenance  # type: ignore[attr-defined]
from proscale.checkpoints.write_folders import write_transformers
from proscale.config import MASK2FORMER, SWIN_T, ModelConfig, PixelDecoderConfig, PreprocessConfig, ProScaleEncoderConfig
from proscale.flops import count_flops
from proscale.geometry import padded_size, resized_size
from proscale.int8_network import Calibration, observe
from proscale.labels import Category
from proscale.network import SegmentationNetwork
from proscale.predictions import QueryPrediction
from proscale.predictor import Predictor
from proscale.results import SegmentationOptions

CLASSES, THINGS, SEGMENTS, SEED = 133, 80, 28, 0
STAGES = ("preprocess", "backbone", "encoder", "rest of pixel decoder", "transformer decoder", "post-processing + RLE")


def scene(queries: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Logits of a plausible answer: 24 ellipses of things over 4 bands of stuff; all other queries say void.

    Returns: class logits (queries, CLASSES + 1), mask logits (queries, height, width), on the CPU.
    """
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = (y + 0.5) / height, (x + 0.5) / width
    masks = np.full((queries, height, width), -6, np.float32)
    classes = np.zeros((queries, CLASSES + 1), np.float32)
    classes[:, -1] = 12
    for i in range(SEGMENTS):
        classes[i, -1] = 0
        if i < 24:
            middle_y, middle_x = (i // 6 + 0.5) / 4, (i % 6 + 0.5) / 6
            radius_y, radius_x = rng.uniform(0.05, 0.11), rng.uniform(0.04, 0.075)
            distance = ((y - middle_y) / radius_y) ** 2 + ((x - middle_x) / radius_x) ** 2
            masks[i] = np.clip(8 * (1 - distance), -8, 8)
            classes[i, i % THINGS] = 12
        else:
            band = i - 24
            edge = 0.01 * np.sin(20 * x)
            masks[i] = np.clip(60 * np.minimum(y - band / 4 - edge, (band + 1) / 4 + edge - y), -8, 8)
            masks[i, masks[:24].max(0) > 0] = -6  # behind the things
            classes[i, THINGS + band] = 12
    return torch.from_numpy(classes), torch.from_numpy(masks)


class Stopwatch:
    """Seconds by stage of one run; methods are timed from outside, by replacing them."""

    def __init__(self, device: str) -> None:
        self.device, self.on = device, True
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if not self.on:
            yield
            return
        started = self.now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started

    def wrap(self, module: Any, method: str, name: str) -> None:
        original = getattr(module, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return original(*args, **kwargs)

        setattr(module, method, timed)


def picture_for(size: str) -> tuple[NDArray[np.uint8], PreprocessConfig]:
    """A picture that, resized by COCO's rules, has this padded size; 640x640 is what EoMT's authors use."""
    height, width = map(int, size.split("x"))
    pictures = {"800x1216": (427, 640), "800x1088": (480, 640)}
    shape = pictures.get(size, (height, width))
    config = PreprocessConfig() if size in pictures else PreprocessConfig(short_side=min(height, width), long_side=max(height, width))
    assert padded_size(*resized_size(*shape, config), config) == (height, width)
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = np.stack([x % 256, y % 256, (x + y) % 256], -1)
    return (smooth + rng.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8), config


def our_config(name: str, preprocess: PreprocessConfig) -> ModelConfig:
    """`proscale` is (3, 3, 3) with the light pixel embedding; `mask2former` six layers and the 3x3 convolution."""
    pixel_decoder = MASK2FORMER if name == "mask2former" else PixelDecoderConfig(ProScaleEncoderConfig((3, 3, 3)))
    return ModelConfig(name, CLASSES, SWIN_T, pixel_decoder, preprocess=preprocess)


def categories() -> tuple[Category, ...]:
    return tuple(Category(i + 1, f"class {i}", i < THINGS) for i in range(CLASSES))


def random_network(config: ModelConfig) -> SegmentationNetwork:
    """Random weights and biases. Fresh biases are zero, and with them windows of padding hold denormal numbers, which take their time."""
    torch.manual_seed(SEED)
    network = SegmentationNetwork(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.02 * torch.randn(parameter.shape))
    return network


def calibration(config: ModelConfig, picture: NDArray[np.uint8]) -> Calibration:
    """Of the random network, on the picture that is measured."""
    predictor = Predictor(random_network(config), categories(), precision="float32")
    assert isinstance(predictor.network, SegmentationNetwork)
    notes = observe(predictor.network)
    predictor.segment([picture], [SegmentationOptions()])
    return Calibration("random", 1, {name: (seen.low, seen.high) for name, seen in notes.items()})


class Ours:
    """The predictor, as the service calls it."""

    def __init__(self, job: dict[str, Any], watch: Stopwatch) -> None:
        self.picture, preprocess = picture_for(job["size"])
        self.batch = job["batch"]
        config = our_config(job["network"], preprocess)
        options = job.get("options", {})
        if job["precision"] == "int8":
            options = {**options, "calibration": calibration(config, self.picture)}
        self.predictor = Predictor(random_network(config), categories(), device=job["device"], precision=job["precision"], **options)
        network = self.predictor.network
        self.staged = not job.get("options")  # recorded kernels and compiled code have no stages
        if self.staged:
            watch.wrap(network.backbone, "forward", "backbone")
            watch.wrap(network.pixel_decoder.encoder, "forward", "encoder")
            watch.wrap(network.pixel_decoder, "embed", "pixel decoder")
        height, width = map(int, job["size"].split("x"))
        drawn = [part.to(job["device"]) for part in scene(config.transformer_decoder.queries, height // 4, width // 4)]
        logits = QueryPrediction(*(part.expand(self.batch, *part.shape) for part in drawn))
        predict = self.predictor._predict

        def predict_then_scene(images: Tensor) -> QueryPrediction:
            predict(images)
            return logits

        self.predictor._predict = predict_then_scene
        self.watch = watch
        self.flops = count_flops(config, (height, width), self.picture.shape[:2], ("panoptic",)).total

    def run(self) -> int:
        """Segment one batch; returns the segments of a picture."""
        predictions = self.predictor.segment([self.picture] * self.batch, [SegmentationOptions()] * self.batch)
        seconds, timings = self.watch.seconds, predictions[0].timings
        if self.watch.on:
            seconds["preprocess"] = timings["preprocess"]
            seconds["post-processing + RLE"] = sum(p.timings["postprocess"] + p.timings["encode"] for p in predictions)
        if self.watch.on and self.staged:
            seconds["rest of pixel decoder"] = seconds.pop("pixel decoder") - seconds["encoder"]
            seconds["transformer decoder"] = timings["infer"] - sum(seconds[s] for s in STAGES[1:4])
        return len(predictions[0].results["panoptic"].segments)


class Transformers:
    """transformers' own model, image processor and post-processing, then pycocotools; weights are our Mask2Former's."""

    def __init__(self, job: dict[str, Any], watch: Stopwatch) -> None:
        from transformers import Mask2FormerForUniversalSegmentation
        from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

        self.picture, preprocess = picture_for(job["size"])
        self.batch, self.device, self.watch = job["batch"], job["device"], watch
        config = our_config("mask2former", preprocess)
        with tempfile.TemporaryDirectory() as folder:
            source = Provenance("random", "", "proscale")
            write_transformers(Converted(config, categories(), random_network(config).state_dict(), source, ()), Path(folder) / "m")
            self.model = Mask2FormerForUniversalSegmentation.from_pretrained(Path(folder) / "m").eval()
        openvino = job.get("runtime") == "openvino"
        self.dtype = torch.float32 if openvino else getattr(torch, job["precision"])
        self.model.to(self.device, self.dtype)
        edges = {"shortest_edge": preprocess.short_side, "longest_edge": preprocess.long_side}
        self.processor = Mask2FormerImageProcessorPil(size=edges)
        pixel = self.model.model.pixel_level_module
        self.staged = not job.get("compile") and not openvino  # a compiled model has no stages
        if self.staged:
            watch.wrap(pixel.encoder, "forward", "backbone")
            watch.wrap(pixel.decoder.encoder, "forward", "encoder")
            watch.wrap(pixel.decoder, "forward", "pixel decoder")
        self.forward: Callable[..., Any] = self.model
        if openvino:
            pixels = self.processor([self.picture] * self.batch, return_tensors="pt")["pixel_values"]
            self.forward = openvino_form(self.model, pixels, job["precision"], job["threads"])
        elif not self.staged:
            self.forward = torch.compile(self.model)
        height, width = map(int, job["size"].split("x"))
        self.scene = [part.to(self.device) for part in scene(config.transformer_decoder.queries, height // 4, width // 4)]
        self.flops = count_flops(config, (height, width), self.picture.shape[:2], ("panoptic",)).total

    def run(self) -> int:
        with self.watch.stage("preprocess"):
            pixels = self.processor([self.picture] * self.batch, return_tensors="pt").to(self.device, self.dtype)
        with self.watch.stage("network"):
            output = self.forward(**pixels)
        with self.watch.stage("post-processing + RLE"):
            classes, masks = self.scene
            output.class_queries_logits = classes.expand(self.batch, *classes.shape)
            output.masks_queries_logits = masks.expand(self.batch, *masks.shape)
            results = self.processor.post_process_panoptic_segmentation(
                output,
                threshold=0.8,
                label_ids_to_fuse=set(range(THINGS, CLASSES)),
                target_sizes=[self.picture.shape[:2]] * self.batch,
            )
            counts = [rle(result) for result in results]
        if self.watch.on and self.staged:
            seconds = self.watch.seconds
            seconds["rest of pixel decoder"] = seconds.pop("pixel decoder") - seconds["encoder"]
            seconds["transformer decoder"] = seconds.pop("network") - sum(seconds[s] for s in STAGES[1:4])
        return counts[0]


class Eomt:
    """EoMT-B as transformers has it, at the end of its training: no attention masks (its authors anneal them away)."""

    def __init__(self, job: dict[str, Any], watch: Stopwatch) -> None:
        from transformers import EomtConfig, EomtForUniversalSegmentation
        from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil

        self.picture, _ = picture_for(job["size"])
        self.batch, self.device, self.watch = job["batch"], job["device"], watch
        config = EomtConfig(
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=640,
            patch_size=16,
            num_blocks=3,
            num_queries=200,
            num_labels=CLASSES,
        )
        torch.manual_seed(SEED)
        model = EomtForUniversalSegmentation(config).eval()
        model.attn_mask_probs.zero_()
        self.dtype = getattr(torch, job["precision"])
        self.model = model.to(self.device, self.dtype)
        self.edges = {"shortest_edge": 640, "longest_edge": 640}
        self.processor = EomtImageProcessorPil(size=self.edges, do_split_image=False, do_pad=True)
        pixels = torch.zeros(1, 3, 640, 640, device=self.device, dtype=self.dtype)
        self.flops = flops_of(self.model, pixels)
        self.staged = not job.get("compile")
        if self.staged:
            watch.wrap(self.model.embeddings, "forward", "backbone")
            for layer in self.model.layers:
                watch.wrap(layer, "forward", "backbone")
        self.forward: Callable[..., Any] = self.model if self.staged else torch.compile(self.model)
        with torch.inference_mode():
            size = self.model(pixel_values=pixels).masks_queries_logits.shape[-2:]
        watch.seconds.clear()
        self.scene = [part.to(self.device) for part in scene(config.num_queries, *size)]

    def run(self) -> int:
        with self.watch.stage("preprocess"):
            pixels = self.processor([self.picture] * self.batch, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        with self.watch.stage("network"):
            output = self.forward(pixel_values=pixels)
        with self.watch.stage("post-processing + RLE"):
            classes, masks = self.scene
            output.class_queries_logits = classes.expand(self.batch, *classes.shape)
            output.masks_queries_logits = masks.expand(self.batch, *masks.shape)
            results = self.processor.post_process_panoptic_segmentation(
                output,
                target_sizes=[self.picture.shape[:2]] * self.batch,
                stuff_classes=list(range(THINGS, CLASSES)),
                size=self.edges,
            )
            counts = [rle(result) for result in results]
        if self.watch.on and self.staged:
            seconds = self.watch.seconds
            seconds["encoder"] = seconds["rest of pixel decoder"] = 0.0
            seconds["transformer decoder"] = seconds.pop("network") - seconds["backbone"]
        return counts[0]


def rle(result: dict[str, Any]) -> int:
    """Encode every segment of a transformers result as the service's answers have it; returns how many there are."""
    from pycocotools import mask as coco

    ids = result["segmentation"].cpu().numpy()
    return len([coco.encode(np.asfortranarray(ids == s["id"], dtype=np.uint8)) for s in result["segments_info"]])


def flops_of(model: nn.Module, pixels: Tensor) -> int:
    """Multiply-accumulates of matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(pixel_values=pixels)
    return int(counter.get_total_flops()) // 2


def memory() -> dict[str, int]:
    """MiB of this process: resident now, and at most since `reset_peak`."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[key].split()[0]) // 1024 for name, key in (("resident", "VmRSS"), ("peak", "VmHWM"))}


def reset_peak() -> None:
    with suppress(OSError):  # not every container may; the peak then counts loading, too
        Path("/proc/self/clear_refs").write_text("5")


KINDS: dict[str, Callable[[dict[str, Any], Stopwatch], Any]] = {"ours": Ours, "transformers": Transformers, "eomt": Eomt}


@torch.inference_mode()
def main(arguments: Sequence[str]) -> None:
    """Serve one contender until standard input ends."""
    job = json.loads(arguments[0])
    warnings.filterwarnings("ignore")
    if job.get("keep"):  # as `proscale serve` does
        keep_freed_memory()
    torch.set_num_threads(job["threads"])
    watch = Stopwatch(job["device"])
    contender = KINDS[job["kind"]](job, watch)
    reset_peak()
    loaded = memory()["resident"]
    print(json.dumps({"loaded_mib": loaded, "flops": contender.flops}), flush=True)
    for line in sys.stdin:
        watch.on = line.strip() == "run"
        repeats = 1 if watch.on else job.get("repeats", 1)
        seconds = []
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(repeats):
            watch.seconds.clear()
            started = watch.now()
            segments = contender.run()
            seconds.append(watch.now() - started)
        faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // repeats
        answer = {"seconds": statistics.median(seconds), "stages": watch.seconds, "segments": segments, "page_faults": faults}
        answer["peak_growth_mib"] = memory()["peak"] - loaded
        if job["device"] != "cpu":
            answer["gpu_peak_mib"] = torch.cuda.max_memory_allocated() // 2**20
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
