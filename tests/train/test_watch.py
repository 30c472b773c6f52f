"""Memory, utilisation, the profile of a window, sample videos, the start line."""

import os
import pathlib
import socket
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.train import flop, mesh, periodic, protocol, state, watch

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def layout():
    return mesh.make_layout()


@pytest.fixture
def clock():
    return periodic.Clock()


def fake_mesh(kind, count=8, processes=2):
    """A mesh of devices that are not there, as far as it is read here."""
    devices = [
        types.SimpleNamespace(device_kind=kind, process_index=k * processes // count)
        for k in range(count)
    ]
    return types.SimpleNamespace(
        devices=np.array(devices), size=count, shape={"data": count // 2, "fsdp": 2}
    )


def test_utilisation_is_the_share_of_the_peak_of_all_devices():
    peaks = {"H200": 500.0, "NVIDIA H200": 1000.0, "TPU v4": 275.0}
    share = watch.Utilisation(2e15, peaks, fake_mesh("NVIDIA H200 NVL"))
    # 3 steps/s x 2 PFLOP of 8 x 1 PFLOP/s; the longest name that fits counts.
    assert share(3.0) == {"model_flop_utilisation": pytest.approx(0.75)}
    assert share.note == "2e+06 GFLOP a step, peak 1000 TFLOP/s a device"


def test_no_utilisation_without_a_peak():
    share = watch.Utilisation(2e9, {"NVIDIA H200": 989.0}, fake_mesh("cpu"))
    assert share(3.0) == {}
    assert share.note == "2 GFLOP a step, no peak_tflops given for 'cpu'"
    assert watch.Utilisation(0.0, {"cpu": 1.0}, fake_mesh("cpu"))(3.0) == {}
    with pytest.raises(ValueError, match=r"peak_tflops\['cpu'\] is 0.0: wanted"):
        watch.Utilisation(2e9, {"cpu": 0.0}, fake_mesh("cpu"))


def test_flop_of_a_traced_step_is_that_of_the_call():
    def turns(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=9)[0]

    matrix = jnp.ones((4, 4))
    traced = jax.jit(turns).trace(matrix)
    assert flop.flop_of_program(traced.jaxpr) == 9 * 2 * 4**3
    assert flop.count_flop(turns, matrix) == 9 * 2 * 4**3
    # Why the compiler is not asked: it has seen the body once.
    analysis = traced.lower().compile().cost_analysis()
    assert analysis["flops"] < 2 * 2 * 4**3


def test_memory_of_devices_is_that_of_the_fullest(monkeypatch):
    def device(now, peak):
        stats = {"bytes_in_use": now, "peak_bytes_in_use": peak, "bytes_limit": 9}
        return types.SimpleNamespace(memory_stats=lambda: stats)

    monkeypatch.setattr(jax, "local_devices", lambda: [device(5, 6), device(4, 8)])
    assert watch.memory_in_use() == {
        "device_bytes_in_use": 5.0,
        "device_bytes_peak": 8.0,
    }


def test_a_cpu_tells_the_memory_of_the_process(monkeypatch, tmp_path):
    device = types.SimpleNamespace(memory_stats=lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    now, peak = watch.memory_in_use().values()
    assert 5e7 < now <= peak < 1e12
    status = tmp_path / "status"
    monkeypatch.setattr(watch, "_PROCESS_STATUS", status)
    assert watch.memory_in_use() == {}  # another system
    status.write_text("Name:\tpython\nVmHWM:\t    2000 kB\nVmRSS:\t    1936 kB\n")
    assert watch.memory_in_use() == {
        "process_bytes_in_use": 1936.0 * 1024,
        "process_bytes_peak": 2000.0 * 1024,
    }


class Recorder:
    """Stands in for `jax.profiler`: what was asked of it, and when."""

    ProfileOptions = types.SimpleNamespace

    def __init__(self):
        self.events, self.step = [], None

    def start_trace(self, folder, profiler_options):
        self.events.append(("start", self.step, profiler_options.session_id))

    def stop_trace(self):
        self.events.append(("stop", self.step))

    def block_until_ready(self):
        self.events.append(("wait", self.step))


def run(window, recorder, steps):
    for recorder.step in steps:
        window.before_step(recorder.step, {"state": recorder})
    window.close()
    window.close()  # once more does no harm
    return recorder.events


WAIT = [("wait", step) for step in range(9)]
START = [("start", step, f"step_{step}") for step in range(9)]
STOP = [("stop", step) for step in range(9)]


@pytest.mark.parametrize(
    "start, length, steps, expected",
    [
        (3, 2, range(9), [WAIT[3], START[3], WAIT[5], STOP[5]]),
        (0, 1, range(9), [WAIT[0], START[0], WAIT[1], STOP[1]]),
        (7, 5, range(9), [WAIT[7], START[7], STOP[8]]),  # the run ends before
        (3, 2, range(4, 9), []),  # resumed inside
        (3, 2, range(6, 9), []),  # resumed behind
        (3, 0, range(9), []),
    ],
)
def test_window(monkeypatch, tmp_path, clock, start, length, steps, expected):
    recorder = Recorder()
    monkeypatch.setattr(jax, "profiler", recorder)
    window = watch.ProfileWindow(tmp_path, clock, start=start, steps=length)
    assert run(window, recorder, steps) == expected


def test_only_process_0_records(monkeypatch, tmp_path, clock):
    recorder = Recorder()
    monkeypatch.setattr(jax, "profiler", recorder)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    window = watch.ProfileWindow(tmp_path, clock, start=3, steps=2)
    assert run(window, recorder, range(9)) == []


def test_window_complains():
    with pytest.raises(ValueError, match=r"profile=dict\(start=-1, steps=2\): wanted"):
        watch.ProfileWindow("", None, start=-1, steps=2)


def test_a_real_record_holds_the_steps_of_the_window(tmp_path, clock):
    double = jax.jit(lambda x: 2.0 * x)
    window = watch.ProfileWindow(tmp_path, clock, start=2, steps=3)
    x = jnp.ones(())
    for step in range(7):
        window.before_step(step, x)
        with jax.profiler.StepTraceAnnotation("marked", step_num=step):
            x = double(x)
    (path,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert path.parent.name == "step_2"
    data = jax.profiler.ProfileData.from_file(str(path))
    steps = [
        dict(event.stats)["step_num"]
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "marked"
    ]
    assert sorted(int(step) for step in steps) == [2, 3, 4]


class Shows:
    """A system as far as it is asked for samples."""

    def samples(self, now, batch, rng):
        video = batch[schema.VIDEO] / 255.0
        noise = jax.random.uniform(rng, ())
        assert video.shape[0] == 2  # no more is computed than is shown
        return {"brighter": now.params["gain"] * video, "noise": 0 * video + noise}


def make_state(**changes):
    params = {"gain": jnp.float32(2.0), "more": {"kernel": jnp.ones((100, 30))}}
    fields = {"params": params, "opt_state": (), "ema": None, "extra": {}, "frozen": {}}
    return state.TrainState(step=jnp.int32(3), **fields | changes)


def test_sample_videos_are_those_of_the_first_clips(layout):
    video = np.arange(4 * 2 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 2, 3) * 2
    videos = watch.sample_videos(
        Shows(),
        make_state(),
        {schema.VIDEO: video},
        jax.random.key(0),
        layout=layout,
        count=2,
    )
    assert set(videos) == {"brighter", "noise"}
    assert videos["brighter"].dtype == np.uint8
    expected = np.minimum(2 * video[:2].astype(int), 255)
    np.testing.assert_array_equal(videos["brighter"], expected)


class Silent(protocol.System):
    """Leaves the contract as it is."""


def test_systems_need_not_show_anything(layout):
    batch = {schema.VIDEO: np.zeros((2, 1, 4, 4, 3), np.uint8)}
    key = jax.random.key(0)
    assert not watch.sample_videos(
        Silent(), make_state(), batch, key, layout=layout, count=2
    )


# What every process of a run does, on two devices of its own.
PROCESS = """
import sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
port, index, folder = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
from jax_vidpred.data import schema
from jax_vidpred.train import mesh, periodic, protocol, state, watch, writers

class Shows(protocol.System):
    def samples(self, now, batch, rng):
        return {"clip": now.params["gain"] * batch[schema.VIDEO]}

layout = mesh.make_layout(fsdp=2)
params = {"gain": np.float32(0.02)}
now = layout.born(lambda: state.TrainState(step=0, params=params, opt_state=()))
# Clips 0 and 1 are read by process 0, clips 2 and 3 by process 1.
video = np.full((2, 1, 4, 4, 3), 2 * int(index)) + np.arange(2).reshape(2, 1, 1, 1, 1)
batch = {schema.VIDEO: np.uint8(10 * video)}
key = jax.random.key(0)
videos = watch.sample_videos(Shows(), now, batch, key, layout=layout, count=3)
writer = writers.make_writer(folder)
writer.write_videos(5, videos)
writer.close()
display = periodic.ProgressDisplay("net", 9, 0)
display.say(watch.start_line(now, 4, layout.mesh))
sys.stderr.write(f"{videos['clip'][:, 0, 0, 0, 0].tolist()}")
"""


@pytest.mark.slow  # 6 s: two processes start JAX
def test_two_processes_show_the_same_and_one_speaks(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = [tmp_path / name for name in ("zero", "one")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(port), str(index), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for index, folder in enumerate(folders)
    ]
    try:
        (line, shown), (nothing, same) = [
            process.communicate(timeout=90) for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    assert shown.endswith("[0, 51, 102]") and same.endswith("[0, 51, 102]"), same
    assert folders[0].exists() and not folders[1].exists()
    assert "net:" not in nothing  # Gloo, which joins the processes, has its say there
    assert line.splitlines()[-1] == (
        "net: 1 parameters; batch 4 = 2 processes x 2 = 4 devices x 1 (cpu);"
        " mesh data=2 fsdp=2"
    )


def test_start_line():
    line = watch.start_line(
        make_state(), 32, fake_mesh("NVIDIA H200"), "accumulate 2", "bfloat16"
    )
    assert line == (
        "3,001 parameters; batch 32 = 2 processes x 16 = 8 devices x 4 (NVIDIA H200);"
        " mesh data=4 fsdp=2; accumulate 2; bfloat16"
    )
    now = make_state(frozen={"vae": jnp.ones((1000, 5))})
    line = watch.start_line(now, 3, fake_mesh("cpu", 1, 1))
    assert line.startswith(
        "3,001 parameters and 5,000 frozen; batch 3 = 1 process x 3 = 1 device x 3"
    )
