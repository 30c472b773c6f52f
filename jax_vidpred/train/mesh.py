"""Devices: one named mesh, arrays born on it, batches split over it."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"  # the mesh axis that examples are split over


def make_mesh(*, data: int = -1) -> Mesh:
    """A mesh of one axis, `data`.

    Args:
      data: number of devices, of all processes together; -1 takes all.

    Raises:
      ValueError: there are fewer devices.
    """
    devices = jax.devices()
    if data == -1:
        data = len(devices)
    if not 1 <= data <= len(devices):
        raise ValueError(f"mesh of data={data} devices: there are {len(devices)}")
    # Auto: XLA propagates shardings through the step, as under plain jit.
    return jax.make_mesh(
        (data,), (DATA,), axis_types=(AxisType.Auto,), devices=devices[:data]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def born_sharded(init: Callable[..., Any], mesh: Mesh, *args: Any) -> Any:
    """Result of `init(*args)`, each array made where it will live.

    Parameters are replicated; another rule has its place here and nowhere else.
    """
    shapes = jax.eval_shape(init, *args)
    shardings = jax.tree.map(lambda _: replicated(mesh), shapes)
    return jax.jit(init, out_shardings=shardings)(*args)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from the part of a batch that this process read.

    The copy is asynchronous: it overlaps with the steps that are still running.

    Raises:
      ValueError: the examples cannot be dealt evenly to the devices.
    """
    sharding = split(mesh)
    if mesh.size == 1:
        return jax.device_put(dict(batch), sharding)
    local = mesh.local_mesh.size
    for name, array in batch.items():
        if array.shape[0] % local:
            raise ValueError(
                f"batch[{name!r}] has {array.shape[0]} examples for {local} devices;"
                " make the batch size a multiple of the number of devices"
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
        for name, array in batch.items()
    }


def enable_compilation_cache(directory: str | pathlib.Path) -> None:
    """Keeps compiled programs in `directory`: a second run starts without compiling."""
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
