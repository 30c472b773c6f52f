"""The terms of the objective vanish exactly where the prediction is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.data import schema
from jax_vidpred.models.flow_warp import Objects, Rollout
from jax_vidpred.ops.warp import warp
from jax_vidpred.systems.flow_warp_objective import STATE_SCALE, Objective

STEPS = jnp.ones((2, 4))


@pytest.fixture
def objective(tiny):
    return Objective(
        weights=tiny.weights,
        focal={"alpha": 0.75, "gamma": 2.0},
        collision_tolerance=1,
        decoded_frames=2,
        num_context=tiny.context,
    )


@pytest.fixture
def clip(tiny):
    """A batch, its latents, and the roll-out that says all of it right."""
    batch = tiny.batch()
    values = np.random.default_rng(1).normal(size=(2, 5, 4, 4, 2))
    latents = jnp.float32(values)
    flow, visible = batch[schema.FLOW], batch[schema.VISIBLE]
    warped = warp(latents[:, :-1], flow)
    right = Rollout(
        latent=latents[:, 1:],
        warped=warped,
        flow=flow,
        visible_logit=jnp.log(visible / (1 - visible)),
        residual=latents[:, 1:] - visible * warped,
        hidden=jnp.zeros((2, 4, 4, 4, 1)),
    )
    return batch, latents, right


def test_a_right_roll_out_costs_nothing(objective, clip):
    batch, latents, right = clip
    terms = objective.on_latents(right, latents, batch, STEPS)
    assert set(terms) == {"latent", "flow", "visible", "residual"}
    for name, value in terms.items():
        assert float(value) == pytest.approx(0, abs=1e-5), name


@pytest.mark.parametrize(
    "part, term",
    [
        ("latent", "latent"),
        ("flow", "flow"),
        ("visible_logit", "visible"),
        ("residual", "residual"),
    ],
)
def test_an_error_costs_in_its_own_term_and_counted_steps(objective, clip, part, term):
    batch, latents, right = clip
    wrong = getattr(right, part).at[:, 3].add(2.0)
    rollout = right.replace(**{part: wrong})
    counted = objective.on_latents(rollout, latents, batch, STEPS)
    assert {name for name, value in counted.items() if value > 0.01} == {term}
    ignored = objective.on_latents(rollout, latents, batch, STEPS.at[:, 3].set(0))
    assert max(float(value) for value in ignored.values()) < 1e-5


def test_pixels_are_compared_on_a_few_counted_steps(objective, clip):
    _, _, right = clip
    video = jax.random.uniform(jax.random.key(0), (2, 5, 4, 4, 2))
    rollout = right.replace(latent=video[:, 1:], warped=video[:, 1:] + 0.5)
    decoded = []

    def decode(latent):
        decoded.append(latent.shape)
        return latent

    rng = jax.random.key(1)
    terms = objective.on_pixels(rollout, video, STEPS, decode, rng)
    assert float(terms["decoded"]) == 0
    assert float(terms["warped"]) == pytest.approx(0.5)
    assert decoded == [(2, 2, 4, 4, 2)] * 2
    terms = objective.on_pixels(rollout, video, 0 * STEPS, decode, rng)
    assert float(terms["warped"]) == 0


def test_states_are_those_of_the_predicted_frame_in_any_order(objective, clip):
    batch, _, _ = clip
    present, state = batch[schema.PRESENT][:, 1:], batch[schema.STATE][:, 1:]
    right = Objects(
        present_logit=jnp.where(present, 30.0, -30.0)[:, :, ::-1],
        state=(state / STATE_SCALE)[:, :, ::-1],
    )
    assert float(objective.state(right, batch, STEPS)) == pytest.approx(0, abs=1e-5)
    early = right.replace(state=batch[schema.STATE][:, :-1] / STATE_SCALE)
    assert float(objective.state(early, batch, STEPS)) > 0.05


def test_collisions_may_be_one_step_off(objective):
    batch = {schema.COLLISION: jnp.array([[0.0, 1.0, 0.0, 0.0]])}
    steps = jnp.ones((1, 4))

    def loss(*logits):
        return float(objective.collision(jnp.array([logits]), batch, steps))

    assert loss(20.0, 20.0, 20.0, -20.0) == pytest.approx(0, abs=1e-6)
    assert loss(-20.0, 20.0, 20.0, -20.0) > 1
    assert loss(20.0, 20.0, 20.0, 20.0) > 1


def test_misspelt_weights_are_named(tiny):
    weights = {"latnet" if n == "latent" else n: w for n, w in tiny.weights.items()}
    with pytest.raises(ValueError, match="'latnet'.*wanted .*'latent'"):
        Objective(
            weights=weights,
            focal={},
            collision_tolerance=1,
            decoded_frames=2,
            num_context=3,
        )
