"""Everything a training run is defined by: the same configuration and data give the same weights on the same machine."""

from dataclasses import dataclass, field

from proscale.config import (
    FloatPrecision,
    ModelConfig,
    PixelDecoderConfig,
    PostprocessConfig,
    PreprocessConfig,
    ProScaleEncoderConfig,
    ResNetConfig,
    TransformerDecoderConfig,
)
from proscale.training.augment import Augmentation
from proscale.training.scenes.painter import CATEGORIES, SceneConfig


@dataclass(frozen=True)
class LossConfig:
    """Weights as published (arXiv 2112.01527, section 4.1), but for the dense loss, which is not part of the paper."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    dense_weight: float = 2.0
    void_weight: float = 0.1
    """Weight of void among the classes: most queries answer for nothing."""
    points: int = 1024
    """Cells per mask at which the cross-entropy is computed."""
    matching_points: int = 0
    """Random cells at which the costs of matching are computed, as published; 0: all cells, which miss no small thing."""
    pilots: int = 60
    """Queries per picture that start from a segment's class; 0: none (see `pilots.py`)."""
    pilot_weight: float = 1.0
    wrong_class_share: float = 0.2
    """Share of pilots that start from a random class."""


@dataclass(frozen=True)
class TrainingConfig:
    """One run."""

    steps: int = 2400
    batch_size: int = 8
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, with the gradient of the whole."""
    crop: int = 256
    """Side of the square views, in pixels of the network's input."""
    seed: int = 0
    learning_rate: float = 5e-4
    backbone_multiplier: float = 1.0
    """The backbone's learning rate is so many times the others'."""
    warmup_steps: int = 100
    decay_share: float = 0.6
    """The learning rate falls linearly to zero over this last share of the steps."""
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    frozen_batch_norm: bool = False
    """Keep the statistics and scales of batch normalisation as they are: for fine-tuning, and for batches too small to measure them."""
    precision: FloatPrecision = "float32"
    """What the network computes in (autocast); weights and losses are float32."""
    depth_weights: tuple[float, ...] = ()
    """How often PRO-SCALE's last stage runs with 1, 2, ... of its layers, in proportion; empty: always with all.

    So trained, one checkpoint answers at every depth (stochastic depth, arXiv 1603.09382, over whole layers from the end).
    """
    ema_decay: float = 0.999
    evaluate_every: int = 0
    """Measure the averaged network on the validation split after every so many steps; 0: never."""
    scenes: int = 0
    """Drawn scenes, rendered once at the start; 0 trains on the data set alone."""
    crowding: float = 0.0
    """A picture is drawn in proportion to its number of segments to this power: 0 takes all alike, 1 every segment alike."""
    scene_share: float = 0.5
    """Share of views that show a scene."""
    scene_side: tuple[int, int] = (256, 384)
    losses: LossConfig = field(default_factory=LossConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    data_augmentation: Augmentation = field(default_factory=lambda: Augmentation(scale=(1.3, 2.8), rotate=False))
    scene_augmentation: Augmentation = field(default_factory=lambda: Augmentation(scale=(1.0, 2.2), rotate=False))


def embedded_model_config(classes: int) -> ModelConfig:
    """The network of the model that comes with the package: small enough to train and to run on two CPU cores."""
    return ModelConfig(
        name="proscale-nuclei-scenes",
        classes=classes,
        backbone=ResNetConfig(stem_channels=32, res2_channels=128, bottleneck_channels=32, blocks=(2, 2, 2, 2)),
        # Without re-calibration: as published, it mixes channels and positions in a way that depends on the picture's size.
        pixel_decoder=PixelDecoderConfig(ProScaleEncoderConfig((2, 2, 2), "none"), hidden_dim=128, ffn_dim=512),
        transformer_decoder=TransformerDecoderConfig(layers=3, queries=100, ffn_dim=512),
        preprocess=PreprocessConfig(short_side=320, long_side=512),
        # Chosen on training pictures of nuclei and on scenes, as docs/default-model.md says.
        postprocess=PostprocessConfig(
            threshold=0.5,
            overlap_threshold=0.05,
            mask_threshold=0.25,
            instance_threshold=0.5,
            connected=("nucleus", *(category.name for category in CATEGORIES if category.isthing)),
            min_pixels=30,
        ),
    )
