"""What is trained: the network, and the parts that exist in training only."""

from torch import Tensor, nn

from proscale.config import ModelConfig
from proscale.network import SegmentationNetwork
from proscale.training.config import LossConfig
from proscale.training.losses import Losses, Totals, Truth, total_loss
from proscale.training.pilots import PilotedDecoder, choose_pilots


class Learner(nn.Module):
    """A network with the dense head and the pilots' class embedding."""

    def __init__(self, model: ModelConfig, losses: LossConfig) -> None:
        super().__init__()
        self.config, self.losses = model, losses
        self.network = SegmentationNetwork(model)
        self.dense_head = nn.Conv2d(model.pixel_decoder.hidden_dim, model.classes, 1)
        self.pilots = PilotedDecoder(model.classes, model.pixel_decoder.hidden_dim)

    def forward(self, images: Tensor, truth: Truth, totals: Totals) -> tuple[Tensor, Losses]:
        """The loss of a batch or a part of one, and the last prediction's parts. Args: images (B, 3, H, W) float."""
        pilots = choose_pilots(truth, self.losses.pilots, self.config.classes, self.losses.wrong_class_share)
        mask_features, levels = self.network.pixel_decoder(self.network.backbone(images))
        predictions, piloted = self.pilots(self.network.transformer_decoder, levels, mask_features, pilots)
        return total_loss(predictions, piloted, pilots.pairs, self.dense_head(mask_features), truth, self.losses, totals)


def parameter_groups(learner: Learner, learning_rate: float, weight_decay: float, backbone_multiplier: float) -> list[dict[str, object]]:
    """Groups for AdamW; `scale` is what the schedule's rate is multiplied with.

    Matrices and kernels decay; biases, norms, queries and embeddings, which have no scale to hold down, do not.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in learner.named_parameters():
        embedding = parameter.ndim == 2 and any(part in name for part in ("embedding", "query_", "relative_position_bias"))
        decayed = parameter.ndim >= 2 and not embedding
        groups.setdefault((name.startswith("network.backbone."), decayed), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0, "lr": learning_rate, "scale": scale}
        for (backbone, decayed), parameters in groups.items()
        for scale in (backbone_multiplier if backbone else 1.0,)
    ]
