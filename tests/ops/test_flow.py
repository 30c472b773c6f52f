"""Flow fields: resizing and distance."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_vidpred.ops.flow import endpoint_distance, resize_flow


def test_resizing_scales_x_and_y_by_their_own_factors():
    flow = jnp.broadcast_to(jnp.array([2.0, -3.0]), (2, 5, 4, 6, 2))
    resized = resize_flow(flow, 8, 24)
    assert resized.shape == (2, 5, 8, 24, 2)
    np.testing.assert_allclose(resized[..., 0], 2.0 * 24 / 6, rtol=1e-6)
    np.testing.assert_allclose(resized[..., 1], -3.0 * 8 / 4, rtol=1e-6)


def test_resizing_to_the_same_size_changes_nothing():
    flow = jax.random.normal(jax.random.key(0), (1, 4, 6, 2))
    np.testing.assert_allclose(resize_flow(flow, 4, 6), flow, rtol=1e-6)


def test_a_linear_field_stays_linear_inside():
    # Displacement proportional to the place: cell centres are at (i + 1/2) / n.
    centres = (jnp.arange(8) + 0.5) / 8
    flow = jnp.broadcast_to(centres[:, None], (8, 8))
    flow = jnp.stack([flow.T, flow], -1)[None]
    fine = resize_flow(flow, 16, 16)[0] / 2
    expected = (np.arange(16) + 0.5) / 16
    np.testing.assert_allclose(fine[5, 2:-2, 0], expected[2:-2], rtol=1e-5)
    np.testing.assert_allclose(fine[2:-2, 5, 1], expected[2:-2], rtol=1e-5)


def test_endpoint_distance_is_euclidean_and_zero_at_the_target():
    target = jnp.zeros((1, 1, 2, 2))
    prediction = jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]])
    distance = endpoint_distance(prediction, target)
    np.testing.assert_allclose(distance, [[[5.0, 0.0]]], atol=1e-3)
    assert distance[0, 0, 1] == 0


def test_endpoint_distance_has_a_finite_gradient_everywhere():
    target = jnp.zeros((1, 1, 2, 2))
    prediction = jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]])
    gradient = jax.grad(lambda p: endpoint_distance(p, target).sum())(prediction)
    np.testing.assert_allclose(gradient[0, 0, 0], [0.6, 0.8], rtol=1e-5)
    np.testing.assert_array_equal(gradient[0, 0, 1], [0, 0])
