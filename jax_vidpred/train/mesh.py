"""Devices: one named mesh, arrays born on it, batches split over it."""

import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"  # the mesh axis that examples are split over


def split_cpu(cores: int, *batch_sizes: int) -> None:
    """Lets JAX show a CPU as several devices, so that a batch is split over its cores.

    One device spreads single operations over the cores, which leaves half of the time
    of two cores unused where images are small. There will be as many devices as `cores`
    allow and every one of `batch_sizes` can be dealt to evenly. Accelerators are left
    as they are, and so is the user's own choice, JAX_NUM_CPU_DEVICES or XLA_FLAGS.

    Call it before JAX makes its devices; later it does nothing.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if "host_platform_device_count" in given or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    common = math.gcd(*batch_sizes)
    devices = max(n for n in range(1, cores + 1) if common % n == 0)
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:
        return
    # Devices that wait for each other for 40 s, as after a pause of the whole process,
    # would otherwise end it.
    hour = "_timeout_seconds=3600"
    os.environ["XLA_FLAGS"] = (
        f"{given} --xla_cpu_collective_call_warn_stuck{hour}"
        f" --xla_cpu_collective_call_terminate{hour}"
    ).strip()


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
