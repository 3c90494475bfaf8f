"""FLOPs of a network per part, counted from its configuration and the padded size alone.

1 FLOP = 1 multiply-accumulate, as the paper and fvcore count. Linear layers, convolutions and attention products count in full,
norms 5 per element, bilinear resizing and sampling 4 per value made; activations, softmax and additions count nothing. Counted is
the network as published; `SegmentationNetwork.predict` needs a little less for the same result (attention masks made at their own size).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from proscale.config import (
    TASKS,
    Mask2FormerEncoderConfig,
    ModelConfig,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
    Task,
    TransformerDecoderConfig,
)

NORM, BILINEAR = 5, 4
BASELINE_LAYERS = 6


@dataclass(frozen=True)
class Flops:
    """FLOPs of one picture, by part."""

    backbone: int
    encoder: int
    pixel_embedding: int
    """The stride-4 smoothing step: 3x3 convolution or light pixel embedding."""
    pixel_decoder_rest: int
    """Input projections, lateral connection, mask projection."""
    mask_prediction: int
    """Class and mask logits of every prediction, and the attention masks made of them."""
    transformer_decoder: int
    postprocess: int

    @property
    def pixel_decoder(self) -> int:
        """Encoder, smoothing step and the rest."""
        return self.encoder + self.pixel_embedding + self.pixel_decoder_rest

    @property
    def total(self) -> int:
        """All parts."""
        return sum(asdict(self).values())


def baseline_config(config: ModelConfig) -> ModelConfig:
    """What savings are measured against: Mask2Former with 6 encoder layers and its 3x3 convolution, all else equal."""
    return replace(
        config, pixel_decoder=replace(config.pixel_decoder, encoder=Mask2FormerEncoderConfig(BASELINE_LAYERS), pixel_embedding="conv")
    )


@lru_cache(maxsize=1024)
def count_flops(
    config: ModelConfig, padded: tuple[int, int], output: tuple[int, int] | None = None, tasks: tuple[Task, ...] = TASKS
) -> Flops:
    """FLOPs of one picture.

    Args:
        config: the network.
        padded: (height, width) of the network's input in pixels, multiples of 32.
        output: (height, width) of the masks; None means the padded size.
        tasks: results asked for. Only the semantic one multiplies; panoptic and instance compare and select.
    """
    height, width = padded
    sizes = [(height // stride) * (width // stride) for stride in (4, 8, 16, 32)]
    backbone = _resnet(config.backbone, height, width) if isinstance(config.backbone, ResNetConfig) else _swin(config.backbone, padded)
    channels = (
        [config.backbone.res2_channels * 2**i for i in range(4)]
        if isinstance(config.backbone, ResNetConfig)
        else [config.backbone.embed_dim * 2**i for i in range(4)]
    )
    dim = config.pixel_decoder.hidden_dim
    projections = sum(tokens * dim * (c + NORM) for tokens, c in zip(sizes[1:], channels[1:], strict=True))
    lateral = sizes[0] * dim * (channels[0] + NORM + BILINEAR)
    smoothing = sizes[0] * dim * (NORM + (9 * dim if config.pixel_decoder.pixel_embedding == "conv" else 0))
    return Flops(
        backbone=backbone,
        encoder=_encoder(config.pixel_decoder, sizes[:0:-1]),
        pixel_embedding=smoothing,
        pixel_decoder_rest=projections + lateral + sizes[0] * dim * dim,
        mask_prediction=_mask_predictions(config.transformer_decoder, dim, config.classes, sizes),
        transformer_decoder=_decoder(config.transformer_decoder, dim, sizes),
        postprocess=count_query_postprocess(
            config.transformer_decoder.queries,
            config.classes,
            height * width,
            math.prod(output or padded),
            tasks,
            config.postprocess.combine_first,
        ),
    )


def _resnet(config: ResNetConfig, height: int, width: int) -> int:
    pixels = height * width // 4
    total = pixels * config.stem_channels * (3 * 49 + NORM)
    channels_in = config.stem_channels
    pixels //= 4
    for stage, blocks in enumerate(config.blocks):
        bottleneck, channels_out = config.bottleneck_channels * 2**stage, config.res2_channels * 2**stage
        for block in range(blocks):
            pixels_in = pixels
            if stage and not block:
                pixels //= 4
            total += pixels_in * bottleneck * (channels_in + NORM)
            total += pixels * bottleneck * (9 * bottleneck + NORM) + pixels * channels_out * (bottleneck + NORM)
            if channels_in != channels_out:
                total += pixels * channels_out * (channels_in + NORM)
            channels_in = channels_out
    return total


def _swin(config: SwinConfig, padded: tuple[int, int]) -> int:
    height, width = padded[0] // 4, padded[1] // 4
    total = height * width * config.embed_dim * (3 * 16 + NORM)
    for stage, depth in enumerate(config.depths):
        dim, window = config.embed_dim * 2**stage, config.window
        tokens = height * width
        # Attention runs on whole windows, padding included.
        windowed = -(-height // window) * window * -(-width // window) * window
        attention = windowed * dim * (4 * dim + 2 * window * window)
        total += depth * (attention + tokens * dim * (8 * dim + 2 * NORM)) + tokens * dim * NORM
        if stage < 3:
            height, width = -(-height // 2), -(-width // 2)
            total += height * width * 4 * dim * (2 * dim + NORM)
    return total


def _encoder(config: PixelDecoderConfig, sizes: Sequence[int]) -> int:
    """`sizes`: tokens of res5, res4, res3."""
    if isinstance(config.encoder, Mask2FormerEncoderConfig):
        return config.encoder.layers * _encoder_layer(config, sum(sizes), 3)
    total = sum(
        count * _encoder_layer(config, sum(sizes[: stage + 1]), stage + 1) for stage, count in enumerate(config.encoder.layers) if count
    )
    if config.encoder.recalibration != "none":
        total += sum(tokens * config.hidden_dim * (BILINEAR + 2) for tokens in sizes[:2])
    return total


def _encoder_layer(config: PixelDecoderConfig, tokens: int, levels: int) -> int:
    dim, samples = config.hidden_dim, levels * config.points
    projections = 2 * dim + config.heads * samples * 3  # value, output; offsets (x, y) and weights
    sampling = samples * BILINEAR
    return tokens * dim * (projections + sampling + 2 * config.ffn_dim + 2 * NORM)


def _mask_predictions(config: TransformerDecoderConfig, dim: int, classes: int, sizes: Sequence[int]) -> int:
    per_query = dim * (NORM + classes + 1 + 3 * dim)
    logits = sizes[0] * dim
    resized = sum(sizes[3 - i % 3] for i in range(config.layers)) * BILINEAR
    return config.queries * ((config.layers + 1) * (per_query + logits) + resized)


def _decoder(config: TransformerDecoderConfig, dim: int, sizes: Sequence[int]) -> int:
    queries, total = config.queries, 0
    for i in range(config.layers):
        tokens = sizes[3 - i % 3]
        cross = 2 * queries * dim * dim + 2 * tokens * dim * dim + 2 * queries * tokens * dim
        own = 4 * queries * dim * dim + 2 * queries * queries * dim
        total += cross + own + queries * dim * (2 * config.ffn_dim + 3 * NORM)
    return total


def count_query_postprocess(
    queries: int, classes: int, padded_pixels: int, output_pixels: int, tasks: Sequence[Task], combine_first: bool
) -> int:
    """FLOPs from class and mask logits of queries to masks; see `PostprocessConfig.combine_first`."""
    to_padded, to_output = queries * padded_pixels * BILINEAR, queries * output_pixels * BILINEAR
    if "semantic" not in tasks:
        return to_padded + to_output
    if not combine_first:
        return to_padded + to_output + queries * classes * output_pixels
    # Scores are summed up at the network's size, and theirs is the last resizing; other tasks still resize the masks.
    combined = classes * (queries * padded_pixels + output_pixels * BILINEAR)
    return to_padded + combined + (to_output if len(set(tasks)) > 1 else 0)
