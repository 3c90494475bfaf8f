"""The training loop: from a configuration and data to averaged weights, resumable at any step, bit for bit."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from proscale.backbones.resnet import freeze_batch_norm, train_batch_norm
from proscale.checkpoints.strict_loading import load_strictly
from proscale.config import ModelConfig
from proscale.errors import CheckpointError
from proscale.network import SegmentationNetwork
from proscale.training.config import TrainingConfig
from proscale.training.ema import ExponentialMovingAverage
from proscale.training.losses import total_loss
from proscale.training.sample import Sample
from proscale.training.views import Batch, Views, collate

SAVE_EVERY = 100
LOG_EVERY = 20
SMOOTHING = 0.05
STATE_FILE, LOG_FILE = "last.pt", "log.jsonl"


class InterruptedTrainingError(Exception):
    """Ctrl-C: everything up to the last whole step has been saved."""


class Trainer:
    """A run in a folder: its state is `last.pt`, its history `log.jsonl`."""

    def __init__(self, folder: Path, config: TrainingConfig, model: ModelConfig, device: str = "cpu") -> None:
        """Start anew; `resume` then takes up what the folder holds."""
        torch.manual_seed(config.seed)
        self.folder, self.config, self.model, self.device = folder, config, model, torch.device(device)
        self.network = SegmentationNetwork(model)
        train_batch_norm(self.network)
        # Channels last: a tenth quicker on a CPU, where the 3x3 max-pool is slow otherwise.
        self.network.train().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dense_head = nn.Conv2d(model.pixel_decoder.hidden_dim, model.classes, 1).to(self.device)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.network, self.dense_head, config.weight_decay), lr=config.learning_rate)
        self.average = ExponentialMovingAverage(self.network, config.ema_decay)
        self.step = 0
        self.seconds = 0.0
        """Time spent training, over all sittings."""
        folder.mkdir(parents=True, exist_ok=True)

    def start_from(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a trained model (frozen batch normalisation or not) as the beginning of this run.

        Raises:
            CheckpointError: they are of another network.
        """
        freeze_batch_norm(self.network)
        load_strictly(self.network, state)
        train_batch_norm(self.network)
        self.network.train().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.network, self.dense_head, self.config.weight_decay), lr=self.config.learning_rate
        )
        self.average = ExponentialMovingAverage(self.network, self.config.ema_decay)

    def resume(self) -> None:
        """Take up the state in the folder.

        Raises:
            CheckpointError: there is none, it is broken, or it belongs to another configuration.
        """
        path = self.folder / STATE_FILE
        if not path.is_file():
            raise CheckpointError(f"nothing to resume: {path} does not exist. Start without --resume, or name the run's folder.")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises many kinds
            raise CheckpointError(f"{path} cannot be read ({error}). Start again without --resume.") from error
        if state["definition"] != self._definition():
            raise CheckpointError(f"{path} was made with another configuration; resume with the options that the run was started with")
        self.network.load_state_dict(state["network"])
        self.dense_head.load_state_dict(state["dense_head"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self.step, self.seconds = state["step"], state["seconds"]

    def run(
        self,
        pictures: Callable[[int], Sample],
        count: int,
        scenes: Sequence[Sample],
        workers: int = 1,
        stop_after: int | None = None,
        on_save: Callable[[int], None] = lambda step: None,
        progress: bool = True,
    ) -> None:
        """Train until `config.steps`.

        Args:
            pictures: the data set's sample of an index below `count`.
            scenes: drawn scenes.
            workers: processes that prepare views; 0 does it here.
            stop_after: stop when so many steps are done, counted from the run's beginning.
            on_save: called after the state was saved, with the number of steps done.

        Raises:
            InterruptedTrainingError: Ctrl-C; the state was saved.
        """
        views = Views(pictures, count, scenes, self.config, self.model.preprocess)
        smooth: dict[str, float] = {}
        with tqdm(total=self.config.steps, initial=self.step, unit="step", disable=not progress) as bar:
            try:
                for batch in self._batches(views, workers):
                    began = time.monotonic()
                    values = self.train_step(batch)
                    self.seconds += time.monotonic() - began
                    for name, value in values.items():
                        smooth[name] = smooth.get(name, value) * (1 - SMOOTHING) + value * SMOOTHING
                    if self.step % LOG_EVERY == 0 or self.step == self.config.steps:
                        self._log(smooth)
                        rate = self.step * self.config.batch_size / self.seconds
                        bar.set_postfix_str(f"{rate:.1f} pictures/s, " + ", ".join(f"{name} {value:.3f}" for name, value in smooth.items()))
                    bar.update()
                    stop = self.step in (self.config.steps, stop_after)
                    if self.step % SAVE_EVERY == 0 or stop:
                        self.save()
                        on_save(self.step)
                    if stop:
                        break
            except KeyboardInterrupt:
                self.save()
                raise InterruptedTrainingError from None

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step; returns what the log shows."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        ids, classes = batch.ids.to(self.device), [c.to(self.device) for c in batch.classes]
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        output = self.network(images, auxiliary=True)
        total, last = total_loss(output, self.dense_head(output.mask_features), ids, classes, self.config.losses)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm, error_if_nonfinite=True)
        self.optimizer.step()
        self.average.update(self.network, self.step)
        self.step += 1
        values = {"loss": total, "class": last.classification, "mask": last.mask, "dice": last.dice, "gradient": norm}
        return {name: float(value.detach()) for name, value in values.items()}

    def save(self) -> None:
        """Write the state whole or not at all: a full disk or a kill leaves the earlier one."""
        state = {
            "definition": self._definition(),
            "network": self.network.state_dict(),
            "dense_head": self.dense_head.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.empty(0),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.folder / f"{STATE_FILE}.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / STATE_FILE)

    def _batches(self, views: Views, workers: int) -> Iterator[Batch]:
        rest = range(self.step * self.config.batch_size, len(views))
        loader: Any = DataLoader(
            views, self.config.batch_size, sampler=rest, num_workers=workers, collate_fn=collate, generator=torch.Generator()
        )
        return iter(loader)

    def _log(self, values: dict[str, float]) -> None:
        record = {"step": self.step, "seconds": round(self.seconds, 1), "learning_rate": learning_rate(self.step - 1, self.config)}
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record | {name: round(value, 4) for name, value in values.items()}) + "\n")

    def _definition(self) -> str:
        return json.dumps([asdict(self.config), asdict(self.model)], sort_keys=True)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Rate of step number `step` (from 0): linear warm-up, constant, linear to zero over the last `decay_share`."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = (config.steps - step) / config.steps
    return config.learning_rate * warm * min(1.0, left / config.decay_share)


def _parameter_groups(network: nn.Module, dense_head: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases, norms, queries and embeddings, which have no scale to hold down, do not."""
    named = [*network.named_parameters(), *dense_head.named_parameters()]
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in named:
        embedding = any(part in name for part in ("embedding", "query_", "relative_position_bias"))
        (free if parameter.ndim < 2 or (embedding and parameter.ndim == 2) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
