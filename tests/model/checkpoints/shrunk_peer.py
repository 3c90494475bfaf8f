"""SegViT Shrunk made of torch's own layers, under the names that its checkpoints have: an independent implementation to compare with."""

import math

import torch
from tests.model.checkpoints.semantic_peers import randomised
from torch import Tensor, nn

DIM, HEADS, LAYERS, SHRINK, TAPS, CROP, CLASSES, DECODER = 32, 2, 5, 2, (1, 4), 80, 6, 2
"""Of the small one here: channels, heads, blocks, the one that shrinks, taps, pixels of a window, classes, decoder layers."""
CONFIG = f"""
crop_size = ({CROP}, {CROP})
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5, 127.5, 127.5])
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(type='vit_shrink', img_size={CROP}, num_heads={HEADS}, out_indices={list(TAPS)}, shrink_idx={SHRINK},
        with_cls_token=False, interpolate_mode='bicubic'),
    decode_head=dict(type='TPNATMHead', img_size={CROP}, num_heads={HEADS}, num_layers={DECODER}),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(60, 60)))
test_pipeline = [dict(type='Resize', scale=(400, {CROP}), keep_ratio=True)]
"""


class Block(nn.Module):
    """A block of mmsegmentation's ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(DIM, 1e-6), nn.LayerNorm(DIM, 1e-6)
        self.attn = nn.Module()
        self.attn.attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.ffn = nn.Module()
        self.ffn.layers = nn.Sequential(nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU()), nn.Linear(4 * DIM, DIM))

    def forward(self, kept: Tensor, x: Tensor) -> Tensor:
        """Tokens `kept` (B, M, C) see `x` (B, N, C)."""
        seen = self.ln1(x)
        kept = kept + self.attn.attn(self.ln1(kept), seen, seen, need_weights=False)[0]  # type: ignore[operator]
        out: Tensor = kept + self.ffn.layers(self.ln2(kept))  # type: ignore[operator]
        return out


class Mask(nn.Module):
    """Attention whose logits are masks."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM // 2, DIM // 2) for _ in range(4))


class Peer(nn.Module):
    """The network for windows of `CROP` pixels."""

    def __init__(self) -> None:
        super().__init__()
        side, dim = CROP // 16, DIM // 2
        self.backbone, self.decode_head = nn.Module(), nn.Module()
        self.backbone.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.backbone.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, DIM))
        self.backbone.patch_embed = nn.Module()
        self.backbone.patch_embed.projection = nn.Conv2d(3, DIM, 16, 16)
        self.backbone.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        head = self.decode_head
        head.q = nn.Embedding(side**2, dim)
        for i in (1, 2):
            head.add_module(f"input_proj_{i}", nn.Linear(DIM, dim))
            head.add_module(f"proj_norm_{i}", nn.LayerNorm(dim))
            layer = nn.TransformerDecoderLayer(dim, HEADS, 4 * dim, 0.0, batch_first=True)
            head.add_module(f"decoder_{i}", nn.TransformerDecoder(layer, DECODER))
        head.atm = nn.Module()
        head.atm.q, head.atm.class_embed = nn.Embedding(CLASSES, dim), nn.Linear(dim, CLASSES + 1)
        head.atm.decoder_1 = nn.TransformerDecoder(nn.TransformerDecoderLayer(dim, HEADS, 4 * dim, 0.0, batch_first=True), DECODER)
        for layer in head.atm.decoder_1.layers:
            layer.multihead_attn = Mask()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, CROP, CROP) -> class logits (1, K, K + 1), mask logits (1, K, side, side)."""
        side, head = CROP // 16, self.decode_head
        x = self.backbone.patch_embed.projection(images).flatten(2).transpose(1, 2) + self.backbone.pos_embed[:, 1:]  # type: ignore
        taps = []
        for i, block in enumerate(self.backbone.layers):
            kept = x
            if i == SHRINK:
                places = [row * side + column for row in range(0, side, 2) for column in range(0, side, 2)]
                kept = x[:, places]
            x = block(kept, x)
            if i in TAPS:
                taps.append(x)
        tokens = head.q.weight[None]
        for i, tap in enumerate(taps, 1):
            memory = getattr(head, f"proj_norm_{i}")(getattr(head, f"input_proj_{i}")(tap))
            tokens = getattr(head, f"decoder_{i}")(tokens, memory)
        queries, logits = head.atm.q.weight[None], None
        for layer in head.atm.decoder_1.layers:
            queries = layer.norm1(queries + layer.self_attn(queries, queries, queries, need_weights=False)[0])
            attention = layer.multihead_attn
            query, key, value = (
                part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (attention.q(queries), attention.k(tokens), attention.v(tokens))
            )
            logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
            seen = attention.proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
            queries = layer.norm2(queries + seen)
            queries = layer.norm3(queries + layer.linear2(layer.linear1(queries).relu()))
        assert logits is not None
        return head.atm.class_embed(queries), logits.mean(1).unflatten(-1, (side, side))  # type: ignore[operator]


def peer_shrunk() -> Peer:
    """With random weights, in evaluation mode."""
    peer: Peer = randomised(Peer())
    return peer
