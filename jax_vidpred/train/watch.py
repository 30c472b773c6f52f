"""Watching a run: memory, utilisation, a profile of some steps, sample videos."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jax_vidpred.ops.image import to_uint8
from jax_vidpred.train.mesh import Layout
from jax_vidpred.train.periodic import Clock
from jax_vidpred.train.protocol import Batch, System
from jax_vidpred.train.state import TrainState

_PROCESS_STATUS = pathlib.Path("/proc/self/status")  # of Linux


class Utilisation:
    """What share of the devices' peak the arithmetic of the steps makes up.

    With `remat` what is computed twice counts twice, as for the hardware.

    Args:
      flop_per_step: of one step on all devices together, from `flop.flop_of_program`.
      peak_tflops: TFLOP/s of one device by a part of its kind, as in
        {"NVIDIA H200": 989.0}; of several that fit, the longest counts. Give the peak
        of the number format that the products are computed in, without sparsity.
      mesh: the devices that take part.

    Attributes:
      note: for the start line.

    Raises:
      ValueError: a peak that is not above 0.
    """

    def __init__(
        self, flop_per_step: float, peak_tflops: Mapping[str, float], mesh: Mesh
    ):
        for name, peak in peak_tflops.items():
            if not peak > 0:
                raise ValueError(
                    f"peak_tflops[{name!r}] is {peak}: wanted TFLOP/s of one device,"
                    " above 0; leave out what is not known"
                )
        kind = mesh.devices.flat[0].device_kind
        fitting = [name for name in peak_tflops if name in kind]
        self._available = 0.0  # steps per second at the peak
        self.note = f"{flop_per_step / 1e9:,.4g} GFLOP a step"
        if fitting and flop_per_step:
            peak = peak_tflops[max(fitting, key=len)]
            self._available = mesh.size * peak * 1e12 / flop_per_step
            self.note += f", peak {peak:g} TFLOP/s a device"
        elif not fitting:
            self.note += f", no peak_tflops given for {kind!r}"

    def __call__(self, steps_per_second: float) -> dict[str, float]:
        """`model_flop_utilisation` in [0, 1], or {} where no peak is known."""
        if not self._available:
            return {}
        return {"model_flop_utilisation": steps_per_second / self._available}


def memory_in_use() -> dict[str, float]:
    """Bytes in use now and at the worst moment so far, of this process.

    Returns:
      `device_bytes_in_use` and `device_bytes_peak`, of the fullest of its devices. A
      CPU keeps no account of its arrays: then `process_bytes_in_use` and
      `process_bytes_peak`, all that the process holds in memory; {} where the system
      does not tell.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return {
            "device_bytes_in_use": float(max(s["bytes_in_use"] for s in stats)),
            "device_bytes_peak": float(max(s["peak_bytes_in_use"] for s in stats)),
        }
    if not _PROCESS_STATUS.exists():
        return {}
    lines = dict(
        line.split(":", 1) for line in _PROCESS_STATUS.read_text().splitlines()
    )
    names = {"process_bytes_in_use": "VmRSS", "process_bytes_peak": "VmHWM"}
    return {
        name: float(lines[field].split()[0]) * 1024  # "  1936 kB"
        for name, field in names.items()
    }


class ProfileWindow:
    """Records the steps `start` .. `start + steps - 1` for TensorBoard's profiler.

    Only process 0 records: all run the same program, and several of one host would
    write the same file, `plugins/profile/step_<start>/<host>.xplane.pb`.

    Args:
      folder: of the event files.
      clock: pauses while the file is written.
      start: steps done before the first one recorded; a run that resumes later records
        nothing.
      steps: how many; 0 for none. A few will do: the file grows with each.

    Raises:
      ValueError: a negative number.
    """

    def __init__(
        self, folder: str | pathlib.Path, clock: Clock, *, start: int, steps: int
    ):
        if start < 0 or steps < 0:
            raise ValueError(
                f"profile=dict(start={start}, steps={steps}): wanted numbers from 0 on;"
                " steps=0 records nothing"
            )
        self._folder, self._clock = str(folder), clock
        here = jax.process_index() == 0
        self._first, self._end = (start, start + steps) if here and steps else (-1, -1)
        self._recording = False

    def before_step(self, step: int, state: TrainState) -> None:
        """Begins or ends recording where it is time; call it before every step.

        Args:
          step: steps done so far.
          state: after them; waited for at both ends, so that the record holds the steps
            of the window, all of them, and no others.
        """
        if step == self._first:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.session_id = f"step_{step}"
            with self._clock.paused():
                jax.profiler.start_trace(self._folder, profiler_options=options)
            self._recording = True
        elif self._recording and step == self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends recording, also when the run ends or stops inside the window."""
        if self._recording:
            self._recording = False
            with self._clock.paused():
                jax.profiler.stop_trace()


def sample_videos(
    system: System,
    state: TrainState,
    batch: Mapping[str, np.ndarray],
    rng: jax.Array,
    *,
    layout: Layout,
    count: int,
) -> dict[str, np.ndarray]:
    """What `system.samples` shows of the first clips of a batch.

    All processes must call it; the result is the same on all. Compiled once for each
    system and shape.

    Args:
      system: whose `samples` are wanted.
      state: after training so far.
      batch: this process's part, as for evaluation.
      rng: for systems that draw.
      layout: where the state lives.
      count: clips, at most.

    Returns:
      Videos uint8 [n, t, h, w, 3] by name, n = count or fewer; {} if the system has
      nothing to show.
    """
    show = _compiled(system.samples, count, layout)
    return jax.device_get(show(state, layout.put_batch(batch), rng))


# Keyed by the bound method: it is equal to itself as long as the system is the same.
@functools.lru_cache(maxsize=8)
def _compiled(samples: Callable[..., Any], count: int, layout: Layout) -> Callable:
    def show(state: TrainState, batch: Batch, rng: jax.Array):
        few = {key: array[:count] for key, array in batch.items()}
        videos = samples(layout.whole(state), few, rng)
        return {name: to_uint8(video) for name, video in videos.items()}

    # Whole on every device: a process can only fetch what its own devices hold.
    return jax.jit(show, out_shardings=layout.replicated)


def start_line(state: TrainState, batch_size: int, mesh: Mesh, *notes: str) -> str:
    """The size of a run in one line.

    Args:
      state: whose parameters are counted.
      batch_size: the global one.
      mesh: devices that it is split over.
      notes: what else there is to say.
    """
    devices = list(mesh.devices.flat)
    processes = len({device.process_index for device in devices})
    batch = f"batch {batch_size}" + "".join(
        f" = {_count(number, unit)} x {batch_size // number}"
        for number, unit in ((processes, "process"), (len(devices), "device"))
    )
    frozen = _size(state.frozen)
    axes = " ".join(f"{name}={size}" for name, size in mesh.shape.items())
    parts = [
        f"{_size(state.params):,} parameters"
        + (f" and {frozen:,} frozen" if frozen else ""),
        f"{batch} ({devices[0].device_kind})",
        f"mesh {axes}",
        *notes,
    ]
    return "; ".join(parts)


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _count(number: int, unit: str) -> str:
    ending = "" if number == 1 else "es" if unit.endswith("s") else "s"
    return f"{number} {unit}{ending}"
