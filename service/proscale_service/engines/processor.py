"""The one thread on which all networks of this process are run, the queue in front of it (`queue.py`), and whose turn it is.

One batch is computed at a time: it has all threads, shared out among its pictures (`proscale.lanes`), and a second batch would take them
away. So batchers ask for a turn, and the one gets it that holds the picture that is next in the whole queue, whichever model it wants.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from proscale_service.engines.queue import Admitted, Queue

Ready = Callable[[], Sequence[Admitted]]
"""What a batcher could compute now."""
Turn = Callable[[Ready], AbstractAsyncContextManager[None]]


def free_turn(ready: Ready) -> AbstractAsyncContextManager[None]:
    """At once: nobody else computes."""
    return nullcontext()


class Processor:
    """Turns belong to the event loop's thread."""

    def __init__(self, readers: int = 1) -> None:
        """Args: readers: threads that decode."""
        self.executor = ThreadPoolExecutor(1, "engine")
        self.queue = Queue(readers=readers)
        self._taken = False
        self._asking: dict[asyncio.Future[None], Ready] = {}

    @asynccontextmanager
    async def turn(self, ready: Ready) -> AsyncIterator[None]:
        """Hold the processor, once nobody else does and nothing in the queue goes before what is ready here."""
        if self._taken:
            mine = asyncio.get_running_loop().create_future()
            self._asking[mine] = ready
            try:
                await mine
            except BaseException:
                if self._asking.pop(mine, None) is None:  # it was given meanwhile, to nobody
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            if self._asking:
                # In a moment, when whoever held it may ask again: what is ready there counts, too.
                asyncio.get_running_loop().call_soon(self._pass_on)
            else:
                self._taken = False

    def _pass_on(self) -> None:
        """Give the turn to the next one who asks; it stays taken until that one runs."""
        owners = {promise: future for future, ready in self._asking.items() for promise in ready()}
        chosen: asyncio.Future[None] | None
        if owners:
            with self.queue.lock:
                chosen = owners[self.queue.pick(list(owners))]
        else:  # those who ask have nothing to compute any more, and shall notice
            chosen = next(iter(self._asking), None)
        self._taken = chosen is not None
        if chosen is not None:
            del self._asking[chosen]
            chosen.set_result(None)

    def close(self) -> None:
        """Let go of the thread, once it is done."""
        self.executor.shutdown(wait=False, cancel_futures=True)
