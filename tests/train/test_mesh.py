"""The mesh; several devices are played by the CPU in a process of their own."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.train import mesh


def test_one_device_is_enough():
    one = mesh.make_layout(data=1)
    batch = one.put_batch({"video": np.arange(6, dtype=np.uint8).reshape(3, 2)})
    np.testing.assert_array_equal(batch["video"], [[0, 1], [2, 3], [4, 5]])
    born = one.born(lambda x: {"w": x + 1.0}, jnp.ones(3))
    assert born["w"].sharding == one.replicated
    np.testing.assert_array_equal(born["w"], 2.0)


def test_too_many_devices_are_refused():
    count = len(jax.devices())
    with pytest.raises(
        ValueError, match=f"data={count + 1}, fsdp=1 devices: there are {count}"
    ):
        mesh.make_layout(data=count + 1)


@pytest.mark.slow
def test_second_process_finds_compiled_programs(tmp_path):
    script = (
        "import sys, jax, jax.numpy as jnp\n"
        "from jax_vidpred.train import mesh\n"
        "mesh.enable_compilation_cache()\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda e, **_: hits.append(e))\n"
        "x = jnp.ones((1, 32, 32, 8))\n"
        "f = lambda x: jax.lax.conv(x, jnp.ones((9, 32, 3, 3)), (1, 1), 'SAME').sum()\n"
        "jax.jit(jax.grad(lambda x: sum(jnp.sin(k * f(x)) for k in range(40))))(x)\n"
        "print(sum('cache_hits' in hit for hit in hits))\n"
    )
    usual = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    mine = usual | {"XDG_CACHE_HOME": str(tmp_path)}
    for least, most in ((0, 0), (1, 99)):
        hits = subprocess.check_output(
            [sys.executable, "-c", script], text=True, env=mine
        )
        assert least <= int(hits) <= most
    # Programs are machine code: nobody else may put any there.
    assert (tmp_path / "jax_vidpred").stat().st_mode & 0o077 == 0


def devices_of_split_cpu(cores, *batch_sizes, **environment):
    script = (
        "import jax\n"
        "from jax_vidpred.train import mesh\n"
        f"mesh.split_cpu{(cores, *batch_sizes)}\n"
        "print(jax.device_count('cpu'))\n"
    )
    others = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return int(
        subprocess.check_output(
            [sys.executable, "-c", script], text=True, env=others | environment
        )
    )


@pytest.mark.slow
def test_cpu_becomes_as_many_devices_as_batches_can_be_dealt_to():
    assert devices_of_split_cpu(3, 8, 4) == 2
    assert devices_of_split_cpu(3, 6, 9) == 3
    assert devices_of_split_cpu(1, 8) == 1
    assert devices_of_split_cpu(4, 8, JAX_NUM_CPU_DEVICES="1") == 1
    flags = "--xla_force_host_platform_device_count=3"
    assert devices_of_split_cpu(4, 8, XLA_FLAGS=flags) == 3


SCRIPT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
import conftest
from jax_vidpred.train import mesh
assert len(jax.devices()) == 2
two = mesh.make_layout()
batch = two.put_batch({"video": np.arange(8).reshape(4, 2)})["video"]
assert [s.data.shape for s in batch.addressable_shards] == [(2, 2), (2, 2)]
try:
    two.put_batch({"video": np.zeros((3, 2))})
except ValueError as error:
    assert "3 examples for 2 devices" in str(error), error
else:
    raise AssertionError("3 examples were dealt to 2 devices")
# More steps than may be under way unfinished on such devices (about 32).
state = conftest.toy_train(sys.argv[2], num_steps=120, log_every=60, eval_every=60)
kernel = state.params["linear"]["kernel"]
assert len(kernel.sharding.device_set) == 2
np.save(sys.argv[3], kernel)
"""


@pytest.mark.slow
def test_two_devices_train_like_one(tmp_path, toy):
    here = str(pathlib.Path(__file__).parent)
    file = tmp_path / "kernel.npy"
    flags = "--xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, here, str(tmp_path / "two"), str(file)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=120,
    )
    one = toy.train(tmp_path / "one", num_steps=120, log_every=60, eval_every=60)
    np.testing.assert_allclose(
        np.load(file), one.params["linear"]["kernel"], rtol=1e-4, atol=1e-5
    )
    # A checkpoint of two devices goes on with one.
    params = toy.train(tmp_path / "two", num_steps=121).params
    assert np.all(np.isfinite(params["linear"]["kernel"]))


PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
rank = int(sys.argv[2])
jax.distributed.initialize("127.0.0.1:" + sys.argv[3], 2, rank)
import time
import conftest
from jax_vidpred.train import loop
step = loop.TrainingSteps.__call__
def slow(self, *args):
    time.sleep(0.05)
    if rank == 1:
        print("step", flush=True)
    return step(self, *args)
loop.TrainingSteps.__call__ = slow
state = conftest.toy_train(sys.argv[4], num_steps=60, log_every=20, eval_every=20)
print(int(state.step), *state.params["linear"]["kernel"].addressable_data(0).ravel())
"""


def start_two_processes(workdir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = str(pathlib.Path(__file__).parent)
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, here, str(rank), port, str(workdir)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for rank in (0, 1)
    ]


@pytest.mark.slow
def test_two_processes_agree_when_to_stop_and_go_on(tmp_path):
    processes = start_two_processes(tmp_path)
    try:
        steps = 0
        for line in processes[1].stdout:
            steps += line == "step\n"
            if steps == 12:
                processes[1].send_signal(signal.SIGTERM)  # only one is told
                break
        outputs = [process.communicate(timeout=60)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert "saved; the same line goes on" in outputs[0]
        processes = start_two_processes(tmp_path)
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert "goes on after step" in outputs[0]
    last = [output.splitlines()[-1] for output in outputs]
    assert last[0] == last[1] and last[0].startswith("60 ")
