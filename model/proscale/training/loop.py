"""The training loop: from a configuration and data to averaged weights, resumable at any step, bit for bit."""

import json
import math
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
from proscale.errors import DataError, ProscaleError
from proscale.labels import Category
from proscale.training.config import TrainingConfig
from proscale.training.depth import check_depths, drawn_depth, fill_missing, run_at_depth
from proscale.training.ema import ExponentialMovingAverage
from proscale.training.event_log import EventLog
from proscale.training.interrupts import uninterrupted
from proscale.training.label_rows import with_classes
from proscale.training.learner import Learner, parameter_groups
from proscale.training.losses import Totals, Truth
from proscale.training.processes import Processes
from proscale.training.run_state import STATE_FILE, compare_definitions, read_state, write_state
from proscale.training.sample import Sample
from proscale.training.views import Batch, Views, collate

SAVE_EVERY = 50
LOG_EVERY = 20
SMOOTHING = 0.05
LOG_FILE = "log.jsonl"


class InterruptedTrainingError(Exception):
    """Ctrl-C: everything up to the last whole step has been saved."""


class DivergedError(ProscaleError):
    """The loss or its gradient is not a number any more; the saved state is from before."""


class Trainer:
    """A run in a folder: its state is `last.pt`, its history `log.jsonl`."""

    def __init__(
        self,
        folder: Path,
        config: TrainingConfig,
        model: ModelConfig,
        categories: Sequence[Category],
        device: str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        """Start anew; `resume` then takes up what the folder holds.

        Raises:
            DataError: the batch is too small for the crop.
        """
        check_batch(config, processes.count if processes else 1)
        check_depths(config, model)
        torch.manual_seed(config.seed)
        self.folder, self.config, self.model, self.device = folder, config, model, torch.device(device)
        self.categories, self.processes = tuple(categories), processes or Processes()
        self.learner = Learner(model, config.losses).to(self.device)
        self.step = 0
        self.seconds = 0.0
        """Time spent training, over all sittings."""
        self.changes: list[dict[str, Any]] = []
        """What was changed when the run was resumed."""
        self.best: float | None = None
        """The best value so far of the metric that is watched."""
        self.events: EventLog | None = None
        """Takes what the log takes, for TensorBoard."""
        folder.mkdir(parents=True, exist_ok=True)
        self._prepare()

    @property
    def network(self) -> nn.Module:
        """The network as it is now, not its average."""
        return self.learner.network

    def _prepare(self) -> None:
        """Optimiser and average for the weights as they are."""
        if not self.config.frozen_batch_norm:
            train_batch_norm(self.network)
        # Channels last: a tenth quicker on a CPU, where the 3x3 max-pool is slow otherwise.
        self.network.train().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        config = self.config
        groups = parameter_groups(self.learner, config.learning_rate, config.weight_decay, config.backbone_multiplier)
        self.optimizer = torch.optim.AdamW(groups)
        self.average = ExponentialMovingAverage(self.network, config.ema_decay)

    def start_from(self, state: Mapping[str, Tensor], categories: Sequence[Category]) -> tuple[str, ...]:
        """Take the weights of a trained model as the beginning of this run; rows of the class head go with their class names.

        Args:
            state: batch normalisation may be frozen or not.
            categories: of the trained model, in the order of its classes.

        Returns:
            what was done to the class head, for people.

        Raises:
            CheckpointError: they are of another network.
        """
        freeze_batch_norm(self.network)
        beginning = with_classes(state, categories, self.categories, self.network.state_dict())
        load_strictly(self.network, beginning.state)
        self._prepare()
        return beginning.notes

    def resume(self) -> dict[str, tuple[Any, Any]]:
        """Take up the state in the folder.

        Returns:
            settings that differ from those of the saved run and are allowed to, (before, now); recorded in log and state.

        Raises:
            CheckpointError: there is none, it is broken, or it belongs to another configuration.
        """
        state = read_state(self.folder, self.device)
        changed = compare_definitions(json.loads(state["definition"]), self._definition(), self.folder / STATE_FILE)
        self.learner.load_state_dict(state["learner"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.changes = list(state["changes"])
        if changed:
            record = {"step": self.step, "changed": {name: list(pair) for name, pair in changed.items()}}
            self.changes.append(record)
            self.log(record)
        return changed

    def run(
        self,
        pictures: Callable[[int], Sample],
        count: int,
        scenes: Sequence[Sample],
        workers: int = 1,
        stop_after: int | None = None,
        on_save: Callable[[int], None] = lambda step: None,
        on_evaluate: Callable[[int], None] = lambda step: None,
        progress: bool = True,
    ) -> None:
        """Train until `config.steps`.

        Args:
            pictures: the data set's sample of an index below `count`.
            scenes: drawn scenes.
            workers: processes that prepare views; 0 does it here.
            stop_after: stop when so many steps are done, counted from the run's beginning.
            on_save: called after the state was saved, with the number of steps done.
            on_evaluate: called every `config.evaluate_every` steps and at the end, before the state is saved.

        Raises:
            InterruptedTrainingError: Ctrl-C; the state was saved.
            DivergedError: names the step and its pictures; the state from before stays.
        """
        stuff = frozenset(index for index, category in enumerate(self.categories) if not category.isthing)
        views = Views(pictures, count, scenes, self.config, self.model.preprocess, stuff)
        smooth: dict[str, float] = {}
        hidden = not progress or not self.processes.first
        with tqdm(total=self.config.steps, initial=self.step, unit="step", disable=hidden) as bar:
            try:
                for parts in self._batches(views, workers) if self.step < self.config.steps else ():
                    began = time.monotonic()
                    values = self.train_step(parts)
                    self.seconds += time.monotonic() - began
                    for name, value in values.items():
                        smooth[name] = smooth.get(name, value) * (1 - SMOOTHING) + value * SMOOTHING
                    stop = self.step in (self.config.steps, stop_after)
                    self._report(bar, smooth)
                    if self._due(self.config.evaluate_every) or self.step == self.config.steps:
                        on_evaluate(self.step)
                    if self._due(SAVE_EVERY) or stop:
                        self.save()
                        on_save(self.step)
                    if stop:
                        break
            except KeyboardInterrupt:
                self.save()
                raise InterruptedTrainingError from None

    def train_step(self, parts: Sequence[Batch]) -> dict[str, float]:
        """One step on a batch in `config.accumulate` parts; returns what the log shows.

        Raises:
            DivergedError: loss or gradient is not finite; the weights are as before the step.
        """
        # Chance depends on seed, step and process alone, so that no generator's state need be saved.
        torch.manual_seed(hash((self.config.seed, self.step, self.processes.rank)) % 2**63)
        run_at_depth(self.learner.network, drawn_depth(self.config, self.step))
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        truths = [Truth.of(part.ids.to(self.device), [c.to(self.device) for c in part.classes]) for part in parts]
        queries = self.model.transformer_decoder.queries
        totals = self.processes.add_totals([Totals.of(truth, queries, self.config.losses) for truth in truths])
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(4, device=self.device)
        for part, truth in zip(parts, truths, strict=True):
            images = part.images.to(self.device, memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                total, last = self.learner(images, truth, totals)
            total.backward()
            sums += torch.stack([total.detach(), last.classification.detach(), last.mask.detach(), last.dice.detach()])
        parameters = list(self.learner.parameters())
        if self.config.depth_weights:
            # Layers that were left out have no gradient, here as on other processes; it counts as zero.
            fill_missing(parameters)
        self.processes.add_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        values = dict(zip(("loss", "class", "mask", "dice"), self.processes.add(sums).tolist(), strict=True)) | {"gradient": float(norm)}
        self._check_finite(values, [name for part in parts for name in part.names])
        with uninterrupted():
            self.optimizer.step()
            self.average.update(self.network, self.step)
            self.step += 1
        return values

    def save(self) -> None:
        """Write the state whole or not at all: a full disk or a kill leaves the earlier one."""
        if not self.processes.first:
            return
        state = {
            "definition": json.dumps(self._definition()),
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "changes": self.changes,
        }
        write_state(self.folder, state)

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a line to the run's log."""
        if self.processes.first:
            with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            if self.events is not None:
                self.events.record(record)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _check_finite(self, values: Mapping[str, float], names: Sequence[str]) -> None:
        if all(math.isfinite(value) for value in values.values()):
            return
        wrong = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
        state = self.folder / STATE_FILE
        kept = f"{state} holds the last saved state" if state.is_file() else "Nothing had been saved yet"
        self.log({"step": self.step, "diverged": wrong, "pictures": list(names)})
        raise DivergedError(
            f"training diverged at step {self.step + 1}: {wrong}. The step's pictures: {', '.join(names)}. {kept}. Look at these pictures; "
            f"go on with --resume and a lower --learning-rate than {self.config.learning_rate:g}, or with --precision float32 in a new run."
        )

    def _batches(self, views: Views, workers: int) -> Iterator[list[Batch]]:
        """Every step's parts for this process: it takes its share of every batch."""
        config, processes = self.config, self.processes
        share = config.batch_size // processes.count
        rest = [step * config.batch_size + processes.rank * share + i for step in range(self.step, config.steps) for i in range(share)]
        size = share // config.accumulate
        loader: Any = DataLoader(views, size, sampler=rest, num_workers=workers, collate_fn=collate, generator=torch.Generator())
        parts: list[Batch] = []
        for batch in loader:
            parts.append(batch)
            if len(parts) == config.accumulate:
                yield parts
                parts = []

    def _report(self, bar: Any, smooth: Mapping[str, float]) -> None:
        if self.step % LOG_EVERY == 0 or self.step == self.config.steps:
            record = {"step": self.step, "seconds": round(self.seconds, 1), "learning_rate": learning_rate(self.step - 1, self.config)}
            self.log(record | {name: round(value, 4) for name, value in smooth.items()})
            rate = self.step * self.config.batch_size / self.seconds
            bar.set_postfix_str(f"{rate:.1f} pictures/s, " + ", ".join(f"{name} {value:.3f}" for name, value in smooth.items()))
        bar.update()

    def _definition(self) -> dict[str, Any]:
        values = {"settings": asdict(self.config), "model": asdict(self.model), "categories": [asdict(c) for c in self.categories]}
        definition: dict[str, Any] = json.loads(json.dumps(values))
        return definition


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Rate of step number `step` (from 0): linear warm-up, constant, linear to zero over the last `decay_share`."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = (config.steps - step) / config.steps
    return config.learning_rate * warm * min(1.0, left / config.decay_share)


def check_batch(config: TrainingConfig, processes: int) -> None:
    """Raise DataError unless the batch can be shared out, and is large enough for batch normalisation at the coarsest level."""
    parts = config.accumulate * processes
    if config.batch_size % parts:
        raise DataError(f"a batch of {config.batch_size} cannot be divided into {parts} equal parts (accumulate x processes)")
    cells = config.batch_size // parts * (config.crop // 32) ** 2
    if not config.frozen_batch_norm and cells < 2:
        raise DataError(
            f"a batch of {config.batch_size // parts} with crop {config.crop} leaves batch normalisation a single value at stride 32. "
            "Use a larger --batch-size or --crop, or --frozen-batch-norm."
        )
