"""ResNet: shapes, and the way from trained to frozen batch normalisation."""

import torch
from torch import nn

from proscale.backbones.resnet import ConvNorm, ResNet, freeze_batch_norm, train_batch_norm
from proscale.config import RESNET_101, ResNetConfig

SMALL = ResNetConfig(8, 16, 8, (1, 2, 1, 1))


def test_levels_have_strides_4_to_32() -> None:
    levels = ResNet(SMALL)(torch.zeros(2, 3, 64, 96))
    assert [tuple(level.shape) for level in levels] == [(2, 16, 16, 24), (2, 32, 8, 12), (2, 64, 4, 6), (2, 128, 2, 3)]


def test_parameter_count_of_the_published_resnet_101() -> None:
    with torch.device("meta"):
        network = ResNet(RESNET_101)
    convolutions = sum(p.numel() for p in network.parameters())
    norms = sum(b.numel() for name, b in network.named_buffers() if name.endswith(("weight", "bias")))
    # torchvision's resnet101 has 44,549,160 parameters, 2,049,000 of them in the classifier.
    assert convolutions + norms == 44_549_160 - 2_049_000


def test_frozen_batch_norm_equals_the_trained_one() -> None:
    network = ResNet(SMALL)
    train_batch_norm(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 20
    network.train()
    for _ in range(3):
        network(torch.randn(4, 3, 64, 64) * 3 + 1)
    image = torch.randn(1, 3, 64, 64)
    trained = [level.detach() for level in network.eval()(image)]
    freeze_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any("norm" in name for name, _ in network.named_parameters())
    for ours, theirs in zip(network(image), trained, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    before = network.state_dict()
    train_batch_norm(network)
    freeze_batch_norm(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_norms_inside_convolutions_give_the_same_and_training_takes_up_from_there() -> None:
    network, image = ResNet(SMALL).double().eval(), torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for name, buffer in network.named_buffers():
        buffer.uniform_(0.5, 2) if name.endswith(("weight", "var")) else buffer.normal_()
    with torch.no_grad():
        published = network(image)
        network.fold()
        assert all(module.folded for module in network.modules() if isinstance(module, ConvNorm))
        folded = network(image)
        network.fold()
        again = network(image)
        unfused = network.train().eval()(image)
        assert not any(module.folded for module in network.modules() if isinstance(module, ConvNorm))
    for levels in (folded, again, unfused):
        for ours, theirs in zip(levels, published, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
