"""Mask logits from the network's frame to the output's."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resize_mask_logits(mask_logits: Tensor, padded: Sequence[int], resized: Sequence[int], output: Sequence[int]) -> Tensor:
    """Upsample to the padded picture, cut the padding off, resize to the output; bilinear each time.

    Args:
        mask_logits: (Q, h, w) float, stride 4 of the padded picture.
        padded, resized, output: (height, width) in pixels.

    Returns:
        (Q, *output) float.
    """
    masks = F.interpolate(mask_logits[None], size=tuple(padded), mode="bilinear", align_corners=False)
    masks = masks[:, :, : resized[0], : resized[1]]
    return F.interpolate(masks, size=tuple(output), mode="bilinear", align_corners=False)[0]
