"""Training steps in bfloat16: what computes in it, and that it learns as in float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

VAE_MODEL = {"latent_channels": 2, "stride": 4, "features": 16, "num_blocks": 1}
MODEL = {"features": 8, "head_features": 6, "num_slots": 2, "reach": 1}


@pytest.fixture(params=["vae", "flow_warp"])
def make_system(request, tiny, make_flow_warp):
    """Builds a system whose model has these further options."""
    if request.param == "vae":
        return lambda **options: tiny.vae_system(model=VAE_MODEL | options)
    weights = {"latent": 1.0, "flow": 0.5, "collision": 0.1, "state": 0.05}
    return lambda **options: make_flow_warp(weights, model=MODEL | options)


def types(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


@pytest.mark.slow
def test_state_and_what_is_logged_are_those_of_float32(make_system, tiny):
    system, batch = make_system(dtype="bfloat16", remat=True), tiny.batch()
    key = jax.random.key(0)
    state = jax.eval_shape(system.init, key, batch)
    # The checkpoint of one is the checkpoint of the other: optimiser, frozen, all.
    assert jax.tree.leaves(state) == jax.tree.leaves(
        jax.eval_shape(make_system().init, key, batch)
    )
    program, (after, scalars) = jax.make_jaxpr(system.train_step, return_shape=True)(
        state, batch, key
    )
    assert types(after) == types(state) and jnp.bfloat16 not in types(state)
    assert types(scalars) == {jnp.dtype("float32")}
    narrow = re.findall(r":bf16\[[\d,]*\] = (\w+)", str(program))
    assert narrow.count("conv_general_dilated") > 10
    # Losses, statistics of the latents, norms of gradients: sums over many.
    assert not [n for n in narrow if n.startswith(("reduce", "dot", "div", "exp"))]
    assert "f64[" not in str(program)


@pytest.mark.slow
def test_learns_as_in_float32(make_system, tiny):
    batch, losses = tiny.batch(), {}
    for dtype in ("float32", "bfloat16"):
        system = make_system(dtype=dtype)
        key = jax.random.key(0, impl="rbg")
        state = jax.jit(system.init)(key, batch)
        step = jax.jit(system.train_step)
        losses[dtype] = []
        for _ in range(20):
            # The same noise in every step: the loss can be compared with the first.
            state, scalars = step(state, batch, jax.random.key(1))
            losses[dtype].append(float(scalars["loss"]))
        assert types(state.params) == {jnp.dtype("float32")}
    assert losses["float32"][-1] < 0.9 * losses["float32"][0]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
