"""A network whose linear layers have their weights in the order in which the processor's library reads them."""

from torch import nn

from proscale.any_network import Network
from proscale.backbones.vit import VisionTransformer, VitBlock
from proscale.layers.attention import MultiHeadAttention
from proscale.layers.deformable_attention import DeformableAttention
from proscale.layers.linear import FixedLinear, packed, packs


def pack(network: Network) -> None:
    """Pack the weights of the linear layers, in place; where that is not the faster way on this processor, nothing happens.

    Afterwards the network is for `predict` alone: its packed weights have no gradients, and cannot be saved.

    Args:
        network: on the CPU, folded, in evaluation mode, in the precision that it computes in.
    """
    apart: set[nn.Module | None] = set()  # layers whose weights are read in parts
    for module in list(network.modules()):
        if isinstance(module, DeformableAttention):
            if module.joint is None:
                module.join()
            apart |= {module.sampling_offsets, module.attention_weights}
        elif isinstance(module, MultiHeadAttention):
            if module.apart is None:
                module.part()
            apart.add(module.in_projection)
        elif isinstance(module, VisionTransformer) and module.config.shrink is not None:
            shrinking = module.blocks[module.config.shrink]
            assert isinstance(shrinking, VitBlock)
            apart.add(shrinking.attention.qkv)
    children = [(parent, name) for parent in network.modules() for name, child in parent.named_children() if child not in apart]
    for parent, name in children:  # holds no child, so that the memory of each is free when the next is packed
        child = parent.get_submodule(name)
        if isinstance(child, nn.Linear) and packs(child.weight.dtype):
            parent.register_module(name, FixedLinear(packed(child.weight), child.bias))
