"""What the model side raises on purpose.

ProscaleError
├── CheckpointError      weights or configuration cannot be used; the message says what to do
├── DataError            an annotated data set or predictions are missing something or contradict themselves
├── DeviceError          the GPU failed; only a new process can use it again
├── ImageError           a picture that the network cannot take (wrong shape, dtype, too small a side)
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


class ParameterError(ProscaleError):
    """A segmentation parameter is out of its range, or names a label that the model does not have."""
