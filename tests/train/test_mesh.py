"""The mesh; several devices are played by the CPU in a process of their own."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.train import mesh


def test_one_device_is_enough():
    one = mesh.make_mesh(data=1)
    batch = mesh.put_batch({"video": np.arange(6, dtype=np.uint8).reshape(3, 2)}, one)
    np.testing.assert_array_equal(batch["video"], [[0, 1], [2, 3], [4, 5]])
    born = mesh.born_sharded(lambda x: {"w": x + 1.0}, one, jnp.ones(3))
    assert born["w"].sharding == mesh.replicated(one)
    np.testing.assert_array_equal(born["w"], 2.0)


def test_too_many_devices_are_refused():
    count = len(jax.devices())
    with pytest.raises(
        ValueError, match=f"data={count + 1} devices: there are {count}"
    ):
        mesh.make_mesh(data=count + 1)


def test_second_process_finds_compiled_programs(tmp_path):
    script = (
        "import sys, jax, jax.numpy as jnp\n"
        "from jax_vidpred.train import mesh\n"
        "mesh.enable_compilation_cache(sys.argv[1])\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda e, **_: hits.append(e))\n"
        "x = jnp.ones((1, 32, 32, 8))\n"
        "f = lambda x: jax.lax.conv(x, jnp.ones((9, 32, 3, 3)), (1, 1), 'SAME').sum()\n"
        "jax.jit(jax.grad(lambda x: sum(jnp.sin(k * f(x)) for k in range(40))))(x)\n"
        "print(sum('cache_hits' in hit for hit in hits))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert int(subprocess.check_output(command, text=True)) == 0
    assert int(subprocess.check_output(command, text=True)) >= 1


SCRIPT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
import conftest
from jax_vidpred.train import mesh
assert len(jax.devices()) == 2
two = mesh.make_mesh()
batch = mesh.put_batch({"video": np.arange(8).reshape(4, 2)}, two)["video"]
assert [s.data.shape for s in batch.addressable_shards] == [(2, 2), (2, 2)]
try:
    mesh.put_batch({"video": np.zeros((3, 2))}, two)
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
