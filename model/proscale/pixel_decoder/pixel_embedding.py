"""Stride-4 features for the masks: the light pixel embedding (arXiv 2404.14657, section 3.4), or Mask2Former's 3x3 convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.layers.tokenwise import add_into

GROUPS = 32
STRIP_ROWS = 16


class PixelEmbedding(nn.Module):
    """res2 and the refined stride-8 level, summed, then smoothed.

    `maxpool` (LPE) smooths by a 3x3 max-pool without weights, `conv` by a 3x3 convolution, which at 800x1088 costs 32 of the 118 GFLOPs of
    Mask2Former's pixel decoder.
    """

    def __init__(self, channels_in: int, dim: int, variant: str) -> None:
        super().__init__()
        self.lateral_conv = nn.Conv2d(channels_in, dim, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(GROUPS, dim)
        self.output_conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False) if variant == "conv" else None
        self.output_norm = nn.GroupNorm(GROUPS, dim)
        nn.init.kaiming_uniform_(self.lateral_conv.weight, a=1)
        if self.output_conv is not None:
            nn.init.kaiming_uniform_(self.output_conv.weight, a=1)

    def forward(self, res2: Tensor, stride8: Tensor) -> Tensor:
        """Args: res2 (B, channels_in, H, W), stride8 (B, dim, H / 2, W / 2). Returns (B, dim, H, W)."""
        lateral: Tensor = self.lateral_norm(self.lateral_conv(res2))
        summed = add_into(F.interpolate(stride8, size=lateral.shape[2:], mode="bilinear", align_corners=False), lateral)
        smooth = max_pool_3x3(summed) if self.output_conv is None else self.output_conv(summed)
        return F.relu(self.output_norm(smooth), inplace=True)


def max_pool_3x3(x: Tensor) -> Tensor:
    """`F.max_pool2d(x, 3, stride=1, padding=1)` for x (B, C, H, W); on a CPU and without gradients in strips of rows.

    torch also writes the index of every maximum, which takes twice the memory of the result.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.max_pool2d(x, 3, stride=1, padding=1)
    out, height = torch.empty_like(x), x.shape[2]
    for first in range(0, height, STRIP_ROWS):
        last = min(first + STRIP_ROWS, height)
        above, below = min(first, 1), min(height - last, 1)  # the neighbours that the strip's edges see
        strip = F.max_pool2d(x[:, :, first - above : last + below], 3, stride=1, padding=1)
        out[:, :, first:last] = strip[:, :, above : above + last - first]
    return out
