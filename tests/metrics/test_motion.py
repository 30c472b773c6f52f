"""Energy of motion and of acceleration, and why they stand beside consistency."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.metrics import consistency, motion


def ball(places, size=24):
    """A bright square at each column, on a grey floor: [1, t, size, size, 3]."""
    video = np.full((1, len(places), size, size, 3), 0.4, np.float32)
    for t, x in enumerate(places):
        video[0, t, 8:14, x : x + 6] = 0.9
    return video


def test_motion_energy_by_hand():
    flow = np.zeros((2, 3, 4, 5, 2), np.float32)
    flow[0, 1, 2, 3] = (3, -4)  # one place of 60 moves by 5 pixels
    np.testing.assert_allclose(motion.motion_energy(flow), [5 / 60, 0], rtol=1e-6)
    ratio = motion.motion_energy_ratio(2 * flow, flow)
    np.testing.assert_allclose(ratio, [2, np.nan])


def test_turning_mirroring_and_reversing_do_not_change_the_energy():
    flow = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 2)).astype("f4")
    energy = motion.motion_energy(flow)
    turned = np.stack([-flow[..., 1], flow[..., 0]], -1)
    np.testing.assert_allclose(motion.motion_energy(turned), energy, rtol=1e-6)
    np.testing.assert_allclose(motion.motion_energy(-flow[:, ::-1]), energy, rtol=1e-6)


def test_acceleration_energy_by_hand():
    values = jnp.array([0.1, 0.2, 0.3, 0.1]).reshape(1, 4, 1, 1, 1)
    video = values * jnp.ones((1, 1, 2, 3, 3))
    np.testing.assert_allclose(
        motion.acceleration_energy(video), [(0.0 + 0.3) / 2], rtol=1e-5
    )


def test_a_fade_is_even_and_flicker_is_not():
    fade = jnp.linspace(0.2, 0.8, 9).reshape(1, 9, 1, 1, 1) * jnp.ones((1, 1, 4, 4, 3))
    np.testing.assert_allclose(motion.acceleration_energy(fade), 0, atol=1e-6)
    flicker = fade + 0.05 * jnp.array([1, -1] * 4 + [1]).reshape(1, 9, 1, 1, 1)
    np.testing.assert_allclose(motion.acceleration_energy(flicker), 0.2, rtol=1e-4)
    # Brighter, mirrored or played backwards: the same.
    for other in (flicker + 0.1, flicker[:, ::-1], flicker[..., ::-1]):
        np.testing.assert_allclose(motion.acceleration_energy(other), 0.2, rtol=1e-4)


def test_trembling_costs_against_the_truth():
    truth = ball([2, 4, 6, 8, 10, 12, 14])
    np.testing.assert_allclose(motion.acceleration_ratio(truth, truth), 1)
    trembling = ball([2, 6, 4, 8, 6, 10, 8])
    assert motion.acceleration_ratio(trembling, truth)[0] > 1.4
    # What is said of sharp edges: in jumps, but always onwards.
    onwards = ball([2, 5, 6, 9, 10, 13, 14])
    np.testing.assert_allclose(motion.acceleration_ratio(onwards, truth), 1)


def test_a_frozen_video_is_perfect_but_for_its_motion():
    truth = ball([2, 4, 6, 8, 10, 12, 14])
    frozen = np.repeat(truth[:, :1], 7, 1)
    none = jnp.zeros((1, 3, 24, 24, 2), np.float32)
    one = np.ones(1)
    np.testing.assert_array_equal(consistency.temporal_flickering(frozen), one)
    np.testing.assert_array_equal(consistency.flow_smoothness(frozen, none, none), one)
    smooth = consistency.motion_smoothness(frozen, lambda x, y: (x + y) / 2)
    np.testing.assert_array_equal(smooth, one)
    features = frozen.reshape(1, 7, -1)
    same = consistency.feature_consistency(features)
    np.testing.assert_allclose(same, one, rtol=1e-6)
    empty = np.zeros((1, 7, 24, 24), bool)
    np.testing.assert_array_equal(
        consistency.free_background_consistency(frozen, empty), one
    )

    moved = np.where(truth[:, 1:] > 0.5, 2.0, 0.0)[..., :2]
    ratio = motion.motion_energy_ratio(np.zeros_like(moved), moved)
    np.testing.assert_array_equal(ratio, 0 * one)
    np.testing.assert_array_equal(motion.acceleration_ratio(frozen, truth), 0 * one)
    np.testing.assert_array_equal(motion.motion_energy_ratio(moved, moved), one)


def test_nothing_to_compare_with_is_not_a_score():
    frozen = ball([3, 3, 3])
    assert np.isnan(motion.acceleration_ratio(ball([3, 5, 6]), frozen)[0])


def test_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match="acceleration of 2 frames"):
        motion.acceleration_energy(ball([1, 2]))
    with pytest.raises(ValueError, match=r"shapes \(1, 2, .*wanted the same"):
        motion.motion_energy_ratio(np.zeros((1, 2, 3, 3, 2)), np.zeros((1, 2, 6, 6, 2)))
