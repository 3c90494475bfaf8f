"""Any checkpoint of a network that is known here -> a model in our form, with a word on everything that was read or assumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from proscale.checkpoints.beside_transformers import FILE as BESIDE_FILE
from proscale.checkpoints.beside_transformers import load_beside, restore
from proscale.checkpoints.blank_network import blank_network
from proscale.checkpoints.choose_labels import Labels, choose_labels
from proscale.checkpoints.class_order import in_order, read_order, renamed
from proscale.checkpoints.convert_networks import Asked, convert_network
from proscale.checkpoints.detectron2_config import read_detectron2_config
from proscale.checkpoints.detectron2_names import from_detectron2, is_detectron2
from proscale.checkpoints.hub import fetch, is_hub_source
from proscale.checkpoints.model_folder import LABELS_FILE, WEIGHTS_FILE, load_folder
from proscale.checkpoints.provenance import load_provenance
from proscale.checkpoints.published_models import published_models
from proscale.checkpoints.recognise_architecture import Architecture, backbone_name, encoder_name, recognise
from proscale.checkpoints.stated_settings import StatedSettings, check_claims
from proscale.checkpoints.strict_loading import check_strictly, listed
from proscale.checkpoints.transformers_config import PREPROCESSOR_FILE, read_json_settings, read_transformers_config
from proscale.checkpoints.transformers_names import from_transformers, is_transformers
from proscale.checkpoints.warm_start import warm_start
from proscale.checkpoints.weight_files import Checkpoint, read_checkpoint, sha256
from proscale.config import (
    Mask2FormerEncoderConfig,
    ModelConfig,
    NetworkConfig,
    PixelDecoderConfig,
    PostprocessConfig,
    PreprocessConfig,
    ProScaleEncoderConfig,
    ResNetConfig,
    SwinConfig,
    Task,
)
from proscale.config_json import CONFIG_FILE
from proscale.errors import CheckpointError
from proscale.labels import Category
from proscale.results import Provenance

SIZES = ("short_side", "long_side", "size", "resize")
"""What `Request.size` may say."""


@dataclass(frozen=True)
class Request:
    """What the user says about a source; None leaves it to the source."""

    config: Path | None = None
    """A detectron2 YAML, mmsegmentation's `.py` or a transformers `config.json` that does not lie beside the weights."""
    labels: str | None = None
    task: Task | None = None
    name: str | None = None
    size: StatedSettings | None = None
    """Sizes of pictures (`short_side` and `long_side`, `size`, or `resize`), in place of all that a preprocessor_config.json says."""
    temperature: float | None = None
    residual: bool | None = None
    weights: str | None = None
    """Which weights of a file that holds several: `model`, `ema`, or where they stand in it."""
    base: str | None = None
    """DINOv3's own weights, which EoMT's deltas are added to: a file, a folder, `hf:OWNER/NAME`, or `none`."""
    allow_missing_auxiliary: bool = False
    """Take a SETR without its auxiliary heads."""


@dataclass(frozen=True)
class Converted:
    """A model in our form, and how it came to be."""

    config: NetworkConfig
    categories: tuple[Category, ...]
    state: Mapping[str, Tensor]
    provenance: Provenance
    notes: tuple[str, ...]
    """For the user: what was read from where, and what was assumed."""


def convert(source: str, request: Request) -> Converted:
    """Read SOURCE (a file, a folder, or `hf:OWNER/NAME[@revision]`) and recognise it.

    Raises:
        CheckpointError: it cannot be read, is no such network, or does not say something that is needed; the text says what.
    """
    name, path, default_name = source, Path(source), Path(source).resolve().stem
    if is_hub_source(source):
        fetched = fetch(source)
        name, path, default_name = f"hf:{fetched.repository}@{fetched.commit}", fetched.folder, fetched.repository
    if (path / LABELS_FILE).is_file() and (path / WEIGHTS_FILE).is_file():
        return _own_folder(path, name, request)
    checkpoint = read_checkpoint(path, request.weights)
    asked_of = Asked(
        checkpoint.files[0].parent,
        default_name,
        request.config,
        request.labels,
        request.task,
        request.name,
        _base(request),
        request.size,
        request.allow_missing_auxiliary,
    )
    if (network := convert_network(checkpoint, asked_of)) is not None:
        check_strictly(blank_network(network.config), network.state)
        provenance = Provenance(name if is_hub_source(source) else path.resolve().name, sha256(checkpoint.files), network.layout)
        notes = (*_choice(checkpoint), *network.notes)
        read = Converted(network.config, network.labels.categories, network.state, provenance, notes)
        return _restored(read, checkpoint, request, network.stated_names)
    layout, state = _to_our_names(checkpoint)
    file = _companion(path, checkpoint, request.config)
    said, note = _followed(_read_companion(file, request.size is None) if file else StatedSettings(), name)
    asked = replace(
        request.size or StatedSettings(),
        temperature=request.temperature,
        residual=request.residual,
        task=request.task or _task_of(default_name),
    )
    hints = asked.or_else(said).or_else(_pixel_statistics(checkpoint.state))
    architecture = recognise(
        state,
        **{key: value for key in ("heads", "points", "temperature", "residual") if (value := getattr(hints, key)) is not None},
    )
    if file:
        check_claims(hints, architecture, str(file))
    labels = choose_labels(architecture.classes, hints, request.labels)
    config = _config(architecture, hints, labels, request.name or _title(architecture, labels, default_name))
    check_strictly(blank_network(config), state)
    provenance = Provenance(name if is_hub_source(source) else path.resolve().name, sha256(checkpoint.files), layout)
    notes = (*_choice(checkpoint), *note, *_notes(config, hints, labels, layout, file))
    return _restored(Converted(config, labels.categories, state, provenance, notes), checkpoint, request, hints.label_names)


def _restored(read: Converted, checkpoint: Checkpoint, request: Request, names: Sequence[str] | None) -> Converted:
    """What transformers' files could not say, from the `proscale.json` beside them; options go before it."""
    folder = checkpoint.files[0].parent
    beside = load_beside(folder) if read.provenance.layout.startswith("transformers") and request.config is None else None
    if beside is None:
        return read
    processor = folder / PREPROCESSOR_FILE
    values = read_json_settings(processor) if processor.is_file() and request.size is None else None
    config, categories = restore(beside, read.config, read.categories, names, values)
    config = replace(config, name=request.name or config.name)
    categories = read.categories if request.labels is not None else categories
    note = f"{BESIDE_FILE}: labels, thresholds and sizes as they were before transformers"
    earlier = beside.provenance
    chain = (f"was made from {earlier.name}, sha256 {earlier.sha256}, layout {earlier.layout}", *earlier.changes)
    provenance = replace(read.provenance, changes=chain)
    return Converted(config, categories, read.state, provenance, (*read.notes, note))


def start_warm(converted: Converted, encoder: ProScaleEncoderConfig, name: str | None) -> Converted:
    """`warm_start` of something converted, telling which layer feeds which in the notes and the provenance."""
    if not isinstance(converted.config, ModelConfig):
        raise CheckpointError("a warm start needs a Mask2Former, whose encoder it changes")
    started = warm_start(converted.config, converted.state, encoder)
    feeds = ", ".join(f"{new} <- {old}" for new, old in enumerate(started.sources))
    change = f"warm start of {encoder_name(encoder)}, to be fine-tuned; encoder layers {feeds} (new <- source)"
    config = replace(started.config, name=name or f"{encoder_name(encoder)} from {converted.config.name}")
    check_strictly(blank_network(config), started.state)
    provenance = replace(converted.provenance, changes=(*converted.provenance.changes, change))
    return Converted(config, converted.categories, started.state, provenance, (*converted.notes, change))


def put_in_order(converted: Converted, asked: str) -> Converted:
    """`in_order` of something converted, by a table's name or a file; the notes and the provenance say so."""
    order = read_order(asked)
    config, categories, state = in_order(converted.config, converted.categories, converted.state, order)
    change = f"classes put in the order of {order.source}"
    provenance = replace(converted.provenance, changes=(*converted.provenance.changes, change))
    return Converted(config, categories, state, provenance, (*converted.notes, change))


def _own_folder(path: Path, name: str, request: Request) -> Converted:
    """A folder of ours: nothing to recognise; labels and name may be given anew."""
    if request.config is not None:
        raise CheckpointError(f"{path} is a model folder of ours; its {CONFIG_FILE} says everything, and --config has no part in it")
    config, categories, state = load_folder(path)
    if request.labels is not None:
        before, categories = categories, choose_labels(config.classes, StatedSettings(), request.labels).categories
        config = renamed(config, {old.name: new.name for old, new in zip(before, categories, strict=True)})
    provenance = load_provenance(path) or Provenance(
        name if is_hub_source(name) else path.resolve().name, sha256((path / WEIGHTS_FILE,)), "proscale"
    )
    config = replace(config, name=request.name or config.name)
    if request.size is not None:
        asked = {
            name: value for name in ("short_side", "long_side", "size", "resize") if (value := getattr(request.size, name)) is not None
        }
        config = replace(config, preprocess=replace(config.preprocess, **({"size": None, "resize": True} | asked)))
    return Converted(config, categories, state, provenance, (f"layout: a model folder of ours ({config.name})",))


def _choice(checkpoint: Checkpoint) -> tuple[str, ...]:
    return () if checkpoint.note is None else (checkpoint.note,)


def _to_our_names(checkpoint: Checkpoint) -> tuple[str, dict[str, Tensor]]:
    names = checkpoint.state.keys()
    if is_detectron2(names):
        return "detectron2", from_detectron2(checkpoint.state)
    if is_transformers(names):
        return "transformers", from_transformers(checkpoint.state)
    raise CheckpointError(
        "this is neither detectron2's nor transformers' Mask2Former (no name starts with sem_seg_head. or model.pixel_level_module.), "
        f"nor EoMT, SegFormer, SETR or SegViT. Its names: {listed(names)}. A whole network is needed, not a backbone alone."
    )


def _base(request: Request) -> str | None:
    """The path of `Request.base`, fetched if it is on the hub."""
    return str(fetch(request.base).folder) if request.base is not None and is_hub_source(request.base) else request.base


def _companion(path: Path, checkpoint: Checkpoint, asked: Path | None) -> Path | None:
    """The configuration that goes with the weights: the one asked for, or the one beside them that can be no other's."""
    if asked is not None:
        return asked
    folder = checkpoint.files[0].parent
    if is_transformers(checkpoint.state.keys()):
        return folder / CONFIG_FILE if (folder / CONFIG_FILE).is_file() else None
    own = [checkpoint.files[0].with_suffix(suffix) for suffix in (".yaml", ".yml")]
    beside = sorted(file for file in folder.glob("*.y*ml")) if path.is_dir() else []
    return next((file for file in own if file.is_file()), beside[0] if len(beside) == 1 else None)


def _read_companion(file: Path, with_preprocessor: bool) -> StatedSettings:
    return read_transformers_config(file, with_preprocessor) if file.suffix == ".json" else read_detectron2_config(file)


def _followed(said: StatedSettings, name: str) -> tuple[StatedSettings, tuple[str, ...]]:
    """What files say, but for the fixed size of the published models: their figures were measured with the data set's sizes."""
    published = {model.hub for model in published_models() if model.hub is not None}
    if name.removeprefix("hf:").split("@")[0] in published and said.size is None:
        return replace(said, align=None), ()
    if said.size is None or name.removeprefix("hf:").split("@")[0] not in published:
        return said, ()
    height, width = said.size
    note = f"preprocessor_config.json squeezes pictures to {height}x{width}; left out: these were measured at the data set's sizes"
    return replace(said, size=None, align=None), (note,)


def _task_of(name: str) -> Task | None:
    """The hub names models after their task, such as mask2former-swin-large-ade-semantic."""
    tasks: tuple[Task, ...] = ("panoptic", "instance", "semantic")
    return next((task for task in tasks if name.endswith(f"-{task}")), None)


def _pixel_statistics(state: Mapping[str, Tensor]) -> StatedSettings:
    """Mean and deviation that some detectron2 checkpoints carry among their weights."""

    def three(name: str) -> tuple[float, float, float] | None:
        if name not in state or state[name].numel() != 3:
            return None
        first, second, third = (round(value, 4) for value in state[name].flatten().tolist())
        return first, second, third

    return StatedSettings(mean=three("pixel_mean"), std=three("pixel_std"))


def _test_size(architecture: Architecture, hints: StatedSettings, labels: Labels) -> tuple[int, int]:
    """The published test size: of the data set, except for the smaller ADE20K semantic models, which were tested at 512."""
    if labels.table is None:
        return PreprocessConfig.short_side, PreprocessConfig.long_side
    small = isinstance(architecture.backbone, ResNetConfig) or architecture.backbone.window == SwinConfig.window
    if labels.table.name == "ade20k" and hints.task == "semantic" and small:
        return 512, 2048
    return labels.table.short_side, labels.table.long_side


def _config(architecture: Architecture, hints: StatedSettings, labels: Labels, name: str) -> ModelConfig:
    short, long = _test_size(architecture, hints, labels)
    size = PreprocessConfig(
        short_side=hints.short_side or short,
        long_side=hints.long_side or long,
        size=hints.size,
        resize=hints.resize is not False,
        size_divisor=hints.size_divisor or PreprocessConfig.size_divisor,
        align=hints.align or PreprocessConfig.align,  # type: ignore[arg-type]  # the reader has checked it
        filter=hints.filter or PreprocessConfig.filter,  # type: ignore[arg-type]  # the reader has checked it
    )
    limits = PostprocessConfig()
    return ModelConfig(
        name=name,
        classes=architecture.classes,
        backbone=architecture.backbone,
        pixel_decoder=architecture.pixel_decoder,
        transformer_decoder=architecture.transformer_decoder,
        preprocess=replace(size, mean=hints.mean or size.mean, std=hints.std or size.std),
        postprocess=replace(
            limits,
            threshold=limits.threshold if hints.threshold is None else hints.threshold,
            overlap_threshold=limits.overlap_threshold if hints.overlap_threshold is None else hints.overlap_threshold,
            max_instances=hints.max_instances or max(limits.max_instances, architecture.transformer_decoder.queries),
            combine_first=hints.task == "semantic" if hints.combine_first is None else hints.combine_first,
        ),
    )


def _title(architecture: Architecture, labels: Labels, default: str) -> str:
    encoder = architecture.pixel_decoder.encoder
    family = "Mask2Former" if isinstance(encoder, Mask2FormerEncoderConfig) else encoder_name(encoder)
    return f"{family} {backbone_name(architecture.backbone)} {labels.table.title if labels.table else default}"


def _sizes(config: ModelConfig, hints: StatedSettings, labels: Labels) -> str:
    size = config.preprocess
    if not size.resize:
        text = "of their own size, not resized"
    elif size.size is not None:
        text = f"squeezed to {size.size[0]}x{size.size[1]} (--size SHORT,LONG keeps proportions)"
    else:
        text = f"short side {size.short_side}, long side at most {size.long_side}"
        if not hints.short_side:
            text += f" ({'published for this data set' if labels.table else 'the default'}; no configuration says)"
    if size.size_divisor != PreprocessConfig.size_divisor or size.filter != PreprocessConfig.filter:
        text += f"; multiples of {size.size_divisor}, {size.filter} filter"
    return text


def _notes(config: ModelConfig, hints: StatedSettings, labels: Labels, layout: str, file: Path | None) -> list[str]:
    pixel, decoder = config.pixel_decoder, config.transformer_decoder
    beside = file.name if file else "no configuration"
    notes = [
        f"layout: {layout}, with {beside}",
        f"backbone: {backbone_name(config.backbone)} {config.backbone}",
        f"encoder: {encoder_name(pixel.encoder)}, pixel embedding {pixel.pixel_embedding}",
        f"decoder: {decoder.layers} layers, {decoder.queries} queries, hidden size {pixel.hidden_dim}",
        f"classes: {config.classes}; labels: {labels.reason}",
        f"pictures: {_sizes(config, hints, labels)}",
    ]
    if hints.task is not None:
        order = ": scores are combined first, then resized" if config.postprocess.combine_first else ""
        notes.append(f"trained for: {hints.task}{order}")
    if hints.heads is None:
        notes.append(f"assumed, as published: {pixel.heads} attention heads, {PixelDecoderConfig.points} sampling points")
    if isinstance(pixel.encoder, ProScaleEncoderConfig):
        encoder, parts = pixel.encoder, []
        if encoder.recalibration != "none":
            parts.append(f"temperature {encoder.temperature}" + ("" if hints.temperature is not None else " (assumed, as published)"))
        parts.append(f"residual {encoder.residual}" + ("" if hints.residual is not None else " (assumed, as published)"))
        notes.append(f"token re-calibration: {encoder.recalibration}; " + ", ".join(parts))
    return notes
