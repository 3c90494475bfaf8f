import re
from itertools import combinations

from proscale.config import TASKS
from proscale.results import Plan
from proscale_service.metrics import STAGES, Metrics, task_label

NAMES = {
    "proscale_requests_total",
    "proscale_request_duration_seconds",
    "proscale_stage_duration_seconds",
    "proscale_queue_depth",
    "proscale_batch_size",
    "proscale_padding_pixels_total",
    "proscale_promise_ratio",
    "proscale_rejected_total",
    "proscale_refusals_total",
    "proscale_flops_total",
    "proscale_baseline_flops_total",
    "proscale_flops_saved_total",
    "proscale_engine_up",
    "proscale_servers_up",
    "proscale_model_flops_total",
    "proscale_model_pictures_total",
    "proscale_model_up",
    "proscale_model_waiting_pictures",
    "proscale_model_expected_seconds",
    "proscale_heals_total",
    "proscale_keys_stale",
}


def samples(metrics: Metrics) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_names_are_those_of_the_design() -> None:
    families = set(re.findall(r"^# TYPE (proscale_\S+)", Metrics().text().decode(), re.MULTILINE))
    assert families == NAMES


def test_two_applications_do_not_share_counts() -> None:
    first, second = Metrics(), Metrics()
    first.request("panoptic", 200, 0.1)
    assert 'proscale_requests_total{status="200",task="panoptic"}' in samples(first)
    assert 'proscale_requests_total{status="200",task="panoptic"}' not in samples(second)


def test_saved_is_baseline_minus_spent() -> None:
    metrics = Metrics()
    metrics.computed(Plan((60, 90), (64, 96), flops=70, baseline_flops=100), "proscale")
    metrics.computed(Plan((64, 96), (64, 96), flops=130, baseline_flops=100), "proscale")
    values = samples(metrics)
    assert values['proscale_flops_total{encoder="proscale"}'] == 200
    assert values["proscale_baseline_flops_total"] == 200
    assert values["proscale_flops_saved_total"] == 30
    assert values["proscale_padding_pixels_total"] == 64 * 96 - 60 * 90


def test_task_labels_are_few() -> None:
    labels = {task_label(reversed(tasks)) for count in (1, 2, 3) for tasks in combinations(TASKS, count)}
    assert len(labels) == 7
    assert task_label(["semantic", "panoptic", "semantic"]) == "panoptic+semantic"
    assert task_label([]) == "unknown"


def test_stages_are_there_before_the_first_request() -> None:
    for stage in STAGES:
        assert samples(Metrics())[f'proscale_stage_duration_seconds_count{{stage="{stage}"}}'] == 0


def test_queue_depth_is_read_when_asked() -> None:
    metrics, waiting = Metrics(), [1, 2, 3]
    metrics.watch_queue(lambda: len(waiting))
    assert samples(metrics)["proscale_queue_depth"] == 3
    waiting.clear()
    assert samples(metrics)["proscale_queue_depth"] == 0
