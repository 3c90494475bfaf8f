"""Pictures -> segmentations: the one entry point to the network for the service, the command line and evaluation."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from proscale.any_network import Network
from proscale.backbones.resnet import freeze_batch_norm
from proscale.checkpoints.blank_network import blank_network
from proscale.checkpoints.calibration_file import REMEDY as REMEDY_INT8
from proscale.checkpoints.calibration_file import load_calibration
from proscale.checkpoints.model_folder import DEFAULT_FOLDER, load_folder
from proscale.checkpoints.provenance import load_provenance
from proscale.checkpoints.strict_loading import load_strictly
from proscale.compiled import CompiledNetwork
from proscale.config import ModelConfig, Precision, Task, backbone_kind
from proscale.config_json import family_of
from proscale.cuda_graphs import GraphedNetwork
from proscale.errors import CheckpointError, DeviceError, ImageError
from proscale.geometry import ResizedPicture, padded_size, resize_picture, resized_size
from proscale.int8_network import Calibration, check_kind, to_int8
from proscale.joint_features import FeatureCache, joint_features
from proscale.labels import Category
from proscale.lanes import Lanes, lanes_of
from proscale.network import SegmentationNetwork
from proscale.ops.native import REMEDY, STATUS
from proscale.packed_network import pack
from proscale.planning import check_options, plan_picture
from proscale.postprocess.class_map import find_classes
from proscale.postprocess.confidence import confidence_map
from proscale.postprocess.found import Found, Frames, find_instances, find_panoptic, find_semantic
from proscale.postprocess.pieces import PieceRule, whole_things
from proscale.precision import configure_torch, default_precision, float_type, refuse_if_slow
from proscale.predictions import NetworkPrediction, QueryPrediction, of_picture
from proscale.preprocess import preprocess, preprocess_on, shared_size
from proscale.results import JointWindows, ModelInfo, Plan, Prediction, Provenance, Segment, Segmentation, SegmentationOptions
from proscale.rle import MeasuredMask
from proscale.tiles import Tiling, plan_joint

Candidate = tuple[int, float, MeasuredMask]
"""Class index, score in 0..1, mask."""


class Predictor:
    """A network with everything around it: preprocessing, post-processing, labels, cost.

    Calls from several threads at once are safe but slow each other down; give one thread the predictor.
    """

    def __init__(
        self,
        network: Network,
        categories: Sequence[Category],
        source: str = "memory",
        device: str = "cpu",
        provenance: Provenance | None = None,
        precision: Precision | None = None,
        cuda_graphs: bool = False,
        compile_for: Sequence[tuple[int, int]] = (),
        feature_cache_bytes: int = 0,
        calibration: Calibration | None = None,
    ) -> None:
        config = network.config
        if len(categories) != config.classes:
            raise CheckpointError(f"{len(categories)} categories for {config.classes} classes")
        self.config = config
        self.categories = tuple(categories)
        self.device = _device(device)
        self.precision: Precision = default_precision(self.device) if precision is None else precision
        refuse_if_slow(self.device, self.precision)
        configure_torch(self.device, self.precision)
        freeze_batch_norm(network)
        network.eval().requires_grad_(False).fold()  # before the weights are rounded to another precision
        floats = float_type(self.device, self.precision)
        if self.precision == "int8":
            if calibration is None:
                raise CheckpointError(f"int8 needs a calibration. {REMEDY_INT8}")
            if compile_for:
                raise CheckpointError("compiling is for float32 and bfloat16; leave it off with int8")
            to_int8(check_kind(network), calibration, floats)
        self.network = network.to(self.device, floats)
        if self.device.type == "cpu" and not compile_for:  # which has a way of its own to do so
            pack(self.network)
        if cuda_graphs and self.device.type != "cuda":
            raise CheckpointError(f"CUDA graphs need a CUDA device, not {self.device}")
        if cuda_graphs and not STATUS.cuda and isinstance(config, ModelConfig):
            raise CheckpointError(f"CUDA graphs need the compiled CUDA operator; it is not active: {STATUS.cuda_reason}. Remedy: {REMEDY}")
        if compile_for and self.device.type != "cpu":
            raise CheckpointError(f"compiling is for the CPU, not for {self.device}; CUDA graphs do as much there")
        if feature_cache_bytes and (cuda_graphs or compile_for or not isinstance(network, SegmentationNetwork)):
            raise CheckpointError("features are cached of PRO-SCALE and Mask2Former alone, without CUDA graphs and compiling")
        # A method of the network, not of this object, which would then hold itself, and its weights until a rare collection of cycles.
        self._predict: Callable[[Tensor], NetworkPrediction] = self.network.predict
        if cuda_graphs:
            self._predict = GraphedNetwork(self.network).predict
        elif compile_for:
            sizes = [padded_size(*resized_size(*size, config.preprocess), config.preprocess) for size in compile_for]
            self._predict = CompiledNetwork(self.network, sizes).predict
        self.feature_cache: FeatureCache | None = None
        # Compiled networks and the cache of features are for one thread.
        self._lanes = Lanes() if self.device.type == "cpu" and not compile_for and not feature_cache_bytes else None
        if feature_cache_bytes:
            assert isinstance(network, SegmentationNetwork)
            self.feature_cache = FeatureCache(network.backbone, feature_cache_bytes)
            self._predict = partial(network.predict, features=self.feature_cache)
        family, layers = family_of(config)
        self.info = ModelInfo(
            name=config.name,
            encoder=family,
            layers=layers,
            backbone=backbone_kind(config.backbone),
            categories=self.categories,
            loaded_from=source,
            provenance=provenance,
            tasks=config.tasks,
        )

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | None = None,
        *,
        device: str = "cpu",
        precision: Precision | None = None,
        cuda_graphs: bool = False,
        compile_for: Sequence[tuple[int, int]] = (),
        feature_cache_bytes: int = 0,
    ) -> Self:
        """Read a model folder; None means the model inside the package.

        `precision` is what the network computes in; None means float32 on a CPU, bfloat16 on a GPU that has it. The positions of samples
        are computed in float32 either way, and so is all that follows the logits; int8 reads the folder's calibration. `cuda_graphs`
        records the network's kernels once per size on a GPU (`GraphedNetwork`). `compile_for` names (height, width) in pixels of
        pictures for which it is compiled on a CPU (`CompiledNetwork`), a minute or so for each. `feature_cache_bytes` keeps the
        backbone's features of so many bytes, for pictures and windows that come again with the same pixels (`FeatureCache`); 0: none.

        Raises:
            CheckpointError: folder, weights or device cannot be used, or the precision is emulated there; the text names the remedy.
        """
        refuse_if_slow(_device(device), precision or "float32")
        folder = DEFAULT_FOLDER if checkpoint is None else checkpoint
        config, categories, state = load_folder(folder)
        calibration = load_calibration(folder) if precision == "int8" else None
        network = blank_network(config).to_empty(device="cpu")
        load_strictly(network, state)
        source, origin = "embedded default" if checkpoint is None else str(checkpoint), load_provenance(folder)
        return cls(network, categories, source, device, origin, precision, cuda_graphs, compile_for, feature_cache_bytes, calibration)

    def plan(self, height: int, width: int, tasks: Sequence[Task] = ()) -> Plan:
        """What a picture of (height, width) pixels will cost, for the model's first task if none is named; nothing is computed."""
        return plan_picture(self.config, height, width, tasks or self.config.tasks[:1])

    def plan_joint(self, tiling: Tiling, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        """As `plan`, of a picture whose windows are apart in the backbone alone. Raises ParameterError: see `tiles.plan_joint`."""
        return plan_joint(self.config, tiling, height, width, tasks)

    def check(self, options: SegmentationOptions) -> None:
        """Raise ParameterError, with the remedy, when this model cannot do what `options` ask."""
        check_options(options, self.categories, self.config.tasks)

    def _predict_joint(self, images: Tensor, windows: JointWindows) -> NetworkPrediction:
        assert isinstance(self.network, SegmentationNetwork)  # `plan_joint` refuses others
        backbone = self.feature_cache or self.network.backbone
        return self.network.predict(images, lambda batch: joint_features(backbone, batch, windows))

    def segment(self, images: Sequence[NDArray[np.uint8]], options: Sequence[SegmentationOptions]) -> list[Prediction]:
        """Segment pictures that share a padded size, as one batch.

        Args:
            images: (H, W, 3) uint8 RGB each.
            options: one per picture.

        Returns:
            One prediction per picture, in order; masks at the picture's own size.

        Raises:
            ImageError: a picture has the wrong form, or padded sizes differ.
            ParameterError: options that this model cannot do.
            DeviceError: the GPU failed for good.
        """
        if len(images) != len(options):
            raise ImageError(f"{len(images)} pictures but {len(options)} options")
        for option in options:
            self.check(option)
        started = time.perf_counter()
        pictures = [self.resize(image) for image in images]
        resize_seconds = time.perf_counter() - started
        plans = [self.plan(*picture.output_size, option.tasks) for picture, option in zip(pictures, options, strict=True)]
        return self.segment_resized(pictures, options, plans, resize_seconds)

    def segment_joint(self, image: NDArray[np.uint8], tiling: Tiling, options: SegmentationOptions) -> Prediction:
        """One picture (H, W, 3), uint8 RGB, whose windows are apart in the backbone alone.

        Raises:
            ParameterError: see `plan_joint`, or options that this model cannot do.
        """
        self.check(options)
        plan = self.plan_joint(tiling, image.shape[0], image.shape[1], options.tasks)
        started = time.perf_counter()
        picture = self.resize(image, plan)
        return self.segment_resized([picture], [options], [plan], time.perf_counter() - started)[0]

    def resize(self, image: NDArray[np.uint8], plan: Plan | None = None) -> ResizedPicture:
        """A picture (H, W, 3), uint8 RGB, at the network's size. Raises ImageError: it has another form.

        Args:
            plan: the picture's; None: as without windows.
        """
        return resize_picture(image, self.config.preprocess, None if plan is None else plan.resized)

    @torch.inference_mode()
    def segment_resized(
        self,
        pictures: Sequence[ResizedPicture],
        options: Sequence[SegmentationOptions],
        plans: Sequence[Plan],
        resize_seconds: float = 0.0,
    ) -> list[Prediction]:
        """`segment` for pictures that were resized, planned and checked before.

        Args:
            options: one per picture, which this model can do (`check`).
            plans: one per picture, from `plan`.
            resize_seconds: what resizing took; counted as part of preprocessing.

        Raises:
            ImageError: padded sizes differ.
            DeviceError: the GPU failed for good.
        """
        try:
            return self._segment(pictures, options, plans, resize_seconds)
        except torch.AcceleratorError as error:
            try:
                torch.cuda.synchronize(self.device)
            except torch.AcceleratorError:  # the same again: CUDA will answer nothing else in this process
                raise DeviceError(f"{self.device} failed and needs a new process: {str(error).splitlines()[0]}") from error
            raise

    def _segment(
        self, pictures: Sequence[ResizedPicture], options: Sequence[SegmentationOptions], plans: Sequence[Plan], resize_seconds: float
    ) -> list[Prediction]:
        if len(pictures) > 1 and any(plan.joint is not None for plan in plans):  # windows of its own each
            share = resize_seconds / len(pictures)
            each = zip(pictures, options, plans, strict=True)
            return [self._segment([picture], [option], [plan], share)[0] for picture, option, plan in each]
        if len(pictures) > 1 and self._lanes is not None and torch.get_num_threads() > 1:
            return self._side_by_side(self._lanes, pictures, options, plans, resize_seconds)
        clock = time.perf_counter
        started = clock()
        on_gpu = self.device.type == "cuda"
        batch = preprocess_on(pictures, self.config.preprocess, self.device) if on_gpu else preprocess(pictures, self.config.preprocess)
        preprocessed = clock()
        output = self._predict(batch) if plans[0].joint is None else self._predict_joint(batch, plans[0].joint)
        if on_gpu:
            torch.cuda.synchronize(self.device)  # otherwise its time would be counted as post-processing
        inferred = clock()
        shared = {"preprocess": resize_seconds + preprocessed - started, "infer": inferred - preprocessed}
        predictions = []
        for i, (picture, option, plan) in enumerate(zip(pictures, options, plans, strict=True)):
            logits = _Picture(self, of_picture(output, i), plan, picture.output_size, option)
            timings = {"postprocess": 0.0, "encode": 0.0}
            results = {task: logits.result(task, timings) for task in option.tasks}
            predictions.append(Prediction(results, plan, shared | timings))
        return predictions

    def _side_by_side(
        self,
        lanes: Lanes,
        pictures: Sequence[ResizedPicture],
        options: Sequence[SegmentationOptions],
        plans: Sequence[Plan],
        resize_seconds: float,
    ) -> list[Prediction]:
        """`_segment` of every picture by itself, several at once."""
        shared_size(pictures, self.config.preprocess)

        def one(number: int) -> Prediction:
            return self._segment([pictures[number]], [options[number]], [plans[number]], 0.0)[0]

        predictions = lanes.run(one, len(pictures))
        # Of the whole batch, as when it is computed as one: the longest lane's.
        dealt = lanes_of(len(pictures), torch.get_num_threads())
        shared = {
            stage: max(sum(predictions[number].timings[stage] for number in numbers) for numbers in dealt)
            for stage in ("preprocess", "infer")
        }
        shared["preprocess"] += resize_seconds
        return [replace(prediction, timings={**prediction.timings, **shared}) for prediction in predictions]


class _Picture:
    """The logits of one picture on their way to segments."""

    def __init__(
        self,
        predictor: Predictor,
        said: NetworkPrediction,
        plan: Plan,
        size: tuple[int, int],
        options: SegmentationOptions,
    ) -> None:
        self.categories, self.defaults = predictor.categories, predictor.config.postprocess
        self.is_thing = [category.isthing for category in predictor.categories]
        connected = [category.isthing and category.name in self.defaults.connected for category in predictor.categories]
        self.pieces = PieceRule(connected, self.defaults.join_share, self.defaults.min_pixels) if any(connected) else None
        self.said, self.plan, self.size, self.options = said, plan, size, options
        self.mask_threshold = self.defaults.mask_threshold if options.mask_threshold is None else options.mask_threshold

    def result(self, task: Task, timings: dict[str, float]) -> Segmentation:
        """One task's segments; adds the seconds spent to `timings`."""
        started = time.perf_counter()
        found = self._find(task)
        postprocessed = time.perf_counter()
        segments = self._segments([candidate for part in found for candidate in part.encode()])
        timings["postprocess"] += postprocessed - started
        confidence = self._confidence() if task == "semantic" and self.options.confidence else None
        timings["encode"] += time.perf_counter() - postprocessed
        return Segmentation(task, self.size, segments, confidence)

    def _confidence(self) -> bytes:
        frames, defaults = Frames(self.plan.padded, self.plan.resized, self.size), self.defaults
        values = confidence_map(self.said, frames, combine_first=defaults.combine_first, resize_twice=defaults.resize_twice)
        stored = io.BytesIO()
        Image.fromarray(values).save(stored, "PNG", compress_level=1)
        return stored.getvalue()

    def _find(self, task: Task) -> list[Found]:
        """What was found, in one or two parts."""
        said, frames = self.said, Frames(self.plan.padded, self.plan.resized, self.size)
        if not isinstance(said, QueryPrediction):
            return [find_classes(said, frames, self.defaults.resize_twice)]
        logits = (said.class_logits[0], said.mask_logits[0], frames)
        if task == "semantic":
            return [find_semantic(*logits, self.defaults.combine_first)]
        if task == "panoptic":
            return [self._panoptic(logits, self.defaults.threshold)]
        asked, defaults = self.options, self.defaults
        threshold = defaults.instance_threshold if asked.threshold is None else asked.threshold
        ranked = max(defaults.max_instances, asked.max_segments or 0)
        found = find_instances(*logits, self.is_thing, ranked, self.mask_threshold, threshold)
        if self.pieces is None:
            return [found]
        # Of connected things, instances are the panoptic segments: queries that share one would say it twice.
        apart = self.pieces.connected
        return [found.of([not each for each in apart]), self._panoptic(logits, threshold).of(apart)]

    def _panoptic(self, logits: tuple[Tensor, Tensor, Frames], threshold: float) -> Found:
        asked = self.options
        threshold = threshold if asked.threshold is None else asked.threshold
        overlap = self.defaults.overlap_threshold if asked.overlap_threshold is None else asked.overlap_threshold
        found = find_panoptic(*logits, self.is_thing, threshold, overlap, self.mask_threshold)
        return found if self.pieces is None else whole_things(found, self.pieces)

    def _segments(self, candidates: Sequence[Candidate]) -> tuple[Segment, ...]:
        wanted = self.options.labels
        if wanted is not None:
            candidates = [candidate for candidate in candidates if self.categories[candidate[0]].name in wanted]
        if self.options.max_segments is not None:
            best = sorted(range(len(candidates)), key=lambda i: -candidates[i][1])[: self.options.max_segments]
            candidates = [candidates[i] for i in sorted(best)]
        segments = []
        for i, (label, score, mask) in enumerate(candidates, start=1):
            category = self.categories[label]
            segments.append(Segment(i, category.id, category.name, category.isthing, score, mask.bbox, mask.area, mask.rle))
        return tuple(segments)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CheckpointError(f"no such device: {name!r}; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {name} was asked for, but torch finds no CUDA device; use cpu, or mend the driver")
    return device
