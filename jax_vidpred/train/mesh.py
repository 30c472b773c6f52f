"""Devices: one named mesh, where each array lies on it, batches split over it."""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The axes of the mesh. Examples are split over both; parameters, and all that has their
# shape, over the second one alone (fully sharded data parallelism, Rajbhandari et al.
# 2020, ZeRO stage 3).
DATA, FSDP = "data", "fsdp"
# Smaller arrays cost more to collect than to keep.
MIN_SHARDED_SIZE = 2**12

Rules = Sequence[tuple[str, Sequence[str | None]]]


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


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays lie: a mesh, and rules for the arrays that are split over FSDP.

    Attributes:
      mesh: of the axes DATA and FSDP.
      rules: see `make_layout`.
    """

    mesh: Mesh
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    @property
    def replicated(self) -> NamedSharding:
        """Every device holds the whole array."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """The first axis is split over all devices."""
        return NamedSharding(self.mesh, PartitionSpec((DATA, FSDP)))

    def shardings(self, tree: Any) -> Any:
        """The sharding of every array of a tree (of arrays or their shapes).

        Raises:
          ValueError: a rule that names no axis of the mesh, or splits an axis whose
            length the mesh does not divide.
        """
        return jax.tree_util.tree_map_with_path(self._sharding, tree)

    def born(self, init: Callable[..., Any], *args: Any) -> Any:
        """Result of `init(*args)`, each array made where it will live."""
        shardings = self.shardings(jax.eval_shape(init, *args))
        return jax.jit(init, out_shardings=shardings)(*args)

    def gathered(self, tree: Any) -> Any:
        """The same under `jit`, whole on every device: to compute with.

        Without it XLA may choose to split the computation as the parameters are, along
        their channels, and to exchange activations.
        """
        if self.mesh.shape[FSDP] == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.replicated)

    def whole(self, state: Any) -> Any:
        """A `TrainState` under `jit` with what a prediction needs of it `gathered`."""
        names = ("params", "ema", "frozen")
        return state.replace(
            **{name: self.gathered(getattr(state, name)) for name in names}
        )

    def check_batch(self, what: str, size: int) -> None:
        """Complains, before anything is compiled, of a batch that cannot be dealt out.

        Args:
          what: the batch's name in the config.
          size: examples of all processes together.

        Raises:
          ValueError: the devices, or the processes, do not divide it.
        """
        if size % self.mesh.size:
            raise ValueError(
                f"{what}={size} cannot be dealt evenly to {self.mesh.size} devices"
                f" ({jax.process_count()} processes); choose a multiple of"
                f" {self.mesh.size}, or fewer devices (config.mesh.data)"
            )

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Global arrays from the part of a batch that this process read.

        The copy is asynchronous: it overlaps with the steps that are still running.

        Raises:
          ValueError: the examples cannot be dealt evenly to the devices.
        """
        if self.mesh.size == 1:
            return jax.device_put(dict(batch), self.split)
        local = self.mesh.local_mesh.size
        for name, array in batch.items():
            if array.shape[0] % local:
                raise ValueError(
                    f"batch[{name!r}] has {array.shape[0]} examples for {local}"
                    " devices; make the batch size a multiple of the number of devices"
                )
        return {
            name: jax.make_array_from_process_local_data(self.split, np.asarray(array))
            for name, array in batch.items()
        }

    def _sharding(self, path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = self._axes(name, leaf.shape)
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _axes(self, name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
        for pattern, axes in self.rules:
            if len(axes) == len(shape) and re.search(pattern, name):
                for length, axis in zip(shape, axes, strict=True):
                    if axis is not None and length % self.mesh.shape[axis]:
                        raise ValueError(
                            f"mesh.rules: {pattern!r} splits {name} of shape {shape}"
                            f" over {axis}={self.mesh.shape[axis]}, which does not"
                            f" divide {length}; choose another axis for it"
                        )
                return axes
        parts = self.mesh.shape[FSDP]
        divisible = [length for length in shape if length % parts == 0]
        if parts == 1 or math.prod(shape) < MIN_SHARDED_SIZE or not divisible:
            return ()
        largest = shape.index(max(divisible))
        return (*[None] * largest, FSDP)


def make_layout(*, data: int = -1, fsdp: int = 1, rules: Rules = ()) -> Layout:
    """A mesh of data x fsdp devices and the rules by which parameters are split on it.

    Args:
      data: groups of devices, of all processes together, each of which holds a whole
        copy of the parameters; -1 makes as many as there are devices for.
      fsdp: devices of a group; each holds its part of every parameter, of its average
        and of the optimiser's state. 1 keeps everything whole on every device.
      rules: (regular expression, name of a mesh axis or None for each axis of the
        array). The first whose expression is found in the path of an array and that
        names as many axes as the array has, decides. Paths are such as
        "params/temporal/cell/Conv_0/kernel" and, for the optimiser's mean of it,
        "opt_state/1/mu/temporal/cell/Conv_0/kernel": what they share means both.
        Without one the longest axis that `fsdp` divides is split, of arrays of at least
        MIN_SHARDED_SIZE numbers.

    Raises:
      ValueError: so many devices are not there; a rule that cannot be read.
    """
    # In this order each process has the rows of the batch that it read, everywhere.
    devices = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
    if data == -1:
        data = max(len(devices) // max(fsdp, 1), 1)
    if min(data, fsdp) < 1 or data * fsdp > len(devices):
        raise ValueError(
            f"mesh of data={data}, fsdp={fsdp} devices: there are {len(devices)}"
        )
    if jax.process_count() > 1 and data * fsdp != len(devices):
        raise ValueError(
            f"mesh of data={data}, fsdp={fsdp} leaves out some of {len(devices)}"
            " devices, and so perhaps a whole process; use all of them, data=-1"
        )
    known = []
    for pattern, axes in rules:
        unknown = [axis for axis in axes if axis not in (DATA, FSDP, None)]
        if unknown:
            raise ValueError(
                f"mesh.rules: {pattern!r} names {unknown}; wanted {DATA!r}, {FSDP!r} or"
                " None for each axis"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"mesh.rules: {pattern!r} is no regular expression ({error})"
            ) from error
        known.append((pattern, tuple(axes)))
    # Auto: XLA propagates shardings through the step, as under plain jit.
    mesh = Mesh(
        np.reshape(devices[: data * fsdp], (data, fsdp)),
        (DATA, FSDP),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )
    return Layout(mesh, tuple(known))


def enable_compilation_cache() -> None:
    """Keeps compiled programs: a second run starts without compiling.

    They are machine code, so they lie in a folder of the user's own
    ($XDG_CACHE_HOME/jax_vidpred), never in a work directory, which may come from
    somebody else. JAX_COMPILATION_CACHE_DIR, where it is set, names another.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(home).absolute() / "jax_vidpred"
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return  # no home, or one that cannot be written: compile each time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
