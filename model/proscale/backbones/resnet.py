"""ResNet with bottleneck blocks (He et al. 2016), stride in the 3x3 convolution, frozen batch normalisation."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proscale.config import ResNetConfig
from proscale.layers.convolution import convolution
from proscale.layers.tokenwise import add_into

BATCH_NORM_EPS = 1e-5


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics: an affine map per channel."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        scale = self.weight * (self.running_var + BATCH_NORM_EPS).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = FrozenBatchNorm2d(channels_out)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.folded = False
        """Whether the norm adds its bias, and nothing else."""

    def fold(self) -> None:
        """Put the norm's scale into the convolution, in place, for weights that do not change: the same outputs, within rounding."""
        weight, bias, mean, variance = (getattr(self.norm, name) for name in ("weight", "bias", "running_mean", "running_var"))
        scale = weight.double() / (variance.double() + BATCH_NORM_EPS).sqrt()
        with torch.no_grad():
            self.conv.weight.copy_(self.conv.weight.double() * scale[:, None, None, None])
            bias.copy_(bias.double() - mean.double() * scale)
            weight.fill_(1)
            mean.zero_()
            variance.fill_(1 - BATCH_NORM_EPS)
        self.folded = True

    def train(self, mode: bool = True) -> Self:
        """Training may change the norm."""
        self.folded = self.folded and not mode
        return super().train(mode)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H / stride, W / stride), with ReLU where asked."""
        if self.folded and isinstance(self.conv, nn.Conv2d):  # and not one in bytes
            bias: Tensor = self.norm.bias  # type: ignore[assignment]
            return convolution(x, self.conv.weight, bias, self.conv.stride, self.conv.padding, relu)  # type: ignore[arg-type]
        out: Tensor = self.norm(self.conv(x))
        return F.relu(out) if relu else out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, bottleneck: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, bottleneck, 1)
        self.conv2 = ConvNorm(bottleneck, bottleneck, 3, stride)
        self.conv3 = ConvNorm(bottleneck, channels_out, 1)
        self.shortcut = ConvNorm(channels_in, channels_out, 1, stride) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H / stride, W / stride)."""
        out = self.conv3(self.conv2(self.conv1(x, relu=True), relu=True))
        return F.relu(add_into(out, x if self.shortcut is None else self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """Stem (7x7 convolution, max-pool) and four stages."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.channels = tuple(config.res2_channels * 2**i for i in range(4))
        self.stem = ConvNorm(3, config.stem_channels, 7, stride=2)
        self.stages = nn.ModuleList()
        channels_in = config.stem_channels
        for i, (blocks, channels_out) in enumerate(zip(config.blocks, self.channels, strict=True)):
            bottleneck = config.bottleneck_channels * 2**i
            stage = nn.Sequential()
            for j in range(blocks):
                stage.append(Bottleneck(channels_in, bottleneck, channels_out, stride=2 if i > 0 and j == 0 else 1))
                channels_in = channels_out
            self.stages.append(stage)

    def fold(self) -> None:
        """`ConvNorm.fold` of all."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> res2, res3, res4, res5."""
        if x.device.type == "cpu":  # else every convolution would order anew what it reads and gives
            x = x.contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(self.stem(x, relu=True), kernel_size=3, stride=2, padding=1)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def train_batch_norm(module: nn.Module) -> None:
    """Swap every FrozenBatchNorm2d below `module` for a trainable BatchNorm2d with the same values, in place."""
    for name, child in module.named_children():
        if isinstance(child, FrozenBatchNorm2d):
            norm = nn.BatchNorm2d(child.weight.numel(), eps=BATCH_NORM_EPS).to(child.weight.device)
            norm.load_state_dict(child.state_dict() | {"num_batches_tracked": torch.tensor(0)})
            setattr(module, name, norm)
        else:
            train_batch_norm(child)


def freeze_batch_norm(module: nn.Module) -> None:
    """The reverse of `train_batch_norm`: the same outputs as the trained network in evaluation mode, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features).to(child.weight.device)
            frozen.load_state_dict({key: value for key, value in child.state_dict().items() if key != "num_batches_tracked"})
            setattr(module, name, frozen)
        else:
            freeze_batch_norm(child)
