"""Reads what `torch.save` and `torch.jit.save` wrote: no torch, nothing is run.

A pickle is a program: it may name any function and have it called. The reader here
knows a handful of harmless names (tensors, storages, dictionaries) and refuses a file
that asks for another. The code in TorchScript archives is not looked at.

Formats: zip archives (torch 1.6 and later, TorchScript too) and the older single stream
of pickles followed by raw storages.
"""

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class TorchFileError(ValueError):
    """A file that cannot be read as tensors; the message says why."""


class Record(dict):
    """Attributes of an object of a TorchScript archive: tensors and further records."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


def read_torch_file(path: str | os.PathLike) -> Any:
    """What was saved, as dicts, lists and plain values, with NumPy arrays for tensors.

    Raises:
      TorchFileError: not such a file, cut short, or it asks for other code to be run.
      OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            return _read_legacy(file)
        except TorchFileError:
            raise
        except Exception as error:  # damaged bytes may fail anywhere, as anything
            raise TorchFileError(
                f"cut short, or not a file of torch.save ({type(error).__name__}:"
                f" {error})"
            ) from error


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int  # elements


class _Tensor(NamedTuple):
    """Part of a storage; the old format brings the bytes only after the pickle."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dict(dict):
    """An OrderedDict; the `_metadata` that torch hangs on it is dropped."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Ignored:
    """Stands for a value that is no tensor and that nobody needs, such as a device."""

    def __init__(self, *arguments: Any):
        del arguments

    def __setstate__(self, state: Any) -> None:
        del state


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise TorchFileError("a tensor without a storage in it")
    return _Tensor(storage, int(offset), tuple(shape), tuple(strides))


def _first(value: Any, *_: Any) -> Any:
    return value


_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.Size": _first,
    # What training scripts keep beside the weights.
    "torch.device": _Ignored,
    "argparse.Namespace": _Ignored,
    "_codecs.encode": _Ignored,
    "numpy.dtype": _Ignored,
    "numpy.core.multiarray.scalar": _Ignored,
    "numpy._core.multiarray.scalar": _Ignored,
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Builds only what `_KNOWN` lists, and records for TorchScript's objects."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if module == "__torch__" or module.startswith("__torch__."):
            return Record
        if full not in _KNOWN:
            raise TorchFileError(
                f"it asks for {full} to be run, which is refused; save the state_dict()"
                " of the network instead"
            )
        return _KNOWN[full]

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, size, *view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise TorchFileError(f"a storage of an unknown kind in it ({identity})")
        return _Storage(str(key), dtype, int(size))


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
        if len(names) != 1:
            raise TorchFileError("a zip archive, but not one of torch.save")
        folder = names[0].split("/")[0]
        order = "<"
        if f"{folder}/byteorder" in archive.namelist():
            little = archive.read(f"{folder}/byteorder") == b"little"
            order = "<" if little else ">"
        saved = _Unpickler(io.BytesIO(archive.read(names[0]))).load()

        def read(storage: _Storage) -> bytes:
            return archive.read(f"{folder}/data/{storage.key}")

        return _resolve(saved, read, order)


def _read_legacy(file: BinaryIO) -> Any:
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise TorchFileError("not a file of torch.save")
    if _Unpickler(file).load() != LEGACY_PROTOCOL:
        raise TorchFileError("an unknown version of torch.save's old format")
    system = _Unpickler(file).load()
    saved = _Unpickler(file).load()
    keys = _Unpickler(file).load()
    storages = {one.key: one for one in _storages(saved)}
    raw = {}
    for key in map(str, keys):
        size = int(np.frombuffer(file.read(8), "<i8")[0])
        if key not in storages or size != storages[key].size:
            raise TorchFileError(f"storage {key} is not what its tensors say")
        raw[key] = file.read(size * storages[key].dtype.itemsize)
    order = "<" if system.get("little_endian", True) else ">"
    return _resolve(saved, lambda storage: raw[storage.key], order)


def _storages(saved: Any):
    if isinstance(saved, _Tensor):
        yield saved.storage
    elif isinstance(saved, dict):
        for value in saved.values():
            yield from _storages(value)
    elif isinstance(saved, list | tuple):
        for value in saved:
            yield from _storages(value)


def _resolve(saved: Any, read: Callable[[_Storage], bytes], order: str) -> Any:
    """The same with arrays in the place of tensors."""
    flat: dict[str, np.ndarray] = {}  # several tensors may share a storage

    def array(tensor: _Tensor) -> np.ndarray:
        storage, offset, shape, strides = tensor
        if storage.key not in flat:
            raw = read(storage)
            if len(raw) != storage.size * storage.dtype.itemsize:
                raise TorchFileError(
                    f"cut short: a storage has {len(raw)} bytes, not"
                    f" {storage.size * storage.dtype.itemsize}"
                )
            values = np.frombuffer(raw, storage.dtype)
            flat[storage.key] = values if order == "<" else values.byteswap()
        size = math.prod(shape)
        reach = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if (
            min((*shape, *strides, offset, 0)) < 0
            or size > storage.size  # a tensor of repeated elements could be any size
            or (size and offset + reach >= storage.size)
        ):
            raise TorchFileError(f"a tensor of shape {shape} leaves its storage")
        values = flat[storage.key]
        bytes_apart = [step * values.itemsize for step in strides]
        view = np.lib.stride_tricks.as_strided(
            values[offset if size else 0 :], shape, bytes_apart
        )
        return np.ascontiguousarray(view).reshape(shape)

    def walk(value: Any) -> Any:
        if isinstance(value, _Tensor):
            return array(value)
        if isinstance(value, dict):
            kind = Record if isinstance(value, Record) else dict
            return kind({key: walk(one) for key, one in value.items()})
        if isinstance(value, list | tuple):
            return [walk(one) for one in value]
        return value

    return walk(saved)
