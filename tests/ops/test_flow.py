"""Flow fields: resizing, distance, consistency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops.flow import (
    endpoint_distance,
    resize_flow,
    visible_by_consistency,
)


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


def constant_flow(x, y):
    return jnp.broadcast_to(jnp.array([x, y], jnp.float32), (8, 10, 2))


def test_what_returns_to_its_place_is_visible():
    flow = constant_flow(2.0, 1.0)
    visible = visible_by_consistency(flow, -flow)[..., 0]
    # Two columns and a row point out of the picture.
    expected = np.ones((8, 10))
    expected[:, 8:] = expected[7:] = 0
    np.testing.assert_array_equal(visible, expected)


def test_a_border_pixel_may_drift_by_half_a_pixel():
    for drift, seen in [(0.4, 1.0), (0.6, 0.0)]:
        flow = constant_flow(drift, -drift)
        visible = visible_by_consistency(flow, -flow)[..., 0]
        assert visible[0, 5] == visible[4, 9] == seen and visible[4, 4] == 1


@pytest.mark.parametrize("off, seen", [(0.70, True), (0.75, False)])
def test_small_mismatch_is_tolerated(off, seen):
    # Without motion: mismatch off^2 against 0.01 off^2 + 0.5, so off <= 0.7107.
    still = constant_flow(0.0, 0.0)
    visible = visible_by_consistency(still, constant_flow(off, 0.0))
    assert bool(visible.all()) is seen and bool(visible.any()) is seen


def test_fast_motion_may_mismatch_more():
    # |f|^2 + |r|^2 = 16 + 9: 0.01 * 25 + 0.5 = 0.75 < 1; doubled: 1 + 0.5 > 1.
    centre = (4, 4)
    for speed, seen in [(4.0, 0.0), (8.0, 1.0)]:
        flow = jnp.zeros((16, 32, 2)).at[..., 0].set(speed)
        reverse = jnp.zeros((16, 32, 2)).at[..., 0].set(1 - speed)
        assert visible_by_consistency(flow, reverse)[centre] == seen


def test_reverse_flow_is_read_where_the_flow_points_to():
    flow = constant_flow(3.0, 0.0)
    reverse = jnp.zeros((8, 10, 2)).at[:, 5, 0].set(-3.0)
    visible = visible_by_consistency(flow, reverse)[..., 0]
    np.testing.assert_array_equal(np.flatnonzero(visible[0]), [2])
