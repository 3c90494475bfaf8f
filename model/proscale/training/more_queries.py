"""A trained model as the beginning of one with more queries: the new ones start as disturbed copies."""

from collections.abc import Mapping

import torch
from torch import Tensor

from proscale.errors import CheckpointError

QUERIES = ("transformer_decoder.query_features", "transformer_decoder.query_position")
DISTURBANCE = 0.3
"""Of a copy, as a share of the spread over queries: enough that two of a kind can part, little enough that both still find things."""


def with_queries(state: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The weights with `count` queries: the old ones as they are, then copies of them in turn, each disturbed by noise.

    The network treats queries alike, so their number is free; the same `state` and `count` give the same result.

    Args:
        state: of a Mask2Former or PRO-SCALE network with Q <= count queries, (Q, C) each.

    Raises:
        CheckpointError: there are more than `count` queries, or none.
    """
    if missing := [name for name in QUERIES if name not in state]:
        raise CheckpointError(f"the checkpoint has no {missing[0]}: it is not of a Mask2Former or PRO-SCALE network")
    have = len(state[QUERIES[0]])
    if count < have:
        raise CheckpointError(f"the checkpoint has {have} queries; --queries {count} would drop some. Name at least as many.")
    generator = torch.Generator().manual_seed(count)
    grown = dict(state)
    for name in QUERIES:
        old = state[name].to(torch.float32)
        copies = old[torch.arange(count - have) % have]
        noise = torch.randn(copies.shape, generator=generator) * old.std(0, correction=0) * DISTURBANCE
        grown[name] = torch.cat([old, copies + noise])
    return grown
