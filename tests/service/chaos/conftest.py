"""What the tests of faults share."""

from collections.abc import Callable, Iterator

import pytest

Tell = Callable[[str, float], None]
"""Prints how many seconds something took."""


@pytest.fixture
def tell(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Tell]:
    """Prints figures of a test (`pytest -s`) and keeps them in its report."""

    def say(what: str, seconds: float) -> None:
        record_property(what, round(seconds, 3))
        print(f"\n  {request.node.name}: {what} {seconds:.2f} s", end="")

    yield say
    print()
