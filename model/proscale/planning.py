"""Plans a picture before anything is computed: its padded size, its cost, and whether the options fit the model. No torch.

The predictor and a gateway in front of remote workers share this, so that both plan and refuse alike.
"""

from collections.abc import Sequence

from proscale.config import TASKS, NetworkConfig, Task
from proscale.errors import ParameterError
from proscale.geometry import padded_size, resized_size
from proscale.labels import Category
from proscale.network_flops import baseline_name, count_baseline, count_network
from proscale.results import Plan, SegmentationOptions


def plan_picture(config: NetworkConfig, height: int, width: int, tasks: Sequence[Task] = ("panoptic",)) -> Plan:
    """What a picture of (height, width) pixels will cost on the network of `config`."""
    resized = resized_size(height, width, config.preprocess)
    padded = padded_size(*resized, config.preprocess)
    asked = tuple(task for task in TASKS if task in tasks)
    flops, baseline = (count(config, padded, (height, width), asked).total for count in (count_network, count_baseline))
    return Plan(resized, padded, flops, baseline, baseline_name(config), training_side=config.preprocess.training_side)


def check_tasks(asked: Sequence[str], can: Sequence[Task] = TASKS) -> None:
    """Raise ParameterError, with the remedy, when a model that can do some tasks is asked for others."""
    if not asked or any(task not in TASKS for task in asked):
        raise ParameterError(f"tasks must be among {', '.join(TASKS)}, not {list(asked)}")
    if beyond := [task for task in asked if task not in can]:
        raise ParameterError(
            f"task: this model does {' and '.join(can)} segmentation only, not {' and '.join(beyond)}; leave task out, or load a model "
            "that can: PRO-SCALE, Mask2Former, or EoMT trained for panoptic segmentation (GET /models lists a model's tasks)"
        )


def check_options(options: SegmentationOptions, categories: Sequence[Category], can: Sequence[Task] = TASKS) -> None:
    """Raise ParameterError, with the remedy, when a model of these categories and tasks cannot do what `options` ask."""
    check_tasks(options.tasks, can)
    for name in ("threshold", "overlap_threshold"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise ParameterError(f"{name} must lie in 0..1, not {value}")
    if options.mask_threshold is not None and not 0 < options.mask_threshold < 1:
        raise ParameterError(f"mask_threshold must lie between 0 and 1, both excluded, not {options.mask_threshold}")
    if options.max_segments is not None and options.max_segments < 1:
        raise ParameterError(f"max_segments must be at least 1, not {options.max_segments}")
    check_labels(options, categories)


def check_labels(options: SegmentationOptions, categories: Sequence[Category]) -> None:
    """Raise ParameterError when a model of these categories does not have a label that `options` name."""
    if unknown := set(options.labels or ()) - {category.name for category in categories}:
        known = ", ".join(category.name for category in categories)
        raise ParameterError(f"the model has no label {', '.join(sorted(unknown))}; it has {known}")
