"""Multi-scale deformable self-attention: the projections around the operator (arXiv 2010.04159, section 4.1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from proscale.layers.linear import FixedLinear, LinearForm, apply_linear, linear
from proscale.ops.ms_deform_attn import ms_deform_attn


class DeformableAttention(nn.Module):
    """Every token samples a few points, by bilinear interpolation, in each of the levels present."""

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        self._initialise()
        self.joint: nn.Linear | LinearForm | None = None
        """A layer that takes the place of `sampling_offsets` and `attention_weights`; None: they are used."""

    def _initialise(self) -> None:
        """Each head starts by looking in a direction of its own, point p at distance p pixels (arXiv 2010.04159, appendix A.2)."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        bias = direction[:, None, None, :] * distance[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def join(self) -> None:
        """Make one layer of the query's two projections, with the same weights."""
        self.joint = FixedLinear(*self._joint_weights())

    def _joint_weights(self) -> tuple[Tensor, Tensor]:
        weight = torch.cat([self.sampling_offsets.weight, self.attention_weights.weight])
        return weight, torch.cat([self.sampling_offsets.bias, self.attention_weights.bias])

    def forward(self, query: Tensor, value: Tensor, spatial_shapes: Sequence[int]) -> Tensor:
        """Attend from every token to points around its own centre, in every level.

        Args:
            query: (B, N, C), tokens with their position term.
            value: (B, N, C), tokens without it.
            spatial_shapes: h0, w0, h1, w1, ... of the levels that the N tokens come from.

        Returns:
            (B, N, C).
        """
        batch, tokens, _ = query.shape
        values = apply_linear(self.value_projection, value).view(batch, tokens, self.heads, -1)
        # Two projections of one input: one matrix product, whose output the operator reads as two strided views.
        sampling = linear(query, *self._joint_weights()) if self.joint is None else apply_linear(self.joint, query)
        offsets, logits = sampling.split([self.sampling_offsets.out_features, self.attention_weights.out_features], -1)
        offsets = offsets.unflatten(-1, (self.heads, self.levels, self.points, 2))
        logits = logits.unflatten(-1, (self.heads, self.levels * self.points))
        return apply_linear(self.output_projection, ms_deform_attn(values, offsets, logits, spatial_shapes))
