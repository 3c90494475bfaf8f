"""FLOPs of any network: EoMT, SegFormer, SETR and SegViT here, Mask2Former with either encoder in `flops`.

Counted as there. What `predict` computes is the cost, the network as published is the baseline.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self

from proscale.config import (
    TASKS,
    EomtModelConfig,
    MixTransformerConfig,
    ModelConfig,
    NetworkConfig,
    SegformerHeadConfig,
    SegvitHeadConfig,
    SemanticModelConfig,
    SetrHeadConfig,
    Task,
    VitConfig,
)
from proscale.flops import BILINEAR, NORM, Flops, baseline_config, count_flops, count_query_postprocess
from proscale.geometry import window_places

MASK2FORMER_BASELINE = "Mask2Former with 6 encoder layers, all else equal"
PUBLISHED_BASELINE = "the network as published"


class Cost(NamedTuple):
    """Multiply-accumulates of matrix products, convolutions and attention; and what norms and resizing cost."""

    products: int
    rest: int = 0

    def plus(self, *others: "Cost") -> "Cost":
        """The sum."""
        return Cost(self.products + sum(o.products for o in others), self.rest + sum(o.rest for o in others))

    def times(self, factor: int) -> "Cost":
        """So many of them."""
        return Cost(factor * self.products, factor * self.rest)

    @property
    def total(self) -> int:
        """Both."""
        return self.products + self.rest


@dataclass(frozen=True)
class HeadFlops:
    """FLOPs of one picture on a network of backbone and head, by part; of all windows, where there are windows."""

    backbone: int
    head: int
    postprocess: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.backbone + self.head + self.postprocess


@dataclass(frozen=True)
class Grid:
    """Tokens of a plain ViT for one input."""

    height: int
    width: int

    @classmethod
    def of(cls, size: tuple[int, int], patch: int) -> Self:
        """Args: size: (height, width) of the input in pixels; it is padded to whole patches."""
        return cls(-(-size[0] // patch), -(-size[1] // patch))

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.height * self.width

    @property
    def halved(self) -> "Grid":
        """Every second token of every second row."""
        return Grid(-(-self.height // 2), -(-self.width // 2))


def baseline_name(config: NetworkConfig) -> str:
    """What savings are measured against."""
    return MASK2FORMER_BASELINE if isinstance(config, ModelConfig) else PUBLISHED_BASELINE


def count_network(
    config: NetworkConfig, padded: tuple[int, int], output: tuple[int, int] | None = None, tasks: tuple[Task, ...] = TASKS
) -> Flops | HeadFlops:
    """FLOPs of one picture.

    Args:
        padded: (height, width) of the network's input in pixels.
        output: (height, width) of the masks; None means the padded size.
        tasks: those that are asked for, in any order.
    """
    return count_flops(config, padded, output, tasks) if isinstance(config, ModelConfig) else _count(config, padded, output, tasks, False)


def count_baseline(
    config: NetworkConfig, padded: tuple[int, int], output: tuple[int, int] | None = None, tasks: tuple[Task, ...] = TASKS
) -> Flops | HeadFlops:
    """FLOPs of the baseline for the same picture; args as `count_network`."""
    if isinstance(config, ModelConfig):
        return count_flops(baseline_config(config), padded, output, tasks)
    return _count(config, padded, output, tasks, True)


@lru_cache(maxsize=1024)
def _count(
    config: EomtModelConfig | SemanticModelConfig,
    padded: tuple[int, int],
    output: tuple[int, int] | None,
    tasks: tuple[Task, ...],
    published: bool,
) -> HeadFlops:
    windows, size = 1, padded
    if config.slide is not None:
        places, size = window_places(padded, config.slide)
        windows = len(places)
    backbone, head = network_cost(config, size, published)
    postprocess = _postprocess(config, padded, size, windows, math.prod(output or padded), tasks)
    return HeadFlops(windows * backbone.total, windows * head.total, postprocess)


def network_cost(config: EomtModelConfig | SemanticModelConfig, size: tuple[int, int], published: bool) -> tuple[Cost, Cost]:
    """Backbone and head for one input or window of `size` (height, width) pixels, as published or by the short way."""
    if isinstance(config, EomtModelConfig):
        return _eomt(config, Grid.of(size, config.backbone.patch))
    if isinstance(config.backbone, MixTransformerConfig):
        assert isinstance(config.head, SegformerHeadConfig)
        sizes = _mit_sizes(size)
        return _mit(config.backbone, sizes), _segformer(config.head, config.backbone, sizes, config.classes, published)
    grid = Grid.of(size, config.backbone.patch)
    taps = config.backbone.taps or (config.backbone.layers - 1,)
    backbone = _vit_embedding(config.backbone, grid).plus(_vit_until(config.backbone, grid, max(taps) + 1))
    if isinstance(config.head, SetrHeadConfig):
        return backbone, _setr(config.head, config.backbone.dim, len(taps), grid.tokens, config.classes, published)
    assert isinstance(config.head, SegvitHeadConfig)
    if config.head.query_grid is not None:
        return backbone, _segvit_shrunk(config.head, config.backbone, taps, grid, config.classes, published)
    return backbone, _segvit(config.head, config.backbone.dim, len(taps), grid.tokens, config.classes, published)


def _mit_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    sizes, (height, width) = [], size
    for stride in (4, 2, 2, 2):
        height, width = -(-height // stride), -(-width // stride)
        sizes.append((height, width))
    return sizes


def _mit(config: MixTransformerConfig, sizes: Sequence[tuple[int, int]]) -> Cost:
    total, channels_in = Cost(0), 3
    for stage, (height, width) in enumerate(sizes):
        n, c, r = height * width, config.channels[stage], config.reductions[stage]
        total = total.plus(Cost(n * c * channels_in * (9 if stage else 49), 2 * n * c * NORM))
        m = (height // r) * (width // r)
        reduction = Cost(m * c * c * r * r, m * c * NORM) if r > 1 else Cost(0)
        attention = Cost(2 * n * c * c + 2 * m * c * c + 2 * n * m * c, n * c * NORM)
        feed_forward = Cost(2 * config.mlp_ratio * n * c * c + 9 * config.mlp_ratio * n * c, n * c * NORM)
        total = total.plus(reduction.plus(attention, feed_forward).times(config.depths[stage]))
        channels_in = c
    return total


def _segformer(
    head: SegformerHeadConfig, backbone: MixTransformerConfig, sizes: Sequence[tuple[int, int]], classes: int, published: bool
) -> Cost:
    d, tokens = head.dim, [height * width for height, width in sizes]
    n, resized = tokens[0], Cost(0, 3 * tokens[0] * d * BILINEAR)
    levels = Cost(sum(count * c * d for count, c in zip(tokens, backbone.channels, strict=True)))
    classifier = Cost(n * d * classes)
    if published:
        norms = n * d * NORM + (sum(tokens) * d * NORM if head.variant == "conv" else 0)
        return levels.plus(resized, Cost(4 * n * d * d, norms), classifier)
    fuse = Cost(sum(tokens) * d * d) if head.variant == "conv" else Cost(0)
    return levels.plus(fuse, resized, classifier)


def _tokens(config: VitConfig, grid: Grid) -> int:
    return grid.tokens + config.registers + int(config.class_token)


def _vit_embedding(config: VitConfig, grid: Grid) -> Cost:
    resized = config.position != "rotary" and (grid.height, grid.width) != config.grid
    values = grid.tokens * config.dim
    return Cost(values * 3 * config.patch**2, values * BILINEAR if resized else 0)


def _vit_blocks(config: VitConfig, tokens: int, count: int) -> Cost:
    c, mlp = config.dim, (3 if config.gated_mlp else 2) * config.mlp_dim
    return Cost(tokens * c * (4 * c + mlp) + 2 * tokens * tokens * c, 2 * tokens * c * NORM).times(count)


def _vit_until(config: VitConfig, grid: Grid, count: int) -> Cost:
    """The first `count` blocks, a quarter of the tokens from the one that shrinks on."""
    tokens = _tokens(config, grid)
    if config.shrink is None or config.shrink >= count:
        return _vit_blocks(config, tokens, count)
    kept, c = grid.halved.tokens, config.dim
    attention = Cost(2 * kept * c * c + 2 * tokens * c * c + 2 * kept * tokens * c, tokens * c * NORM)
    feed_forward = Cost((3 if config.gated_mlp else 2) * kept * c * config.mlp_dim, kept * c * NORM)
    before, after = _vit_blocks(config, tokens, config.shrink), _vit_blocks(config, kept, count - config.shrink - 1)
    return before.plus(attention, feed_forward, after)


def _setr(head: SetrHeadConfig, dim: int, taps: int, n: int, classes: int, published: bool) -> Cost:
    d, m = head.dim, head.mla_dim
    if head.variant == "mla":
        tap = Cost(n * (dim * d + 9 * d * d + 9 * d * m + 9 * m * m), n * dim * NORM)
        if published:
            norms = Cost(0, 2 * n * (d + m) * NORM + 16 * n * m * BILINEAR)
            return tap.plus(norms).times(taps).plus(Cost(16 * n * taps * m * classes))
        return tap.times(taps).plus(Cost(n * taps * m * classes, 16 * n * classes * BILINEAR))
    if head.variant == "naive":
        step = Cost(n * dim * d, n * dim * NORM)
        if published:
            return step.plus(Cost(16 * n * d * classes, n * d * NORM + 16 * n * d * BILINEAR))
        return step.plus(Cost(n * d * classes, 16 * n * classes * BILINEAR))
    steps = Cost(9 * n * d * (dim + (4 + 16 + 64) * d), n * dim * NORM + (4 + 16 + 64) * n * d * BILINEAR)
    if published:
        return steps.plus(Cost(256 * n * d * classes, (1 + 4 + 16 + 64) * n * d * NORM + 256 * n * d * BILINEAR))
    return steps.plus(Cost(64 * n * d * classes, 256 * n * classes * BILINEAR))


def _among(d: int, queries: int) -> Cost:
    """Self-attention of a layer of SegViT."""
    return Cost(4 * queries * d * d + 2 * queries * queries * d, queries * d * NORM)


def _across(d: int, queries: int, n: int) -> Cost:
    """Attention to n tokens, and feed-forward, of a layer of SegViT."""
    return Cost(10 * queries * d * d + 2 * n * d * d + 2 * queries * n * d, 2 * queries * d * NORM)


def _segvit(head: SegvitHeadConfig, dim: int, taps: int, n: int, k: int, published: bool) -> Cost:
    d = head.dim
    layers = _among(d, k).plus(_across(d, k, n)).times(head.layers)
    total = Cost(n * dim * d, n * d * NORM).plus(layers).times(taps).plus(Cost(k * d * (k + 1)))
    # The first layer's queries are learnt: what they say among themselves is the same for every picture.
    return total if published else total.plus(_among(d, k).times(-1))


def _segvit_shrunk(head: SegvitHeadConfig, vit: VitConfig, taps: Sequence[int], grid: Grid, k: int, published: bool) -> Cost:
    d, patches = head.dim, grid.tokens
    total = _among(d, k).plus(_across(d, k, patches)).times(head.layers).plus(Cost(k * d * (k + 1)))
    for tap in taps:
        n = grid.halved.tokens if vit.shrink is not None and tap >= vit.shrink else patches
        total = total.plus(Cost(n * vit.dim * d, n * d * NORM), _among(d, patches).plus(_across(d, patches, n)).times(head.layers))
    learnt = (grid.height, grid.width) == head.query_grid
    resized = Cost(0, 0 if learnt else patches * d * BILINEAR)
    if published:
        return total.plus(resized)
    return total.plus(resized, _among(d, k).times(-1), _among(d, patches).times(-1 if learnt else 0))


def _eomt(config: EomtModelConfig, grid: Grid) -> tuple[Cost, Cost]:
    vit, q, c = config.backbone, config.queries, config.backbone.dim
    tokens = _tokens(vit, grid)
    backbone = _vit_embedding(vit, grid).plus(
        _vit_blocks(vit, tokens, vit.layers - config.query_blocks), _vit_blocks(vit, tokens + q, config.query_blocks)
    )
    said, n = Cost(3 * q * c * c + q * c * (config.classes + 1), (tokens + q) * c * NORM), grid.tokens
    for _ in range(config.upscale_steps):
        said = said.plus(Cost(4 * n * c * c + 4 * n * 9 * c, 4 * n * c * NORM))
        n *= 4
    said = said.plus(Cost(q * n * c))
    masks = Cost(0, q * grid.tokens * BILINEAR)
    return backbone, said.plus(said.plus(masks).times(config.query_blocks)) if config.masked_attention else said


def _postprocess(
    config: EomtModelConfig | SemanticModelConfig,
    padded: tuple[int, int],
    window: tuple[int, int],
    windows: int,
    output_pixels: int,
    tasks: Sequence[Task],
) -> int:
    classes, pixels = config.classes, math.prod(padded)
    if isinstance(config, SemanticModelConfig) and not isinstance(config.head, SegvitHeadConfig):
        twice = config.postprocess.resize_twice or windows > 1
        return classes * BILINEAR * (output_pixels + (windows * math.prod(window) if twice else 0))
    queries = config.queries if isinstance(config, EomtModelConfig) else classes
    if isinstance(config, EomtModelConfig) and config.slide is None:
        return count_query_postprocess(queries, classes, pixels, output_pixels, tasks, config.postprocess.combine_first)
    return windows * math.prod(window) * queries * (BILINEAR + classes) + classes * output_pixels * BILINEAR
