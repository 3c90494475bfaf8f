"""The service's reader is the model side's, with the service's errors."""

import numpy as np
import pytest
from tests.service.pictures import encoded, gradient, png_header

from proscale import pictures
from proscale_service.errors import MalformedRequest, ServiceError, TooManyPixels, UndecodableImage
from proscale_service.images import read_header, read_picture


def test_pictures_are_read_as_the_model_side_reads_them() -> None:
    data = encoded(gradient())
    np.testing.assert_array_equal(read_picture(data, 10_000).rgb, gradient())
    assert read_header(data, 10_000) == pictures.read_header(data, 10_000)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", MalformedRequest), (png_header(20_000, 20_000), TooManyPixels), (b"no picture", UndecodableImage)],
)
@pytest.mark.parametrize("read", [read_header, read_picture])
def test_errors_become_those_of_the_service(read, data: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error) as caught:
        read(data, 1_000_000)
    assert caught.value.detail == str(caught.value.__cause__)
