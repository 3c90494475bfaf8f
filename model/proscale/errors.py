"""What the model side raises on purpose.

ProscaleError
├── CheckpointError      weights or configuration cannot be used; the message says what to do
├── DataError            an annotated data set or predictions are missing something or contradict themselves
├── DeviceError          the GPU failed; only a new process can use it again
├── ImageError           a picture that the network cannot take (wrong shape, dtype, too small a side)
├── PictureError         a picture file that cannot be read
│   ├── EmptyPictureError        no bytes at all
│   ├── PictureSizeError         more pixels than the limit
│   └── UndecodablePictureError  no picture, a broken one, or a kind that cannot be shown as RGB
└── ParameterError       a request parameter out of range or unknown label
"""


class ProscaleError(Exception):
    """Base of every error that this package raises on purpose; its text is meant for the user."""


class CheckpointError(ProscaleError):
    """A checkpoint is missing, malformed, or does not fit the network; the text names the remedy."""


class DataError(ProscaleError):
    """Annotated data or predictions are missing something or contradict themselves; the text names file, field and remedy."""


class DeviceError(ProscaleError):
    """The device failed in a way that this process cannot recover from: after it, CUDA refuses every call."""


class ImageError(ProscaleError):
    """A picture is not an RGB uint8 array of at least one pixel."""


class PictureError(ProscaleError):
    """A picture file cannot be read; the text says why and, where there is one, what to do."""


class EmptyPictureError(PictureError):
    """The file has no bytes."""


class PictureSizeError(PictureError):
    """The picture has more pixels than the caller takes, by its header."""


class UndecodablePictureError(PictureError):
    """The bytes are no picture, a broken one, or one that has no meaning as RGB."""


class ParameterError(ProscaleError):
    """A segmentation parameter is out of its range, or names a label that the model does not have."""
