"""Feed-forward layers."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from proscale.layers.linear import apply_linear, apply_two


class MLP(nn.Module):
    """Linear layers with ReLU between them: dims[0] -> dims[1] -> ... -> dims[-1]."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dims[0]) -> (..., dims[-1])."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            x = apply_linear(layer, x, "none" if i == last else "relu")
        return x


class FeedForward(nn.Module):
    """The transformer's two-layer block with ReLU (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return apply_two(self.linear1, self.linear2, x, "relu")
