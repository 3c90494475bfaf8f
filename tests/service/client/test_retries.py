"""What is sent again, when, and what is not; with scripted answers behind both kinds of client, and with a real server that is full."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from proscale_service.client import NO_RETRIES, AsyncClient, Client, Retries
from proscale_service.client import sync as sync_module
from proscale_service.client.retries import SEND, Failed, conversation, retry_after
from proscale_service.errors import DeadlineExceeded, Overloaded, ServiceError, Unavailable

from ..pictures import blob, encoded
from ..predictors import ThresholdPredictor
from ..serving import serving, until

GOOD = {"status_code": 200, "json": {"models": []}}
Answers = list[dict[str, Any] | type[httpx.TransportError]]


class Script:
    """Answers in order, the last of them for ever."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.requests = answers, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers[min(self.requests, len(self.answers) - 1)]
        self.requests += 1
        if isinstance(answer, dict):
            return httpx.Response(**answer)
        raise answer("scripted")


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that clients waited; nobody waits in fact."""
    waited: list[float] = []

    async def nap(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("proscale_service.client.asynchronous.asyncio.sleep", nap)
    monkeypatch.setattr(sync_module.Client._ask, "__defaults__", (waited.append,))
    return waited


async def models_of(kind: str, script: Script, retries: Retries) -> object:
    if kind == "sync":
        with Client("http://x", retries=retries, transport=httpx.MockTransport(script)) as client:
            return client.models()
    async with AsyncClient("http://x", retries=retries, transport=httpx.MockTransport(script)) as client:
        return await client.models()


def refusal(status: int, seconds: str | None = None) -> dict[str, Any]:
    return {"status_code": status, "headers": {} if seconds is None else {"retry-after": seconds}, "json": {}}


@pytest.mark.parametrize("kind", ["sync", "async"])
class TestScripted:
    async def test_a_refusal_is_waited_for_as_long_as_the_server_says(self, kind: str, naps: list[float]) -> None:
        script = Script([refusal(429, "7"), refusal(503, "2"), GOOD])
        assert await models_of(kind, script, Retries()) == []
        assert script.requests == 3
        assert 7 <= naps[0] <= 7 * 1.25
        assert 2 <= naps[1] <= 2 * 1.25

    async def test_without_retry_after_waits_grow(self, kind: str, naps: list[float]) -> None:
        assert await models_of(kind, Script([httpx.ConnectError, refusal(503), refusal(503), GOOD]), Retries()) == []
        assert all(least <= seconds <= least * 1.25 for seconds, least in zip(naps, (0.5, 1, 2), strict=True))

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (refusal(500), ServiceError),
            (refusal(504, "1"), DeadlineExceeded),
            (refusal(502), ServiceError),
            (httpx.ReadTimeout, httpx.ReadTimeout),
            (httpx.RemoteProtocolError, httpx.RemoteProtocolError),
        ],
    )
    async def test_requests_that_may_have_been_computed_are_not_retried(
        self, kind: str, answer: Any, error: type[Exception], naps: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # MockTransport makes no connection, so that every failure would look like one of an idle connection.
        monkeypatch.setattr("proscale_service.client.sync.Trace.stale", lambda trace, error: False)
        script = Script([answer, GOOD])
        with pytest.raises(error):
            await models_of(kind, script, Retries())
        assert (script.requests, naps) == (1, [])

    async def test_the_error_is_raised_when_all_attempts_are_spent(self, kind: str, naps: list[float]) -> None:
        script = Script([refusal(429, "1")])
        with pytest.raises(Overloaded):
            await models_of(kind, script, Retries(attempts=3))
        assert (script.requests, len(naps)) == (3, 2)

    async def test_long_waits_and_disabled_retries_raise_at_once(self, kind: str, naps: list[float]) -> None:
        for answer, retries in ((refusal(503, "3600"), Retries()), (refusal(503, "1"), NO_RETRIES)):
            with pytest.raises(Unavailable):
                await models_of(kind, Script([answer]), retries)
        assert naps == []


def test_an_answer_beyond_its_deadline_is_not_waited_for() -> None:
    clock = iter([0.0, 1.0, 4.0])
    steps = conversation(Retries(), within_s=5.0, clock=lambda: next(clock))
    refused = httpx.Response(429, headers={"retry-after": "2"})
    assert next(steps) is SEND
    assert 2 <= (steps.send(refused) or 0) <= 2.5
    assert steps.send(None) is SEND
    with pytest.raises(StopIteration) as end:
        steps.send(refused)
    assert end.value.value is refused


def test_idle_connections_that_were_closed_are_no_attempts() -> None:
    steps = conversation(NO_RETRIES)
    error = httpx.ReadError("closed")
    assert next(steps) is SEND
    for _ in range(20):
        assert steps.send(Failed(error, stale=True)) is SEND
    with pytest.raises(httpx.ReadError):
        steps.send(Failed(error, stale=True))


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), ("0", 0), ("", None), ("soon", None), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)]
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(httpx.Response(503, headers={"retry-after": text})) == seconds


def test_retry_after_as_a_date() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 <= (retry_after(httpx.Response(503, headers={"retry-after": moment})) or 0) <= 31


def test_a_full_server_is_asked_again() -> None:
    predictor = ThresholdPredictor()
    with serving(predictor, max_concurrent_pictures=1) as server, Client(server.url, retries=Retries(attempts=10)) as client:
        predictor.gate.clear()
        done: list[int] = []
        import threading

        def ask(then: Callable[[int], None]) -> None:
            then(len(client.segment(encoded(blob())).segments))

        threads = [threading.Thread(target=ask, args=(done.append,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: server.pipeline.metrics.rejected.labels("overloaded")._value.get() >= 1)
        predictor.gate.set()
        for thread in threads:
            thread.join(60)
    assert done == [2, 2]
