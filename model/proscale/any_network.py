"""Any of the networks: how each is built, and what all of them offer.

All have `config`; `predict`, from normalised pictures (B, 3, H, W) to a `NetworkPrediction` by the shortest way; and `fold`, which makes
that way once for weights that will not change.
"""

from proscale.config import EomtModelConfig, ModelConfig, NetworkConfig
from proscale.eomt_network import EomtNetwork
from proscale.network import SegmentationNetwork
from proscale.semantic_network import SemanticNetwork

Network = SegmentationNetwork | EomtNetwork | SemanticNetwork


def build_network(config: NetworkConfig) -> Network:
    """The network that a configuration describes, with fresh weights.

    Raises:
        CheckpointError: the configuration's parts do not go together.
    """
    if isinstance(config, ModelConfig):
        return SegmentationNetwork(config)
    return EomtNetwork(config) if isinstance(config, EomtModelConfig) else SemanticNetwork(config)
