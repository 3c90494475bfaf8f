"""Files by `torch.save` that hold more than tensors, such as mmengine's, read without running anything that they name.

torch's own reader of weights refuses a file whole when a log entry in it is an object of an unknown class. This one reads it: tensors are
made from raw bytes, plain values are kept, and whatever else the file names becomes an inert stand-in that is thrown away.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proscale.errors import CheckpointError

STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StandIn:
    """In place of any object that is neither a tensor nor plain data: takes what it is given and does nothing."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __call__(self, *arguments: object, **named: object) -> "StandIn":
        return StandIn()

    def append(self, value: object) -> None:
        """Lists of an unknown class are filled so."""

    extend = append

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Reader(pickle.Unpickler):
    """An unpickler that can name nothing but tensors' parts, ordered dictionaries and stand-ins."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{prefix}/data.pkl")), encoding="latin1")
        self.archive, self.prefix = archive, prefix
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The only way from a pickle to an object of this process."""
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module_name, global_name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        return STORAGES[global_name] if module_name == "torch" and global_name in STORAGES else StandIn

    def persistent_load(self, pid: Any, /) -> Any:
        """A reference to a tensor's bytes, which lie in the archive as a file of their own."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not key.isdecimal():
            raise pickle.UnpicklingError("refers to something that is not a tensor's bytes")
        if key not in self.storages:
            data = self.archive.read(f"{self.prefix}/data/{key}")
            if not data or len(data) != count * dtype.itemsize:
                self.storages[key] = torch.empty(0, dtype=dtype)
                if count:
                    raise pickle.UnpicklingError(f"has {len(data)} bytes for {count} values of {dtype}")
            else:
                self.storages[key] = torch.frombuffer(bytearray(data), dtype=dtype)
        return self.storages[key]


def read_torch_archive(path: Path) -> dict[str, Any]:
    """The dictionary that a zip file by `torch.save` holds; nothing that the file names is imported or run.

    Raises:
        CheckpointError: it is damaged, crafted, or holds no dictionary.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise pickle.UnpicklingError("is no archive of torch's")
            prefix = pickles[0].removesuffix("/data.pkl")
            if f"{prefix}/byteorder" in archive.namelist() and archive.read(f"{prefix}/byteorder") != b"little":
                raise pickle.UnpicklingError("was written on a big-endian machine")
            value = _Reader(archive, prefix).load()
    except Exception as error:  # a damaged or crafted pickle fails in any way: every one of them is a refusal
        raise CheckpointError(f"{path} is damaged or crafted ({type(error).__name__}: {error}). Nothing in it has been run.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not named tensors")
    return value


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
    whole = (isinstance(number, int) and number >= 0 for number in (offset, *size, *stride))
    if not isinstance(storage, Tensor) or not all(whole) or len(size) != len(stride) or len(size) > 8:
        raise pickle.UnpicklingError("describes a tensor that cannot be")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else -1
    if last >= len(storage):
        raise pickle.UnpicklingError(f"describes a tensor {tuple(size)} that is larger than its bytes")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _rebuild_parameter(data: Any, *_: object) -> Any:
    return data
