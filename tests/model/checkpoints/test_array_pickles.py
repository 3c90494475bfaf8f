"""Pickles: arrays are read, everything else is refused, and nothing a file names is ever run."""

import builtins
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proscale.checkpoints.array_pickles import read_pickle
from proscale.checkpoints.weight_files import read_checkpoint
from proscale.errors import CheckpointError

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(3, 2)),
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 3), np.float32),
    "scalar array": np.array(5, np.int64),
    "number": np.float64(2.5),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_pickle_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": OrderedDict(ARRAYS), "__author__": "us", "matching_heuristics": True}, protocol=protocol))
    read = read_pickle(path)
    assert read["__author__"] == "us"
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read["model"][name], array)
        assert read["model"][name].dtype == np.asarray(array).dtype.newbyteorder("=")
    assert read_checkpoint(path).state["matrix"].tolist() == [[0, 1, 2], [3, 4, 5]]


class Reduced:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def marker_command(folder: Path) -> str:
    return f"touch {folder / 'ran'}"


def nested(payload: object) -> bytes:
    return pickle.dumps({"model": {"weight": payload, "good": ARRAYS["matrix"]}}, protocol=2)


def global_then_build(folder: Path) -> bytes:
    """A stand-in is named, and told to take a `__setstate__` of the file's own making."""
    return b"\x80\x02}U\x05modelcnumpy\ndtype\n}U\x0c__setstate__cnumpy\ndtype\nsbs."


def instance_opcode(folder: Path) -> bytes:
    return b"(S'" + marker_command(folder).encode() + b"'\nios\nsystem\n."


def object_array(folder: Path) -> bytes:
    return nested(np.array([Reduced(os.system, marker_command(folder))], dtype=object))


def structured_array(folder: Path) -> bytes:
    return nested(np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]))


def lying_array(folder: Path) -> bytes:
    """An array of 8 bytes that says it has a billion values."""
    honest = pickle.dumps({"w": np.arange(2, dtype=np.float32)}, protocol=2)
    changed = honest.replace(b"K\x02\x85", b"J" + struct.pack("<i", 10**9) + b"\x85", 1)
    assert changed != honest, pickletools.dis(honest, io.StringIO())  # type: ignore[func-returns-value]
    return changed


def with_persistent_id(folder: Path) -> bytes:
    return b"\x80\x02}U\x05modelU\x01xQs."


def via_getattr(folder: Path) -> bytes:
    return nested(Reduced(getattr, "text", "format"))


def via_dotted_name(folder: Path) -> bytes:
    """Protocol 4 may name attributes of attributes."""
    return b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93."


def via_array_module(folder: Path) -> bytes:
    """Another function of the module that arrays come from."""
    return b"\x80\x02cnumpy.core.multiarray\nfromfile\n."


def via_new_object(folder: Path) -> bytes:
    return b"\x80\x02cnumpy\nndarray\n)\x81."


def torch_storage(folder: Path) -> bytes:
    return nested(torch.ones(2))


ATTACKS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os.system": (lambda folder: nested(Reduced(os.system, marker_command(folder))), r"wants to use posix.system"),
    "eval": (lambda folder: nested(Reduced(builtins.eval, "1")), r"wants to use (builtins|__builtin__).eval"),
    "subprocess": (lambda folder: nested(Reduced(subprocess.Popen, ["touch"])), r"wants to use (subprocess|commands).Popen"),
    "getattr": (via_getattr, r"wants to use (builtins|__builtin__).getattr"),
    "dotted name": (via_dotted_name, r"wants to use numpy.dtype.__class__"),
    "array module": (via_array_module, r"wants to use numpy.core.multiarray.fromfile"),
    "instance opcode": (instance_opcode, r"wants to use os.system"),
    "object array": (object_array, r"wants to use posix.system|array of 'O8'"),
    "plain object array": (lambda folder: nested(np.array([{}], dtype=object)), r"array of 'O8'"),
    "structured array": (structured_array, r"array of 'V8'"),
    "string array": (lambda folder: nested(np.array(["a"])), r"array of 'U1'"),
    "lying array": (lying_array, r"8 bytes do not fit its shape \(1000000000,\)"),
    "state of a name": (global_then_build, r"sets the state of something that is not an array|damaged or crafted"),
    "persistent id": (with_persistent_id, r"refers to data outside itself"),
    "new object": (via_new_object, r"damaged or crafted|not a dictionary"),
    "torch tensor": (torch_storage, r"wants to use torch"),
    "not a dictionary": (lambda folder: pickle.dumps([1]), r"holds a list, not a dictionary"),
    "cut short": (lambda folder: nested(1)[:-20], r"damaged or crafted|truncated"),
    "not a pickle": (lambda folder: b"hello, I am a checkpoint", r"damaged or crafted|invalid load key"),
    "nothing": (lambda folder: b"", r"damaged or crafted"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_and_nothing_is_run(attack: str, tmp_path: Path) -> None:
    make, message = ATTACKS[attack]
    path = tmp_path / "model.pkl"
    path.write_bytes(make(tmp_path))
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_checkpoint(path)
    assert "is refused" in str(refusal.value)
    assert "nothing in the file has been run" in str(refusal.value)
    assert not (tmp_path / "ran").exists()


def test_the_attack_would_work_on_an_ordinary_reader(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(ATTACKS["os.system"][0](tmp_path))
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.safetensors"])
def test_torch_files_are_read_as_weights_alone(zipped: bool, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save({"model": {"w": Reduced(os.system, marker_command(tmp_path))}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"is refused: torch cannot read it as weights alone \(it wants to use posix.system\)"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_reading_does_not_import_what_a_file_names(tmp_path: Path) -> None:
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (tmp_path / "model.pkl").write_bytes(b"\x80\x02cevil_module\nanything\n.")
    code = (
        "import sys; from pathlib import Path; from proscale.checkpoints.array_pickles import read_pickle; read_pickle(Path(sys.argv[1]))"
    )
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root / "model")])}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pkl")], env=environment, capture_output=True, text=True)
    assert "wants to use evil_module.anything" in done.stderr
    assert not (tmp_path / "ran").exists()
