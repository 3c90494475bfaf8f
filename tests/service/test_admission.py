import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale_service.admission import Admission
from proscale_service.errors import Overloaded


def test_pictures_are_bounded_and_released() -> None:
    admission = Admission(2, 100, lambda: 17)
    with admission.permit(), admission.permit():
        with pytest.raises(Overloaded) as caught, admission.permit():
            pass
        assert caught.value.retry_after == 17
        with pytest.raises(Overloaded):
            admission.check()
    admission.check()
    assert admission.pictures == 0


def test_pixels_are_bounded_and_released() -> None:
    admission = Admission(5, 100)
    with admission.permit() as first, admission.permit() as second:
        first.hold_pixels(60)
        with pytest.raises(Overloaded):
            second.hold_pixels(41)
        second.hold_pixels(40)
        assert admission.pixels == 100
    assert admission.pixels == 0


def test_a_failure_releases_its_picture() -> None:
    admission = Admission(1, 100)

    def fail() -> None:
        with admission.permit() as permit:
            permit.hold_pixels(50)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (admission.pictures, admission.pixels) == (0, 0)


@given(st.lists(st.integers(1, 60), max_size=12))
def test_the_bounds_are_never_exceeded(sizes: list[int]) -> None:
    admission = Admission(4, 100)

    def enter(rest: list[int]) -> None:
        assert admission.pictures <= 4
        assert admission.pixels <= 100
        if not rest:
            return
        try:
            with admission.permit() as permit:
                permit.hold_pixels(rest[0])
                enter(rest[1:])
        except Overloaded:
            enter(rest[1:])

    enter(sizes)
    assert (admission.pictures, admission.pixels) == (0, 0)
