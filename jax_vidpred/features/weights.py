"""Weight files of frozen networks: reading, recognising, and turning them into trees.

A file as its authors publish it (torch or safetensors) and a file that
`jax_vidpred.convert_weights` wrote load alike. Nothing here falls back to random
weights: what is absent raises, naming the file and where it is published.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jax_vidpred.features.torch_files import Record, TorchFileError, read_torch_file

Tensors = Mapping[str, np.ndarray]  # dotted torch names -> arrays in torch's layout
Shape = tuple[int | None, ...]  # None: any size

FOLDER_VARIABLE = "JAX_VIDPRED_WEIGHTS"  # names the folder where weight files lie
NETWORK_KEY = "network"  # in the header of a converted file
# In the order of preference where a checkpoint holds several networks.
_USUAL_SECTIONS = ("state_dict", "model", "model_state_dict", "teacher")


class WeightsError(ValueError):
    """A weight file that cannot be used; the message says why and how to mend it."""


class MissingWeights(WeightsError):
    """A weight file that is not there; the message names it and who publishes it.

    Attributes:
      file: that is wanted, and where it is from.
    """

    def __init__(self, message: str, file: str):
        super().__init__(message)
        self.file = file


@dataclasses.dataclass(frozen=True)
class Published:
    """A file that the authors of a network publish.

    Attributes:
      file: its name.
      sha256: whole or a prefix; "" where it is not known here.
      where: who publishes it.
      licence: SPDX name.
    """

    file: str
    sha256: str
    where: str
    licence: str


@dataclasses.dataclass(frozen=True)
class Network:
    """A network whose weights can be imported.

    Attributes:
      name: of the network in this package.
      title: for people, with the paper.
      published: files of its weights; empty where everybody trains their own.
      marks: a file is of this network if all names of one of the marks are in it, with
        those shapes.
      to_params: makes the parameter tree of the Linen module; raises WeightsError.
    """

    name: str
    title: str
    published: tuple[Published, ...]
    marks: tuple[Mapping[str, Shape], ...]
    to_params: Callable[[Tensors], dict[str, Any]]


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of one network, by their dotted names.

    Dictionaries around them (`{"model": ...}`) and what wrappers put before the names
    (`module.`, `_orig_mod.`) are taken off; half and double precision become float32.

    Raises:
      WeightsError: the file is absent, damaged, unsafe, or holds several networks.
    """
    return one_network(path, read_sections(path))


def one_network(
    path: str | os.PathLike, sections: Mapping[str, dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The network that `read_tensors` takes of what `read_sections` gives.

    Raises:
      WeightsError: it holds several networks.
    """
    if len(sections) == 1:
        return next(iter(sections.values()))
    for name in _USUAL_SECTIONS:
        if name in sections:
            return sections[name]
    raise WeightsError(
        f"{path}: holds several networks ({', '.join(sections)}); wanted a file of one"
    )


def read_sections(path: str | os.PathLike) -> dict[str, dict[str, np.ndarray]]:
    """The networks of a checkpoint by their keys; "" where the file is one network.

    Raises:
      WeightsError: the file is absent, damaged, unsafe, or holds no tensors.
    """
    path = _existing(path)
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:9] == b"{"
        saved = _load_safetensors(path) if is_safetensors else read_torch_file(path)
    except (TorchFileError, safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: {error}; get the file again, or another one"
        ) from error
    sections = _sections(saved)
    if not sections:
        raise WeightsError(
            f"{path}: no tensors in it; wanted the state_dict() of a network"
        )
    return {key: _cleaned(tensors) for key, tensors in sections.items()}


def to_tree(
    tensors: Tensors, rename: Callable[[str], str | None], like: Mapping[str, Any]
) -> dict[str, Any]:
    """Arrays in the layout and under the names of a Linen module.

    Kernels go from torch's order (out, in, space...) to (space..., in, out).

    Args:
      tensors: in torch's layout.
      rename: torch name to path in the tree ("block/Conv_0/kernel"), None for what is
        left out on purpose.
      like: the tree as `jax.eval_shape(module.init, ...)["params"]` gives it.

    Raises:
      WeightsError: a name or a shape is not that of the module.
    """
    wanted = flatten(like)
    found = {}
    for name, array in tensors.items():
        path = rename(name)
        if path is None:
            continue
        if path not in wanted:
            raise WeightsError(f"{name} is not part of this network (it has no {path})")
        if path in found:
            raise WeightsError(f"{name} is there twice under different names")
        if path.endswith("/kernel") and array.ndim > 1:
            array = np.transpose(array, (*range(2, array.ndim), 1, 0))
        shape = tuple(wanted[path].shape)
        if array.size != np.prod(shape) or array.squeeze().shape != _squeezed(shape):
            raise WeightsError(
                f"{name} has shape {tensors[name].shape}, which does not fit {path} of"
                f" shape {shape}: another size of this network"
            )
        found[path] = np.ascontiguousarray(array, np.float32).reshape(shape)
    missing = [path for path in wanted if path not in found]
    if missing:
        raise WeightsError(
            f"{len(missing)} of {len(wanted)} parameters are missing ({missing[0]} is"
            " the first): another network, or a part of one"
        )
    return unflatten(found)


def fold_batch_norm(
    tensors: Tensors, conv: str, norm: str, epsilon: float
) -> dict[str, np.ndarray]:
    """A convolution that does what convolution and frozen batch norm do in sequence.

    With s = gamma / sqrt(variance + epsilon): kernel * s, (bias - mean) * s + beta.

    Returns:
      `<conv>.weight` and `<conv>.bias`, in torch's layout.

    Raises:
      WeightsError: one of the tensors is missing.
    """
    try:
        kernel = tensors[f"{conv}.weight"].astype(np.float64)
        variance = tensors[f"{norm}.running_var"].astype(np.float64)
        mean, beta = tensors[f"{norm}.running_mean"], tensors[f"{norm}.bias"]
        gamma = tensors.get(f"{norm}.weight", np.ones_like(variance))
    except KeyError as error:
        raise WeightsError(f"{error.args[0]} is missing: another network") from error
    bias = tensors.get(f"{conv}.bias", np.zeros_like(mean))
    scale = gamma / np.sqrt(variance + epsilon)
    return {
        f"{conv}.weight": (kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))).astype(
            np.float32
        ),
        f"{conv}.bias": ((bias - mean) * scale + beta).astype(np.float32),
    }


def recognise(tensors: Tensors, networks: Iterable[Network]) -> Network | None:
    """The network that the tensors are of, by their names and shapes; None: none."""

    def has(mark):
        return all(
            name in tensors and _fits(tensors[name].shape, shape)
            for name, shape in mark.items()
        )

    return next((one for one in networks if any(map(has, one.marks))), None)


def load_params(network: Network, path: str | os.PathLike) -> dict[str, Any]:
    """Parameters of a network, from a published file or from a converted one.

    Raises:
      WeightsError: the file cannot be read, or is of another network.
    """
    path = pathlib.Path(path)
    header = read_header(path)
    if NETWORK_KEY in header:
        if header[NETWORK_KEY] != network.name:
            raise WeightsError(
                f"{path}: weights of {header[NETWORK_KEY]}; wanted {network.name}"
            )
        tensors, make = _load_safetensors(path), unflatten
    else:
        tensors, make = read_tensors(path), network.to_params
        if recognise(tensors, [network]) is None:
            raise WeightsError(
                f"{path}: not {network.title}; {_wanted_file(network)} is wanted"
            )
    try:
        return make(tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def to_safetensors(network: Network, params: Mapping[str, Any], **header: str) -> bytes:
    """A converted file: parameters by their paths in the tree, and what they are."""
    arrays = {path: np.asarray(array) for path, array in flatten(params).items()}
    return safetensors.numpy.save(arrays, {NETWORK_KEY: network.name, **header})


def find_file(
    network: Network, folder: str | os.PathLike | None = None
) -> pathlib.Path:
    """The weight file of a network: converted, or as it is published.

    Args:
      network: one that is published.
      folder: where to look, at any depth; by default what the environment variable
        JAX_VIDPRED_WEIGHTS names.

    Raises:
      MissingWeights: it is not there; names the file and where it is published.
    """
    folder = folder or os.environ.get(FOLDER_VARIABLE)
    names = [f"{network.name}.safetensors", *(one.file for one in network.published)]
    for name in names if folder else []:
        for path in sorted(pathlib.Path(folder).rglob(name)):
            return path
    looked = f"not in {folder}" if folder else f"{FOLDER_VARIABLE} is not set"
    wanted = _wanted_file(network)
    raise MissingWeights(
        f"no weights of {network.title}: {wanted} is wanted ({looked}); get it and let"
        f" {FOLDER_VARIABLE} name its folder",
        wanted,
    )


def read_header(path: str | os.PathLike) -> dict[str, str]:
    """The free text in the header of a safetensors file; empty for other files.

    Raises:
      WeightsError: there is no such file.
    """
    try:
        with safetensors.safe_open(_existing(path), "numpy") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError:
        return {}


def sha256(path: str | os.PathLike) -> str:
    """Checksum of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict whose keys are joined by slashes."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{before}{key}/")
        else:
            flat[before + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`.

    Raises:
      WeightsError: a name goes on where another one ends.
    """
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise WeightsError(f"{path} is there beside {parent}")
        if node.setdefault(leaf, value) is not value:
            raise WeightsError(f"{path} is there beside what goes on from it")
    return tree


def _existing(path: str | os.PathLike) -> pathlib.Path:
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such file; give a file of network weights")
    return pathlib.Path(path)


def _load_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (AttributeError, KeyError) as error:
        raise WeightsError(f"{path}: numbers that NumPy lacks ({error})") from error


def _sections(saved: Any) -> dict[str, dict[str, np.ndarray]]:
    if not isinstance(saved, dict):
        return {}
    if isinstance(saved, Record):  # a TorchScript module: attributes at any depth
        flat = flatten({k: v for k, v in saved.items() if isinstance(k, str)})
        arrays = {k: v for k, v in flat.items() if isinstance(v, np.ndarray)}
        dotted = {k.replace("/", "."): v for k, v in arrays.items()}
        return {"": dotted} if dotted else {}
    own = {k: v for k, v in saved.items() if isinstance(v, np.ndarray)}
    if own:
        return {"": own}
    sections = {}
    for key, value in saved.items():
        inner = _sections(value)
        if "" in inner and all(isinstance(name, str) for name in value):
            sections[str(key)] = inner[""]
    return sections


def _cleaned(tensors: Tensors) -> dict[str, np.ndarray]:
    """Names without wrappers; floating-point numbers as float32."""
    names = {
        name: ".".join(part for part in name.split(".") if part != "_orig_mod")
        for name in tensors
    }
    while all(name.startswith("module.") for name in names.values()):
        names = {old: new.removeprefix("module.") for old, new in names.items()}
    return {
        names[name]: array.astype(np.float32)
        if array.dtype.kind not in "iub"
        else array
        for name, array in tensors.items()
    }


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        want in (None, size) for size, want in zip(shape, wanted, strict=True)
    )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _wanted_file(network: Network) -> str:
    if not network.published:
        return f"a checkpoint of {network.title}"
    first = network.published[0]
    return f"{first.file} ({first.where})"
