"""Maps of a backbone -> what a network for semantic segmentation says: one file per head.

A head has two forms: `forward`, as published, for training and comparison; and the short one that `fold` makes of frozen weights for
prediction, equal to it within rounding, without what linear algebra makes superfluous.
"""

from proscale.config import MixTransformerConfig, SegformerHeadConfig, SegvitHeadConfig, SemanticModelConfig, SetrHeadConfig
from proscale.errors import CheckpointError
from proscale.heads.segformer import SegformerHead
from proscale.heads.segvit import SegvitHead
from proscale.heads.segvit_shrunk import ShrunkSegvitHead
from proscale.heads.setr import SetrHead

Head = SegformerHead | SetrHead | SegvitHead | ShrunkSegvitHead


def build_head(config: SemanticModelConfig) -> Head:
    """The head that a configuration describes, with fresh weights.

    Raises:
        CheckpointError: it does not go with the backbone.
    """
    backbone, head = config.backbone, config.head
    if isinstance(backbone, MixTransformerConfig):
        if not isinstance(head, SegformerHeadConfig):
            raise CheckpointError("a Mix Transformer goes with SegFormer's head alone")
        return SegformerHead(head, backbone.channels, config.classes)
    if isinstance(head, SegformerHeadConfig):
        raise CheckpointError("SegFormer's head needs a Mix Transformer, which gives maps at four strides")
    taps = len(backbone.taps or (0,))
    if isinstance(head, SetrHeadConfig):
        return SetrHead(head, backbone.dim, taps, config.classes)
    assert isinstance(head, SegvitHeadConfig)
    if (head.query_grid is None) != (backbone.shrink is None):
        raise CheckpointError("SegViT Shrunk has both: a backbone that shrinks, and a head with a query per patch")
    if head.query_grid is not None:
        return ShrunkSegvitHead(head, backbone.dim, taps, config.classes)
    return SegvitHead(head, backbone.dim, taps, config.classes)
