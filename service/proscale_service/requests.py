"""Parameters of requests, with their ranges: pydantic models, documented for OpenAPI."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from proscale.config import Task
from proscale_service.errors import InvalidParameter

P = TypeVar("P", bound=BaseModel)


def _split(value: Any) -> Any:
    """`"a,b"` and `["a,b", "c"]` -> list of names; anything else is left for the type check."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [name.strip() for part in value for name in part.split(",")]
    return value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _not_bool(value: Any) -> Any:
    # To Python, and so to pydantic, true is the number 1.
    if isinstance(value, bool):
        raise ValueError("should be a number, not a truth value")
    return value


_number = BeforeValidator(_not_bool)
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _number]
Probability = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), _number]
Count = Annotated[int, Field(ge=1), _number]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000), _number]
Side = Annotated[int, Field(ge=1, le=1_000_000), _number]
Tasks = Annotated[tuple[Task, ...], Field(min_length=1), BeforeValidator(_split)]
Labels = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_one_or_many)]


class SegmentParameters(BaseModel):
    """Parameters of a request. What is left out has the model's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Tasks = Field(
        default=("panoptic",),
        description="`panoptic` (if none is named), `instance`, `semantic`; several, repeated or comma separated, share one pass.",
    )
    threshold: Share | None = Field(
        default=None,
        description="Least confidence of a segment. Panoptic: of its query; instance: of its score; semantic: not used.",
    )
    mask_threshold: Probability | None = Field(
        default=None,
        description="Probability from which a pixel belongs to a mask (panoptic, instance).",
    )
    overlap_threshold: Share | None = Field(
        default=None,
        description="Panoptic: a segment is dropped when less than this share of its mask is left to it.",
    )
    labels: Labels | None = Field(
        default=None,
        description="Keep only segments with these labels (see `GET /models`); repeated or comma separated.",
    )
    max_segments: Count | None = Field(
        default=None,
        description="Keep only the segments of highest score, at most so many per task.",
    )
    deadline_ms: Milliseconds | None = Field(
        default=None,
        description="Answer within so many milliseconds of the request's arrival, or 504.",
    )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The asked tasks, each once, in the order of the request."""
        return tuple(dict.fromkeys(self.task))


LIST_PARAMETERS = {"task", "labels"}


class PlanParameters(BaseModel):
    """Parameters of /segment/plan: the tasks; width and height instead of a picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Tasks = Field(default=("panoptic",), description="The tasks to plan for.")
    width: Side | None = Field(default=None, description="Pixels, after orientation. Give it with `height`, or send a picture.")
    height: Side | None = Field(default=None, description="Pixels, after orientation.")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The asked tasks, each once, in the order of the request."""
        return tuple(dict.fromkeys(self.task))


def parse_parameters(cls: type[P], values: Mapping[str, Any]) -> P:
    """Validate parameters.

    Raises:
        InvalidParameter: all that is wrong, in one sentence each, unknown names together with the known ones.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise InvalidParameter("; ".join(dict.fromkeys(_explain(cls, problem) for problem in error.errors()))) from error


def _explain(cls: type[BaseModel], problem: Any) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {name!r}; known are {', '.join(cls.model_fields)}"
    shown = repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}: {message} (it is {shown if len(shown) <= 80 else shown[:77] + '...'})"
