"""Pickles of numpy arrays, read without running anything that they name.

A pickle is a program: it may name any function of any module and call it. The reader here knows nine names, those by which numpy
arrays, numbers and ordered dictionaries are pickled, and what stands behind them are inert stand-ins of our own: they note what numpy
would have been asked to do. Arrays are made from these notes afterwards, from raw bytes, when type and size have been checked. Everything
else (another name, an object's own class, a persistent reference) is refused before it is even imported.
"""

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from proscale.errors import CheckpointError

MAX_DIMENSIONS = 8
DTYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
"""Kinds of numbers that weights may have."""


class _RefusedError(Exception):
    """What is wrong with a pickle, to follow "as a pickle it"."""


class _Inert:
    """A stand-in; the BUILD instruction of a pickle finds nothing to set on it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("sets the state of something that is not an array")


class _DType(_Inert):
    """What a pickle says of a dtype."""

    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code.lstrip("<>=|") not in DTYPES:
            raise _RefusedError(f"holds an array of {code!r}, not of numbers")
        self.code, self.order = code.lstrip("<>=|"), code[0] if code[0] in "<>" else "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _RefusedError("describes a structured array")
        self.order = ">" if state[1] == ">" else "<"


class _Array(_Inert):
    """What a pickle says of an array."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self) -> None:
        self.dtype: object = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError("holds an array in an unknown form")
        _, self.shape, self.dtype, self.fortran, self.data = state

    def build(self) -> NDArray[Any]:
        """The array itself; every claim is checked first."""
        if not isinstance(self.dtype, _DType):
            raise _RefusedError("holds an array without a type")
        data, shape, dtype = self.data, self.shape, np.dtype(self.dtype.order + self.dtype.code)
        if isinstance(data, str):  # as Python 2 wrote bytes
            data = data.encode("latin1")
        if not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
            raise _RefusedError("holds an array without raw bytes or with an odd shape")
        if any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data):
            raise _RefusedError(f"holds an array whose {len(data)} bytes do not fit its shape {shape}")
        flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
        return flat.reshape(shape, order="F" if self.fortran else "C")


class _Named(_Inert):
    """A name that a pickle may use: callable as the original would be, but nothing else."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> Any:
        match self.name:
            case "_reconstruct":
                return _Array()
            case "dtype":
                return _DType(arguments[0])
            case "_frombuffer":
                data, dtype, shape, order = arguments
                array = _Array()
                array.__setstate__((1, shape, dtype, order == "F", data))
                return array
            case "scalar":
                array = _Array()
                array.__setstate__((1, (), arguments[0], False, arguments[1]))
                return array
            case "OrderedDict":
                return {}
            case "encode":
                return arguments[0].encode("latin1")
            case "bytes" | "bytearray" if not arguments or isinstance(arguments[0], bytes | bytearray):
                return bytes(*arguments[:1])
            case _:
                raise _RefusedError(f"calls {self.name}")


_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
ALLOWED = {
    **{(module, name): name for module in _ARRAY_MODULES for name in ("_reconstruct", "scalar")},
    **{(module, "_frombuffer"): "_frombuffer" for module in ("numpy.core.numeric", "numpy._core.numeric")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("collections", "OrderedDict"): "OrderedDict",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytearray"): "bytearray",
}
"""Module and name as pickles write them -> the stand-in."""


class _Reader(pickle.Unpickler):
    """An unpickler that can name nothing but stand-ins."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The only way from a pickle to an object of this process."""
        try:
            return _Named(ALLOWED[module_name, global_name])
        except KeyError:
            raise _RefusedError(f"wants to use {module_name}.{global_name}") from None

    def persistent_load(self, pid: Any, /) -> Any:
        """Torch files refer to their tensors so; they are not read here."""
        raise _RefusedError("refers to data outside itself")


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays, such as detectron2's `.pkl`; nothing that the file names is imported or run.

    Returns:
        nested dictionaries with string keys; leaves are numpy arrays, and strings or numbers as they are.

    Raises:
        CheckpointError: the file names anything but arrays, or is damaged; the text says what.
    """
    try:
        with path.open("rb") as file:
            value = _load(file)
        if not isinstance(value, dict):
            raise _RefusedError(f"holds a {type(value).__name__}, not a dictionary")
        return dict(_built(value, depth=3))
    except _RefusedError as error:
        raise CheckpointError(
            f"{path} is refused: as a pickle it {error}. Only dictionaries of numpy arrays are read, and nothing in the file has been run. "
            "If you trust it, save its weights again as safetensors."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _load(file: BinaryIO) -> object:
    try:
        return _Reader(file, encoding="latin1").load()
    except (_RefusedError, OSError):
        raise
    except Exception as error:  # a damaged or crafted pickle fails in any way: every one of them is a refusal
        raise _RefusedError(f"is damaged or crafted ({type(error).__name__}: {error})") from None


def _built(values: dict[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, _Array):
            yield name, value.build()
        elif isinstance(value, dict) and depth:
            yield name, dict(_built(value, depth - 1))
        elif value is None or isinstance(value, str | int | float | bool):
            yield name, value
