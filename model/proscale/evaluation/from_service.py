"""Results of a running service, over HTTP and RLE as any client gets them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from proscale.config import TASKS, Task
from proscale.datasets import AnnotatedPicture
from proscale.errors import DataError
from proscale.evaluation.class_matching import ClassMatch
from proscale.evaluation.predicted import Predicted, predicted_from
from proscale.labels import Category
from proscale.results import RLE, Segment, Segmentation

TIMEOUT_S = 600.0
ATTEMPTS, BUSY = 8, (429, 503)


class Service:
    """A service and what it says of its model."""

    def __init__(self, url: str, key: str | None = None, asked: str | None = None) -> None:
        """Args: asked: which of its models; None: its first.

        Raises:
            DataError: it cannot be reached, or has no such model.
        """
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.url = url
        self.http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S)
        models = self._json(self.http.request, "GET", "/models")["models"]
        model = next((each for each in models if asked in (None, each["name"])), None)
        if model is None:
            raise DataError(f"{url} serves no model {asked}; it has {', '.join(each['name'] for each in models)}")
        self.name: str = model["name"]
        self._asked = {} if asked is None else {"model": asked}
        self.categories = tuple(Category(row["id"], row["name"], row["isthing"]) for row in model["categories"])
        self.tasks: tuple[Task, ...] = tuple(task for task in TASKS if task in model.get("tasks", TASKS))

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def ask(self, data: bytes, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One picture's answer; a service that is busy is asked again, as it says.

        Raises:
            DataError: it refuses, or cannot be reached.
        """
        return self._json(self.http.request, "POST", "/segment", params={**parameters, **self._asked}, files={"image": (name, data)})

    def _json(self, request: Any, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        for attempt in range(ATTEMPTS):
            try:
                response = request(method, path, **arguments)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise DataError(f"no answer from {self.url}: {error or type(error).__name__}. Is a service running there?") from error
            if response.status_code not in BUSY or attempt == ATTEMPTS - 1:
                break
            wait = response.headers.get("retry-after", "")
            time.sleep(min(float(wait) if wait.isdigit() else 0.5, 30.0))
        try:
            values: dict[str, Any] = response.json()
        except ValueError:
            raise DataError(f"{self.url}{path} answers {response.status_code} without JSON: no service of this kind") from None
        if response.is_error:
            where = arguments.get("files", {}).get("image", ("",))[0]
            raise DataError(f"{self.url}{path} answers {response.status_code} {where}: {values.get('detail', values)}")
        return values


class ServiceSource:
    """A service as a source of results."""

    def __init__(self, service: Service, match: ClassMatch, concurrency: int = 4, parameters: Mapping[str, Any] | None = None) -> None:
        self.service, self.match, self.concurrency = service, match, concurrency
        self.tasks = service.tasks
        self.parameters = dict(parameters or {})
        self._stuff = frozenset(category.id for category in match.judged if not category.isthing)

    def predict(self, picture: AnnotatedPicture, tasks: Sequence[Task]) -> Predicted:
        """Results for one picture: one request, and another for instances, whose threshold is 0 so that AP sees every candidate."""
        data, started = picture.data(), time.perf_counter()
        rest: list[Task] = [task for task in tasks if task != "instance"]
        objects: list[Task] = ["instance"] if "instance" in tasks else []
        results: dict[Task, Segmentation] = {}
        plan: dict[str, Any] = {}
        for wanted, more in ((rest, self.parameters), (objects, {"threshold": 0})):
            if wanted:
                answer = self.service.ask(data, picture.path.name, {**more, "task": ",".join(wanted)})
                results |= _results(answer, wanted)
                plan = plan or answer["compute"]
        predicted = predicted_from(results, self.match.to_data, self._stuff)
        seconds = time.perf_counter() - started
        return replace(predicted, seconds=seconds, flops=plan["flops"], baseline_flops=plan["baseline_flops"])


def _results(answer: Mapping[str, Any], tasks: Sequence[Task]) -> dict[Task, Segmentation]:
    size = (answer["image"]["height"], answer["image"]["width"])
    lists = answer["results"] if len(tasks) > 1 else {tasks[0]: answer}
    return {task: Segmentation(task, size, tuple(_segment(row, size) for row in lists[task]["segments"])) for task in tasks}


def _segment(row: Mapping[str, Any], size: tuple[int, int]) -> Segment:
    mask = RLE(size, row["segmentation"]["counts"])
    box = tuple(row["bbox"])
    return Segment(row["id"], row["category_id"], row["label"], row["isthing"], row["score"], box, row["area"], mask)
