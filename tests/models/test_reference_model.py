"""The reference's temporal model: what a step does, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.models.reference import ReferenceTemporal

B, K, H, W, C = 2, 3, 4, 5, 3
NET = ReferenceTemporal(latent_channels=C, features=6, head_features=4, max_objects=2)


@jax.jit
def run(params, latents):
    return NET.apply({"params": params}, latents)


@pytest.fixture(scope="module")
def shapes():
    latents = jnp.zeros((1, 1, H, W, C))
    return jax.eval_shape(NET.init, jax.random.key(0), latents)["params"]


@pytest.fixture
def silent(shapes):
    """All parameters zero."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


@pytest.fixture(scope="module")
def drawn(shapes):
    """Parameters that make every head say something."""
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: draw.normal(0, 0.4, leaf.shape).astype(np.float32), shapes
    )


@pytest.fixture(scope="module")
def latents():
    values = np.random.default_rng(1).normal(size=(B, K, H, W, C))
    return values.astype(np.float32)


def test_has_exactly_the_parameters_of_the_reference():
    latents = jnp.zeros((1, 1, 1, 1, 32))
    shapes = jax.eval_shape(ReferenceTemporal().init, jax.random.key(0), latents)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 402_152


def test_composition_replaces_what_is_masked(silent, latents):
    silent["occlusion_head"]["Conv_1"]["bias"][:] = np.log(3)  # mask 3/4
    silent["residual_head"]["Conv_1"]["bias"][:] = 2.0
    steps, _, _ = run(silent, latents)
    np.testing.assert_allclose(steps.mask, np.full((B, K, H, W, 1), 0.75), rtol=1e-6)
    np.testing.assert_allclose(steps.latent, 0.75 * latents + 0.25 * 2, atol=1e-6)


def test_the_residual_sees_what_was_warped_and_nothing_else(silent, latents):
    """Two layers that pass everything on: residual = relu(warped)."""
    head = silent["residual_head"]
    for c in range(C):
        head["Conv_0"]["kernel"][1, 1, c, c] = 1
        head["Conv_1"]["kernel"][1, 1, c, c] = 1
    silent["flow_head"]["Conv_1"]["bias"][:] = [0.5, 0]
    steps, _, _ = run(silent, latents)
    np.testing.assert_allclose(steps.residual, np.maximum(steps.warped, 0), atol=1e-6)


def test_flow_samples_at_most_one_cell_away(silent, latents):
    silent["flow_head"]["Conv_1"]["bias"][:] = [100, np.arctanh(-0.25)]
    steps, _, _ = run(silent, latents)
    expected = np.broadcast_to(np.float32([1, -0.25]), (B, K, H, W, 2))
    np.testing.assert_allclose(steps.flow, expected, atol=1e-6)
    # One column to the right, a quarter of a row up; the border repeats.
    right = np.concatenate([latents[..., 1:, :], latents[..., -1:, :]], -2)
    above = np.concatenate([right[..., :1, :, :], right[..., :-1, :, :]], -3)
    np.testing.assert_allclose(steps.warped, 0.75 * right + 0.25 * above, atol=1e-5)


def test_heads_of_a_frame_read_the_mean_over_all_places(silent, latents):
    silent["cell"]["gates"]["bias"][:] = 50  # open gates: the cell counts the steps
    silent["state_head"]["Dense_0"]["kernel"][:, 0] = 1 / 6
    silent["state_head"]["Dense_1"]["kernel"][0, 7] = 1  # object 1, value 1
    silent["collision_head"]["Dense_1"]["bias"][:] = -2
    steps, states, collision = run(silent, latents)
    hidden = np.tanh(np.arange(1, K + 1)).reshape(1, K, 1, 1, 1)
    np.testing.assert_allclose(
        steps.hidden, np.broadcast_to(hidden, steps.hidden.shape), rtol=1e-5
    )
    assert states.shape == (B, K, 2, 6)
    np.testing.assert_allclose(states[:, :, 1, 1], [hidden.ravel()] * B, rtol=1e-5)
    assert np.count_nonzero(states) == B * K
    np.testing.assert_array_equal(collision, np.full((B, K), -2.0))


def test_no_forget_bias(silent, latents):
    gates = silent["cell"]["gates"]["bias"].reshape(4, 6)  # i, f, g, o
    gates[0], gates[2], gates[3] = 50, 50, 50
    steps, _, _ = run(silent, latents)
    expected = np.tanh([1, 1.5, 1.75]).reshape(1, K, 1, 1, 1)  # half is forgotten
    np.testing.assert_allclose(
        steps.hidden, np.broadcast_to(expected, steps.hidden.shape), rtol=1e-5
    )


def test_steps_see_the_past_only(drawn, latents):
    changed = latents.copy()
    changed[:, 1] += 1
    before, after = run(drawn, latents), run(drawn, changed)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        differs = np.any(a != b, (0, *range(2, a.ndim)))
        assert differs.tolist() == [False, True, True]
