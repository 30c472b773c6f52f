"""Teacher forcing: the reaction to evaluations by hand, what is remembered, coins."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_vidpred.systems.teacher_forcing import TeacherForcing, draw_coins
from jax_vidpred.train.checkpoint import Checkpoints
from jax_vidpred.train.state import TrainState

SEED_RULE = {"kind": "adaptive", "start": 0.5, "hold": 5, "compare": "previous"}


def new_state(forcing, step=0):
    state = TrainState.create(
        params={"w": jnp.zeros(2)}, optimizer=optax.adam(1), extra=forcing.initial()
    )
    return state.replace(step=jnp.int32(step))


def reactions(forcing, state, scores):
    ratios = []
    for score in scores:
        state = forcing.after_evaluation(state, {"psnr": score})
        ratios.append(float(forcing.ratio(state)))
    return state, ratios


def test_it_holds_for_five_evaluations_then_follows_the_one_before():
    forcing = TeacherForcing(**SEED_RULE)
    scores = [20, 25, 24, 23, 22, 22.5, 21, 21.5, 30, 31, 32, 33]
    _, ratios = reactions(forcing, new_state(forcing), scores)
    expected = [0.5] * 5 + [0.4, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    np.testing.assert_allclose(ratios, expected, atol=1e-6)


def test_against_the_best_a_recovery_is_no_progress():
    forcing = TeacherForcing(kind="adaptive", start=0.5, compare="best")
    _, ratios = reactions(forcing, new_state(forcing), [20, 25, 24, 24.5, 26])
    np.testing.assert_allclose(ratios, [0.4, 0.3, 0.4, 0.5, 0.4], atol=1e-6)


def test_a_run_that_stopped_goes_on_as_if_it_had_not(tmp_path):
    forcing = TeacherForcing(**SEED_RULE)
    scores = [20, 25, 24, 26, 22, 22.5, 21, 21.5]
    _, expected = reactions(forcing, new_state(forcing), scores)
    for stop in (3, 7):
        state, _ = reactions(forcing, new_state(forcing, 1), scores[:stop])
        checkpoints = Checkpoints(tmp_path / str(stop), keep=1)
        checkpoints.save(1, state, config={})
        checkpoints.wait()
        restored = checkpoints.restore_latest(new_state(forcing))
        checkpoints.close()
        _, ratios = reactions(forcing, restored, scores[stop:])
        np.testing.assert_allclose(ratios, expected[stop:], atol=1e-6)


def test_a_schedule_follows_the_step_and_remembers_nothing():
    forcing = TeacherForcing(kind="exponential", num_steps=100, final=0.25)
    assert forcing.initial() == {}
    state = new_state(forcing, 50)
    assert float(forcing.ratio(state)) == pytest.approx(0.5)
    assert forcing.after_evaluation(state, {"psnr": 1.0}) is state


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"kind": "never", "num_steps": 1}, ValueError, "'never' is unknown; use alw"),
        (
            {"kind": "adaptive", "compare": "last"},
            ValueError,
            "'last' is unknown; use b",
        ),
        ({"kind": "adaptive", "num_steps": 1}, TypeError, "num_steps"),
        ({"kind": "linear"}, TypeError, "num_steps"),
    ],
)
def test_bad_options_are_told_before_training(options, error, message):
    with pytest.raises(error, match=message):
        TeacherForcing(**options)


def test_coins_fall_by_the_ratio_and_each_example_throws_its_own():
    draw = jax.jit(draw_coins, static_argnums=2)
    rng, rows = jax.random.key(0), jnp.arange(200)
    coins = np.asarray(draw(rng, rows, 30, jnp.float32(0.3)))
    assert coins.mean() == pytest.approx(0.3, abs=0.02)  # 6000 coins: error 0.006
    assert not draw(rng, rows, 30, jnp.float32(0)).any()
    assert draw(rng, rows, 30, jnp.float32(1)).all()
    assert draw._cache_size() == 1
    assert len(np.unique(coins, axis=0)) == 200
    np.testing.assert_array_equal(
        draw(rng, rows[50:], 30, jnp.float32(0.3)), coins[50:]
    )
