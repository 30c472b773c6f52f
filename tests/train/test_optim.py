"""The optimiser against hand-computed updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.train import optim


def first_update(params, gradients, **changes):
    arguments = {
        "learning_rate": 0.1,
        "num_steps": 100,
        "schedule": "constant",
    } | changes
    optimizer = optim.make_optimizer(**arguments)
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    return updates, state


def test_schedule_by_hand():
    rate = optim.make_schedule(
        learning_rate=1.0, warmup_steps=4, num_steps=12, schedule="cosine"
    )
    expected = [0.2, 0.4, 0.6, 0.8, 1.0]  # never 0: the first update moves
    np.testing.assert_allclose([rate(k) for k in range(5)], expected, rtol=1e-6)
    np.testing.assert_allclose(rate(8), 0.5, rtol=1e-6)
    np.testing.assert_allclose(rate(12), 0.0, atol=1e-7)
    flat = optim.make_schedule(
        learning_rate=3.0, warmup_steps=0, num_steps=9, schedule="constant"
    )
    assert flat(0) == flat(8) == 3.0


def test_polynomial_schedule_is_the_square_root_of_what_is_left():
    rate = optim.make_schedule(
        learning_rate=2.0, warmup_steps=4, num_steps=104, schedule="polynomial"
    )
    steps = np.array([4, 29, 79, 103, 104])
    expected = 2.0 * np.sqrt((104 - steps) / 100)
    np.testing.assert_allclose([rate(k) for k in steps], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(rate(1), 0.8, rtol=1e-6)


def test_first_adam_update_has_the_size_of_the_learning_rate():
    # Adam's first update is -rate * g / (|g| + eps), whatever the size of g.
    gradients = {"a": jnp.array([1e-2, -3e-3])}
    updates, state = first_update({"a": jnp.zeros(2)}, gradients)
    np.testing.assert_allclose(updates["a"], [-0.1, 0.1], rtol=1e-4)
    np.testing.assert_allclose(optim.find_learning_rate(state), 0.1, rtol=1e-6)


def test_a_shock_after_calm_moves_no_parameter_further_than_the_learning_rate():
    def moved(b2):
        optimizer = optim.make_optimizer(
            learning_rate=0.1, num_steps=400, schedule="constant", b2=b2, clip_norm=1e9
        )
        params = {"w": jnp.ones(1)}
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for _ in range(300):
            _, state = update({"w": jnp.full(1, 1e-6)}, state, params)
        updates, _ = update({"w": jnp.full(1, 1e3)}, state, params)
        return float(jnp.abs(updates["w"][0]))

    assert moved(0.99) <= 0.1
    assert moved(0.999) > 0.15


def test_scales_by_subtree_and_zero_freezes():
    params = {name: {"kernel": jnp.ones((2, 2))} for name in ("vae", "flow", "fixed")}
    gradients = jax.tree.map(lambda p: 1e-2 * p, params)
    updates, _ = first_update(
        params, gradients, scales={"vae": 0.25, "fixed": 0.0}, weight_decay=0.1
    )
    full = -0.1 * (1.0 + 0.1)  # Adam's step and the decay of weights of 1
    np.testing.assert_allclose(updates["flow"]["kernel"], full, rtol=1e-4)
    np.testing.assert_allclose(updates["vae"]["kernel"], 0.25 * full, rtol=1e-4)
    np.testing.assert_array_equal(updates["fixed"]["kernel"], 0.0)


def test_frozen_subtree_does_not_count_in_the_clipped_norm():
    params = {"tuned": jnp.zeros(2), "fixed": jnp.zeros(2)}
    small = {"tuned": jnp.array([3e-9, 4e-9]), "fixed": jnp.full(2, 1e6)}
    # Near Adam's eps of 1e-8 the size of the update tells what the clipping left.
    updates, _ = first_update(params, small, scales={"fixed": 0.0})
    expected = -0.1 * np.array([3 / 13, 4 / 14])
    np.testing.assert_allclose(updates["tuned"], expected, rtol=1e-4)
    clipped, _ = first_update(params, small)
    assert np.abs(clipped["tuned"]).max() < 1e-5
    nothing, _ = first_update(
        params, small | {"fixed": jnp.full(2, jnp.nan)}, scales={"fixed": 0.0}
    )
    np.testing.assert_allclose(nothing["tuned"], expected, rtol=1e-4)


def test_weight_decay_spares_vectors():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    gradients = jax.tree.map(jnp.zeros_like, params)
    updates, _ = first_update(params, gradients, weight_decay=0.5)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


def test_mistakes_are_named():
    good = {"learning_rate": 0.1, "num_steps": 10}
    with pytest.raises(TypeError, match="learning_rat"):
        optim.make_optimizer(**good, learning_rat=0.1)
    with pytest.raises(ValueError, match="schedule='cosin'"):
        optim.make_optimizer(**good, schedule="cosin")
    with pytest.raises(ValueError, match="warmup_steps=10 must be"):
        optim.make_optimizer(**good, warmup_steps=10)
    optimizer = optim.make_optimizer(**good, scales={"vea": 0.1})
    with pytest.raises(ValueError, match=r"scales for \['vea'\].*\['vae'\]"):
        optimizer.init({"vae": jnp.zeros(2)})
