"""transformers' SegFormer and EoMT with random weights, small."""

from typing import Any

import torch
from torch import nn
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)


def randomised(model: nn.Module, seed: int = 0) -> Any:
    """The model in evaluation mode with weights that matter: LayerScale, norms and statistics other than 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or name in ("attn_mask_probs", "criterion.empty_weight") or "inv_freq" in name:
                continue
            if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                scale = 1 / max(1, tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.3
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
    return model.eval()


def peer_segformer(**changes: Any) -> Any:
    """A SegFormer with 5 classes."""
    values: dict[str, Any] = {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 2, 1, 1],
        "num_attention_heads": [1, 2, 3, 4],
        "decoder_hidden_size": 12,
        "num_labels": 5,
    }
    return randomised(SegformerForSemanticSegmentation(SegformerConfig(**values | changes)))


def peer_eomt(dinov3: bool = False, masked: float = 0.0, **changes: Any) -> Any:
    """An EoMT with 5 classes for pictures of 64 x 64."""
    values: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "image_size": 64,
        "patch_size": 16,
        "num_queries": 7,
        "num_blocks": 2,
        "num_labels": 5,
        "num_register_tokens": 3,
    }
    if dinov3:
        model: Any = EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**values | {"intermediate_size": 40} | changes))
    else:
        model = EomtForUniversalSegmentation(EomtConfig(**values | changes))
    model.attn_mask_probs.fill_(masked)
    return randomised(model)
