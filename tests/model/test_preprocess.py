"""Normalisation and padding."""

import numpy as np
import pytest
import torch
from PIL import Image

from proscale.config import PreprocessConfig
from proscale.errors import ImageError
from proscale.geometry import resize_picture
from proscale.preprocess import preprocess, preprocess_on


def test_a_picture_is_resized_normalised_and_padded_with_zeros() -> None:
    config = PreprocessConfig(short_side=40, long_side=100, mean=(10, 20, 30), std=(2, 4, 5))
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    batch = preprocess([resize_picture(image, config)], config)
    assert batch.shape == (1, 3, 64, 96)
    assert batch.dtype == torch.float32
    resized = np.asarray(Image.fromarray(image).resize((66, 40), Image.Resampling.BILINEAR)).astype(np.float32)
    expected = (resized - [10, 20, 30]) / [2, 4, 5]
    assert np.allclose(batch[0, :, :40, :66].permute(1, 2, 0), expected, atol=1e-5)
    assert not batch[:, :, 40:].any()
    assert not batch[:, :, :, 66:].any()


def test_pictures_of_one_padded_size_make_a_batch_and_others_do_not(picture: np.ndarray) -> None:
    config = PreprocessConfig(short_side=64, long_side=128)
    one, other, turned = (resize_picture(image, config) for image in (picture, picture[:-1], picture.transpose(1, 0, 2)))
    batch = preprocess([one, other], config)
    assert torch.equal(batch[0], preprocess([one], config)[0])
    with pytest.raises(ImageError, match="share a padded size"):
        preprocess([one, turned], config)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_normalising_on_the_device_gives_the_same(picture: np.ndarray, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    config = PreprocessConfig(short_side=64, long_side=128)
    pictures = [resize_picture(image, config) for image in (picture, picture[:-1])]
    batch = preprocess_on(pictures, config, torch.device(device))
    assert batch.is_contiguous()
    assert torch.allclose(batch.cpu(), preprocess(pictures, config), rtol=1e-6, atol=1e-6)
    with pytest.raises(ImageError, match="share a padded size"):
        preprocess_on([pictures[0], resize_picture(picture.transpose(1, 0, 2), config)], config, torch.device(device))
