"""Writes files in the formats of torch.save, opcode by opcode and without torch."""

import io
import struct
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}


class Call:
    """Pickled as a call of `module.name` with these arguments."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Instance:
    """Pickled as an object of `module.name` with attributes, as TorchScript does."""

    def __init__(self, module, name, **attributes):
        self.module, self.name, self.attributes = module, name, attributes


class Tensor:
    """Pickled as a tensor: a view of a storage."""

    def __init__(self, storage, shape, strides, offset=0):
        self.storage, self.shape = storage, shape
        self.strides, self.offset = strides, offset


def tensor(array):
    """A tensor with a storage of its own."""
    strides = [step // array.itemsize for step in array.strides]
    return Tensor(array.reshape(-1), array.shape, tuple(strides))


class _Pickler:
    def __init__(self, legacy):
        self.legacy, self.storages = legacy, []

    def dumps(self, value):
        return b"\x80\x02" + self.code(value) + b"."

    def name(self, module, name):
        return f"c{module}\n{name}\n".encode()

    def tuple(self, *values):
        return b"(" + b"".join(map(self.code, values)) + b"t"

    def code(self, value):
        if isinstance(value, bytes):  # ready-made
            return value
        if value is None:
            return b"N"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, tuple):
            return self.tuple(*value)
        if isinstance(value, list):
            return b"](" + b"".join(map(self.code, value)) + b"e"
        if isinstance(value, dict):
            items = b"".join(self.code(k) + self.code(v) for k, v in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, Call):
            name = self.name(value.module, value.name)
            return name + self.tuple(*value.arguments) + b"R"
        if isinstance(value, Instance):
            name = self.name(value.module, value.name)
            return name + b")\x81" + self.code(value.attributes) + b"b"
        if isinstance(value, np.ndarray):
            value = tensor(value)
        return self._tensor(value)

    def _tensor(self, value):
        same = [i for i, one in enumerate(self.storages) if one is value.storage]
        if not same:
            self.storages.append(value.storage)
        key = str(same[0] if same else len(self.storages) - 1)
        kind = self.name("torch", STORAGES[value.storage.dtype])
        identity = ["storage", kind, key, "cpu", value.storage.size]
        storage = self.tuple(*identity, *([None] if self.legacy else [])) + b"Q"
        hooks = self.name("collections", "OrderedDict") + b")R"
        arguments = (storage, value.offset, value.shape, value.strides, False, hooks)
        return self.code(Call("torch._utils", "_rebuild_tensor_v2", *arguments))


def zip_bytes(value, folder="archive"):
    """As torch.save writes since 1.6, and torch.jit.save."""
    pickler = _Pickler(legacy=False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", pickler.dumps(value))
        archive.writestr(f"{folder}/byteorder", "little")
        for key, storage in enumerate(pickler.storages):
            archive.writestr(f"{folder}/data/{key}", storage.tobytes())
    return buffer.getvalue()


def legacy_bytes(value):
    """As torch.save wrote before 1.6."""
    pickler = _Pickler(legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [0x1950A86A20F9469CFC6C, 1001, system, value]
    parts = [pickler.dumps(one) for one in head]
    parts.append(pickler.dumps([str(key) for key in range(len(pickler.storages))]))
    for storage in pickler.storages:
        parts += [struct.pack("<q", storage.size), storage.tobytes()]
    return b"".join(parts)
