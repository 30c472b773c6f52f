"""Reads what `torch.save` and `torch.jit.save` wrote: no torch, nothing is run.

A pickle is a program: it may name any function and have it called. The reader here
knows a handful of harmless names (tensors, storages, dictionaries) and refuses a file
that asks for another. The code in TorchScript archives is not looked at. Nothing is
unpacked to disk, and what is read takes no more memory than a small multiple of the
file, whatever sizes it claims.

Formats: zip archives (torch 1.6 and later, TorchScript too) and the older single stream
of pickles followed by raw storages.
"""

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# Tensors may share a storage (tied weights), but a small file must not become a large
# network by naming one storage very often.
_MAX_GROWTH = 16

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
        file_bytes = os.fstat(file.fileno()).st_size
        try:
            if zipfile.is_zipfile(file):
                return _read_zip(file, file_bytes)
            file.seek(0)
            return _read_legacy(file, file_bytes)
        except TorchFileError:
            raise
        except Exception as error:  # damaged bytes may fail anywhere, as anything
            raise TorchFileError(
                f"cut short, or not a file of torch.save ({type(error).__name__}:"
                f" {error})"
            ) from error


class _Known:
    """What a pickle may name: a function, or the numbers of a storage.

    A pickle may also set attributes of what it names: the defaults of a function, or
    the item size of NumPy's bfloat16, which the whole process shares. Not of this.
    """

    def __init__(self, meant: Callable | np.dtype):
        self.meant = meant

    def __call__(self, *arguments: Any) -> Any:
        return self.meant(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise TorchFileError("it asks for a function to be changed, which is refused")


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
    "torch._utils._rebuild_tensor": _Known(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Known(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Known(_first),
    "torch.jit._pickle.restore_type_tag": _Known(_first),
    "torch.jit._pickle.build_intlist": _Known(_first),
    "torch.jit._pickle.build_doublelist": _Known(_first),
    "torch.jit._pickle.build_boollist": _Known(_first),
    "torch.jit._pickle.build_tensorlist": _Known(_first),
    "torch.Size": _Known(_first),
    # What training scripts keep beside the weights.
    "torch.device": _Ignored,
    "argparse.Namespace": _Ignored,
    "_codecs.encode": _Ignored,
    "numpy.dtype": _Ignored,
    "numpy.core.multiarray.scalar": _Ignored,
    "numpy._core.multiarray.scalar": _Ignored,
    **{f"torch.{name}": _Known(np.dtype(dtype)) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle._Unpickler):
    """Builds only what `_KNOWN` lists, and records for TorchScript's objects.

    In Python: the one in C takes as much memory as an index in the file says.
    """

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
        dtype = getattr(dtype, "meant", None)
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise TorchFileError(f"a storage of an unknown kind in it ({kind}, {key})")
        return _Storage(str(key), dtype, int(size))


def _read_zip(file: BinaryIO, file_bytes: int) -> Any:
    with zipfile.ZipFile(file) as archive:

        def read(name: str) -> bytes:
            member = archive.getinfo(name)
            # A few compressed bytes may become any number.
            if member.compress_type != zipfile.ZIP_STORED:
                raise TorchFileError(f"{name} is compressed; wanted as torch.save does")
            _check_size(max(member.file_size, member.compress_size), file_bytes)
            return archive.read(member)

        names = [n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]]
        if len(names) != 1:
            raise TorchFileError("a zip archive, but not one of torch.save")
        folder = names[0].split("/")[0]
        order = "<"
        if f"{folder}/byteorder" in archive.namelist():
            order = "<" if read(f"{folder}/byteorder") == b"little" else ">"
        saved = _Unpickler(io.BytesIO(read(names[0]))).load()
        limit = _MAX_GROWTH * file_bytes
        return _resolve(
            saved, lambda one: read(f"{folder}/data/{one.key}"), order, limit
        )


def _read_legacy(file: BinaryIO, file_bytes: int) -> Any:
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise TorchFileError("not a file of torch.save")
    if _Unpickler(file).load() != LEGACY_PROTOCOL:
        raise TorchFileError("an unknown version of torch.save's old format")
    system = _Unpickler(file).load()
    saved = _Unpickler(file).load()
    keys = _Unpickler(file).load()
    storages = {one.key: one for one in _storages(saved, set())}
    raw = {}
    for key in map(str, keys):
        size = int(np.frombuffer(file.read(8), "<i8")[0])
        if key not in storages or size != storages[key].size:
            raise TorchFileError(f"storage {key} is not what its tensors say")
        wanted = size * storages[key].dtype.itemsize
        _check_size(wanted, file_bytes)
        raw[key] = file.read(wanted)
    order = "<" if system.get("little_endian", True) else ">"
    limit = _MAX_GROWTH * file_bytes
    return _resolve(saved, lambda storage: raw[storage.key], order, limit)


def _check_size(claimed: int, file_bytes: int) -> None:
    if not 0 <= claimed <= file_bytes:
        raise TorchFileError(
            f"cut short: it claims {claimed} bytes in a file of {file_bytes}"
        )


def _storages(saved: Any, seen: set[int]) -> Iterator[_Storage]:
    """All of them; what is there under several names is visited once."""
    if isinstance(saved, _Tensor):
        yield saved.storage
    elif isinstance(saved, dict | list | tuple) and id(saved) not in seen:
        seen.add(id(saved))
        for value in saved.values() if isinstance(saved, dict) else saved:
            yield from _storages(value, seen)


def _resolve(
    saved: Any, read: Callable[[_Storage], bytes], order: str, limit: int
) -> Any:
    """The same with arrays in the place of tensors.

    Args:
      saved: what the pickle says.
      read: bytes of a storage.
      order: of the bytes of a number, "<" or ">".
      limit: bytes of all tensors, and values, that it may have.
    """
    flat: dict[str, np.ndarray] = {}  # several tensors may share a storage
    # Ten lists of ten lists of ... take few bytes in a pickle, where each list is there
    # once: each is made once here too, and refused if one who walks it would not end.
    made: dict[int, tuple[Any, int]] = {}
    taken = 0

    def array(tensor: _Tensor) -> np.ndarray:
        nonlocal taken
        storage, offset, shape, strides = tensor
        if storage.key not in flat:
            raw = read(storage)
            taken += len(raw)  # members of an archive may overlap
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
        taken += size * storage.dtype.itemsize
        if taken > limit:
            raise TorchFileError(
                f"its tensors are more than {_MAX_GROWTH} times as large as the file"
            )
        values = flat[storage.key]
        bytes_apart = [step * values.itemsize for step in strides]
        view = np.lib.stride_tricks.as_strided(
            values[offset if size else 0 :], shape, bytes_apart
        )
        return np.ascontiguousarray(view).reshape(shape)

    def walk(value: Any) -> tuple[Any, int]:
        """With arrays, and how many values it is when all sharing is undone."""
        if not isinstance(value, dict | list | tuple):
            return value, 1
        if id(value) not in made:
            if isinstance(value, _Tensor):
                made[id(value)] = array(value), 1
            else:
                items = value.values() if isinstance(value, dict) else value
                pairs = [walk(one) for one in items]
                parts, count = [one for one, _ in pairs], sum(n for _, n in pairs) + 1
                if count > limit:
                    raise TorchFileError(f"it unfolds to more than {limit} values")
                if isinstance(value, dict):
                    kind = Record if isinstance(value, Record) else dict
                    parts = kind(zip(value, parts, strict=True))
                made[id(value)] = parts, count
        return made[id(value)]

    return walk(saved)[0]
