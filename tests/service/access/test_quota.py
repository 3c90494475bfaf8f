import pytest

from proscale_service.access.quota import BURST_S, Bucket, Quota
from proscale_service.errors import QuotaExceeded


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_rate_and_a_burst() -> None:
    clock = Clock()
    bucket = Bucket(2.0, clock)
    assert sum(bucket.take(1) == 0 for _ in range(100)) == 2 * BURST_S
    assert bucket.take(1) == pytest.approx(0.5)
    given = 0
    for _ in range(1000):
        clock.now += 0.1
        given += bucket.take(1) == 0
    assert given == pytest.approx(200, abs=1)
    clock.now += 1e6
    assert sum(bucket.take(1) == 0 for _ in range(100)) == 2 * BURST_S


def test_a_low_rate_still_allows_one_request() -> None:
    bucket = Bucket(0.01, Clock())
    assert bucket.take(1) == 0
    assert bucket.take(1) == pytest.approx(100)


def test_more_than_a_bucket_holds_passes_once_and_is_paid_for_later() -> None:
    clock = Clock()
    bucket = Bucket(100.0, clock)
    assert bucket.take(5000) == 0
    assert bucket.take(1) == pytest.approx(40.01)
    clock.now += 41
    assert bucket.take(1) == 0


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing() -> None:
    clock = Clock()
    bucket = Bucket(0.1, clock)
    assert bucket.take(1) == 0
    clock.now -= 50
    assert bucket.take(1) == pytest.approx(10)
    clock.now += 10
    assert bucket.take(1) == 0


def test_a_quota_counts_each_kind_and_says_when_to_come_back() -> None:
    quota = Quota(requests_per_s=0.1, pixels_per_s=10, concurrent_pictures=1, clock=Clock())
    quota.take_request()
    with pytest.raises(QuotaExceeded, match="requests") as caught:
        quota.take_request()
    assert caught.value.retry_after == 10
    quota.take_pixels(300)
    with pytest.raises(QuotaExceeded, match="pixels") as caught:
        quota.take_pixels(1)
    assert caught.value.retry_after == 21
    with quota.picture():
        with pytest.raises(QuotaExceeded, match="pictures"), quota.picture():
            pass
        assert quota.pictures == 1
    assert quota.pictures == 0


def test_without_limits_everything_passes() -> None:
    quota = Quota()
    for _ in range(1000):
        quota.take_request()
        quota.take_pixels(10**9)
