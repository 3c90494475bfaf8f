"""The thread on which a Triton worker computes, so that Triton's own thread need not wait for it.

A Python model that computes inside `execute` counts as busy, and Triton's scheduler does not look at requests that arrive meanwhile:
with a queue policy or priorities it sleeps up to half a second before it looks again, though the model has long been free. So `execute`
only hands pictures over, and holds Triton back no sooner than a whole further batch waits here: one is computed, one is ready.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from proscale.errors import DeviceError
from proscale.triton_worker import Reply, Request, Worker

_LOG = logging.getLogger(__name__)

Ticket = TypeVar("Ticket")
"""Whatever the caller knows a request by."""


class WorkerThread(Generic[Ticket]):
    """Loads a worker and feeds it, on a thread of its own.

    Nothing else should run torch in the process: OpenMP keeps a pool of threads per thread that calls it, and with more of them than
    processors they sleep instead of waiting for each other, which costs a CPU a third of its speed.
    """

    def __init__(
        self,
        load: Callable[[], Worker],
        answer: Callable[[Ticket, Reply], None],
        gone: Callable[[Ticket], bool] = lambda ticket: False,
        on_waiting: Callable[[int], None] = lambda change: None,
    ) -> None:
        """Returns when the worker is loaded.

        Args:
            load: makes the worker; what it raises is raised here.
            answer: called on the thread, once for every request.
            gone: whether nobody waits for the answer any more.
            on_waiting: called with the change of the number of requests that wait here.
        """
        self._answer, self._gone, self._on_waiting = answer, gone, on_waiting
        self._waiting: list[tuple[Ticket, Request]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._worker: Worker | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(load,), name="worker", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._worker or self._failure)
        if self._failure:
            raise self._failure

    def submit(self, requests: Sequence[tuple[Ticket, Request]]) -> None:
        """Take requests over. Returns at once, unless as many wait already as the worker computes together."""
        with self._changed:
            self._changed.wait_for(lambda: not self._full())
            self._waiting += requests
            self._on_waiting(len(requests))
            self._changed.notify_all()

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _full(self) -> bool:
        assert self._worker is not None
        pixels = sum(request.pixels for _, request in self._waiting)
        return len(self._waiting) >= self._worker.max_batch_pictures or pixels >= self._worker.max_batch_pixels

    def _run(self, load: Callable[[], Worker]) -> None:
        try:
            worker = load()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            return
        with self._changed:
            self._worker = worker
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                taken, self._waiting = self._waiting, []
                if not taken:
                    return
                self._on_waiting(-len(taken))
                self._changed.notify_all()
            self._compute(worker, taken)
            del taken  # pictures and tickets, while nothing is to do

    def _compute(self, worker: Worker, taken: Sequence[tuple[Ticket, Request]]) -> None:
        left = dict(enumerate(ticket for ticket, _ in taken))
        try:
            for index, reply in worker.handle([request for _, request in taken], lambda index: self._gone(left[index])):
                self._give(left.pop(index), reply)
        except DeviceError:
            # Unanswered, so that gateways send what was here to another worker, and load the model anew in a new process.
            _LOG.critical("this process can compute no more, and ends", exc_info=True)
            logging.shutdown()
            os._exit(1)
        except Exception as error:
            _LOG.exception("the worker failed outside of any picture")
            for ticket in left.values():
                self._give(ticket, Reply(error=f"the worker failed: {error}", internal=True))

    def _give(self, ticket: Ticket, reply: Reply) -> None:
        try:
            self._answer(ticket, reply)
        except Exception:
            _LOG.exception("an answer could not be given")
