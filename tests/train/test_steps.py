"""One gradient step against the same step written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_vidpred.data import schema
from jax_vidpred.train import optim, rngs, state, steps

BATCH, KEY = {"video_id": jnp.zeros(2)}, jax.random.key(0)


def quadratic(params, batch, rng):
    del batch, rng
    return jnp.sum(params["x"] ** 2), {"first": params["x"][0]}


def make(ema):
    optimizer = optax.sgd(0.25)
    params = {"x": jnp.array([3.0, 4.0])}
    made = state.TrainState.create(params=params, optimizer=optimizer, ema=ema)
    return optimizer, made


def test_step_scalars_and_average_by_hand():
    optimizer, before = make(ema=True)
    after, scalars = steps.gradient_step(
        quadratic, optimizer, before, BATCH, KEY, ema_decay=0.99
    )
    # x - 0.25 * 2x = x / 2.
    np.testing.assert_allclose(after.params["x"], [1.5, 2.0])
    # The decay starts at (1 + 0) / (10 + 0).
    np.testing.assert_allclose(after.ema["x"], [0.3 + 1.35, 0.4 + 1.8], rtol=1e-6)
    expected = {
        "first": 3.0,
        "loss": 25.0,
        "gradient_norm": 10.0,
        "update_norm": 2.5,
        "parameter_norm": 2.5,
    }
    assert set(scalars) == set(expected)  # plain SGD remembers no learning rate
    for name, value in expected.items():
        np.testing.assert_allclose(scalars[name], value, rtol=1e-6, err_msg=name)
    assert int(after.step) == 1
    assert after.prediction_params is after.ema


def test_average_follows_its_decay_late():
    optimizer, before = make(ema=True)
    before = before.replace(step=jnp.int32(10_000), ema={"x": jnp.zeros(2)})
    after, _ = steps.gradient_step(
        quadratic, optimizer, before, BATCH, KEY, ema_decay=0.9
    )
    np.testing.assert_allclose(after.ema["x"], [0.15, 0.2], rtol=1e-5)


def test_average_must_be_asked_for_twice():
    for ema, decay in ((True, None), (False, 0.9)):
        optimizer, before = make(ema=ema)
        with pytest.raises(ValueError, match="ema_decay"):
            steps.gradient_step(
                quadratic, optimizer, before, BATCH, KEY, ema_decay=decay
            )


def test_learning_rate_is_reported_and_state_can_be_donated():
    optimizer = optim.make_optimizer(learning_rate=0.5, num_steps=4, warmup_steps=1)

    def init():
        params = {"x": jnp.array([3.0, 4.0])}
        return state.TrainState.create(params=params, optimizer=optimizer, ema=True)

    step = jax.jit(
        lambda s: steps.gradient_step(
            quadratic, optimizer, s, BATCH, KEY, ema_decay=0.9
        ),
        donate_argnums=0,
    )
    now, rates = init(), []  # not jitted: nothing else tells equal arrays apart
    for _ in range(2):
        now, scalars = step(now)
        rates.append(float(scalars["learning_rate"]))
    np.testing.assert_allclose(rates, [0.25, 0.5])


def mean_square(params, batch, rng):
    once = jax.random.normal(rng, ())
    keys = rngs.for_rows(rng, batch[schema.ROW])
    each = jnp.mean(jax.vmap(lambda key: jax.random.normal(key, ()))(keys))
    loss = jnp.mean((batch["x"] @ params["x"]) ** 2)
    return loss, {"mean": jnp.mean(batch["x"]), "once": once, "each": each}


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    optimizer, before = make(ema=False)
    batch = {"x": jax.random.normal(jax.random.key(1), (12, 2))}
    whole, scalars = steps.gradient_step(mean_square, optimizer, before, batch, KEY)
    for count in (2, 3, 12):
        parts, mean = steps.gradient_step(
            mean_square, optimizer, before, batch, KEY, accumulate=count
        )
        np.testing.assert_allclose(parts.params["x"], whole.params["x"], rtol=1e-6)
        for name in ("loss", "gradient_norm", "mean"):
            np.testing.assert_allclose(mean[name], scalars[name], rtol=1e-5)
        # What is drawn once is the same for all parts; what is drawn for an example
        # follows from its row.
        for name in ("once", "each"):
            np.testing.assert_allclose(mean[name], scalars[name], rtol=1e-5)
    with pytest.raises(ValueError, match="accumulate=5 does not divide a batch of 12"):
        steps.gradient_step(mean_square, optimizer, before, batch, KEY, accumulate=5)
