"""What can be said about a picture before anything is computed: its cost, and whether the options can be done. No torch.

The predictor and a gateway in front of remote workers share this, so that both plan and refuse alike.
"""

from collections.abc import Sequence

from proscale.config import TASKS, ModelConfig, Task
from proscale.errors import ParameterError
from proscale.flops import baseline_config, count_flops
from proscale.geometry import padded_size, resized_size
from proscale.labels import Category
from proscale.results import Plan, SegmentationOptions


def plan_picture(config: ModelConfig, height: int, width: int, tasks: Sequence[Task] = ("panoptic",)) -> Plan:
    """What a picture of (height, width) pixels will cost on the network of `config`."""
    resized = resized_size(height, width, config.preprocess)
    padded = padded_size(*resized, config.preprocess)
    asked = tuple(task for task in TASKS if task in tasks)
    flops, baseline = (count_flops(c, padded, (height, width), asked).total for c in (config, baseline_config(config)))
    return Plan(resized, padded, flops, baseline)


def check_options(options: SegmentationOptions, categories: Sequence[Category]) -> None:
    """Raise ParameterError, with the remedy, when a model of these categories cannot do what `options` ask."""
    if not options.tasks or any(task not in TASKS for task in options.tasks):
        raise ParameterError(f"tasks must be among {', '.join(TASKS)}, not {list(options.tasks)}")
    for name in ("threshold", "overlap_threshold"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise ParameterError(f"{name} must lie in 0..1, not {value}")
    if options.mask_threshold is not None and not 0 < options.mask_threshold < 1:
        raise ParameterError(f"mask_threshold must lie between 0 and 1, both excluded, not {options.mask_threshold}")
    if options.max_segments is not None and options.max_segments < 1:
        raise ParameterError(f"max_segments must be at least 1, not {options.max_segments}")
    if unknown := set(options.labels or ()) - {category.name for category in categories}:
        known = ", ".join(category.name for category in categories)
        raise ParameterError(f"the model has no label {', '.join(sorted(unknown))}; it has {known}")
