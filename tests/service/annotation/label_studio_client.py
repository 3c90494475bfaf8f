"""Runs with Label Studio's own packages: makes projects, imports predictions, reads them back, decodes them by its converter.

Arguments: Label Studio's URL, its token, the ML backend's URL, a file of predictions as JSON. Prints what it read as JSON.
"""

import json
import sys
import time
from typing import Any

from label_studio_sdk import LabelStudio  # type: ignore[import-not-found]
from label_studio_sdk.converter.brush import decode_rle  # type: ignore[import-not-found]
from label_studio_sdk.label_interface import LabelInterface  # type: ignore[import-not-found]


def main(url: str, token: str, backend: str, file: str) -> None:
    """Everything in one go: starting Label Studio takes longest."""
    with open(file, encoding="utf-8") as given:
        wanted: dict[str, Any] = json.load(given)
    client = LabelStudio(base_url=url, api_key=token)
    read: dict[str, Any] = {"imported": {}, "valid": {}}
    for kind, each in wanted["kinds"].items():
        project = client.projects.create(title=f"of {kind}", label_config=each["label_config"])
        task = client.tasks.create(project=project.id, data={"picture": wanted["picture"]})
        prediction = each["prediction"]
        read["valid"][kind] = LabelInterface(each["label_config"]).validate_prediction(prediction)
        client.predictions.create(task=task.id, **prediction)
        (stored,) = client.predictions.list(task=task.id)
        read["imported"][kind] = {"score": stored.score, "model_version": stored.model_version, "result": stored.result}
        if kind == "brush":
            values = decode_rle(stored.result[0]["value"]["rle"])
            read["brush_pixels"] = [i for i, value in enumerate(values[3::4].tolist()) if value]
    project = client.projects.create(title="by the backend", label_config=wanted["kinds"]["brush"]["label_config"])
    tasks = [
        client.tasks.create(project=project.id, data={"picture": place}) for place in (wanted["picture"], "nowhere://x", wanted["picture"])
    ]
    made = client.ml.create(project=project.id, url=backend, title="PRO-SCALE")
    read["backend_state"] = getattr(client.ml.get(id=made.id), "state", None)
    client.actions.create(id="retrieve_tasks_predictions", project=project.id, selected_items={"all": True, "excluded": []})
    end = time.monotonic() + 60
    counts: list[int] = []
    while time.monotonic() < end and sum(counts) < 2:
        counts = [len(client.predictions.list(task=task.id)) for task in tasks]
        time.sleep(0.2)
    read["by_backend"] = counts
    print(json.dumps(read))


if __name__ == "__main__":
    main(*sys.argv[1:])
