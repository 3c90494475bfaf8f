"""The light pixel embedding's max-pool, in strips and whole."""

import pytest
import torch
from torch.nn import functional as F

from proscale.pixel_decoder.pixel_embedding import max_pool_3x3


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (16, 7), (17, 7), (40, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_strips_equal_the_whole(size: tuple[int, int], layout: torch.memory_format) -> None:
    x = torch.randn(2, 4, *size).contiguous(memory_format=layout)
    with torch.inference_mode():
        out = max_pool_3x3(x)
    assert torch.equal(out, F.max_pool2d(x, 3, stride=1, padding=1))
    assert out.is_contiguous(memory_format=layout)
    assert max_pool_3x3(x.requires_grad_()).requires_grad
