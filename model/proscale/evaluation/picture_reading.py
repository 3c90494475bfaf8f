"""Pictures of a data set as the service would read them."""

import numpy as np
from numpy.typing import NDArray

from proscale.datasets import AnnotatedPicture
from proscale.errors import DataError, ProscaleError
from proscale.pictures import read_picture

MAX_PIXELS = 400_000_000


def read_rgb(picture: AnnotatedPicture) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) uint8 RGB, upright.

    Raises:
        DataError: it is missing or broken; the text names it.
    """
    data = picture.data()
    try:
        return read_picture(data, MAX_PIXELS).rgb
    except ProscaleError as error:
        raise DataError(f"{picture.path}: {error}") from error
