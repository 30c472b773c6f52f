"""Consistency scores against VBench's formulas written as loops, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.metrics import consistency


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def average(first, second):
    return (first + second) / 2


# Features.


def vbench_consistency(features):
    similar = []
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    for i in range(1, len(features)):
        previous = max(0.0, cosine(features[i - 1], features[i]))
        first = max(0.0, cosine(features[0], features[i]))
        similar.append((previous + first) / 2)
    return np.mean(similar)


def test_feature_consistency_agrees_with_a_loop():
    features = noise(3, 6, 5) - 0.3  # some cosines are negative
    expected = [vbench_consistency(video) for video in features]
    computed = consistency.feature_consistency(features)
    np.testing.assert_allclose(computed, expected, rtol=1e-5)


def test_feature_consistency_by_hand():
    # Turned by 60 degrees each time: cosines 1/2 and 1/2, then 1/2 and -1/2, as 0.
    angles = np.deg2rad([0, 60, 120])
    features = np.stack([np.cos(angles), np.sin(angles)], -1)[None]
    computed = consistency.feature_consistency(jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(computed, [(0.5 + 0.25) / 2], rtol=1e-5)


def test_length_of_features_does_not_matter_and_drift_costs():
    features = noise(1, 8, 16)
    score = consistency.feature_consistency(features)
    scaled = features * (1 + noise(1, 8, 1, seed=1))
    np.testing.assert_allclose(
        consistency.feature_consistency(scaled), score, rtol=1e-5
    )
    drifting = features + 0.5 * np.arange(8, dtype=np.float32)[:, None] * np.eye(8, 16)
    assert consistency.feature_consistency(jnp.asarray(drifting, "f4")) < score
    assert consistency.feature_consistency(np.zeros((1, 3, 4), np.float32)) == 0


def test_leaderboard_stretches_each_score():
    assert consistency.leaderboard_value("motion_smoothness", 0.9975) == 1
    assert consistency.leaderboard_value("subject_consistency", 0.1462) == 0
    half = (1 + 0.2615) / 2
    scaled = consistency.leaderboard_value("background_consistency", np.array([half]))
    np.testing.assert_allclose(scaled, [0.5])
    with pytest.raises(ValueError, match="score 'colour', expected one of"):
        consistency.leaderboard_value("colour", 0.5)


# The background.


def test_free_background_by_hand():
    video = np.full((1, 3, 1, 8, 3), 0.5, np.float32)
    video[0, 1, 0, 0] = 0.7  # changes by 0.2 and back
    video[0, :, 0, 6:] = noise(3, 2, 3)  # at the right objects, whatever they look like
    occupied = np.zeros((1, 3, 1, 8), bool)
    occupied[0, :, 0, 7] = True  # and its neighbour: 6 pixels are free
    occupied[0, 2, 0, 3] = True  # and its two neighbours: 3 are free at last
    # t = 1: (0.2 + 0.2) / 2 over 6 pixels; t = 2: (0.2 + 0) / 2 over 3 pixels.
    expected = 1 - (0.2 / 6 + 0.1 / 3) / 2
    computed = consistency.free_background_consistency(video, occupied)
    np.testing.assert_allclose(computed, [expected], rtol=1e-6)


def test_free_background_sees_the_floor_and_nothing_else():
    video = np.repeat(noise(1, 1, 8, 20, 3), 5, 1)
    occupied = np.zeros((1, 5, 8, 20), bool)
    for t in range(5):  # an object moves past its own width in each frame
        video[0, t, 2:4, 4 * t : 4 * t + 2] = noise(2, 2, 3, seed=t)
        occupied[0, t, 2:4, 4 * t : 4 * t + 2] = True
    assert consistency.free_background_consistency(video, occupied) == 1
    # The same object where the masks have none counts as changed background.
    elsewhere = np.roll(occupied, 4, axis=2)
    assert consistency.free_background_consistency(video, elsewhere) < 0.98
    empty = np.zeros_like(occupied)
    assert consistency.free_background_consistency(video, empty) < 1
    darker = video * np.linspace(1, 0.5, 5, dtype=np.float32).reshape(1, 5, 1, 1, 1)
    assert consistency.free_background_consistency(darker, occupied) < 0.95


def test_without_free_pixels_the_background_has_no_score():
    video = noise(2, 3, 4, 4, 3)
    occupied = np.zeros((2, 3, 4, 4), bool)
    occupied[0, 0] = True  # frame 0 hides all for good
    occupied[1, 2] = True  # frame 1 remains
    scores = consistency.free_background_consistency(video, occupied)
    assert np.isnan(scores[0])
    np.testing.assert_allclose(
        scores[1], 1 - np.abs(video[1, 0] - video[1, 1]).mean(), rtol=1e-5
    )


# Flicker and smoothness.


def test_flickering_agrees_with_the_formula_on_levels():
    levels = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 7, 3))
    steps = np.abs(np.diff(levels, axis=1)).mean((2, 3, 4))
    expected = ((255 - steps) / 255).mean(1)
    video = levels.astype(np.float32) / 255
    computed = consistency.temporal_flickering(video)
    np.testing.assert_allclose(computed, expected, rtol=1e-6)
    backwards = consistency.temporal_flickering(video[:, ::-1])
    np.testing.assert_allclose(backwards, expected, rtol=1e-6)
    # Less than half a level is not in a file of 8 bits.
    again = consistency.temporal_flickering(video + noise(2, 5, 6, 7, 3) / 600)
    np.testing.assert_allclose(again, expected, rtol=1e-6)
    assert consistency.temporal_flickering(video * 0.5)[0] > computed[0]


@pytest.mark.parametrize("length", [3, 6, 7])
def test_smoothness_compares_odd_frames_with_midpoints_of_even_ones(length):
    levels = np.random.default_rng(0).integers(0, 256, (2, length, 4, 5, 3))
    last = (length - 1) // 2 * 2
    between = np.round((levels[:, 0:last:2] + levels[:, 2 : last + 1 : 2]) / 2)
    odd = levels[:, 1:last:2]
    expected = 1 - np.abs(odd - between).mean((1, 2, 3, 4)) / 255
    video = levels.astype(np.float32) / 255
    computed = consistency.motion_smoothness(video, average)
    np.testing.assert_allclose(computed, expected, atol=1e-3)  # rounding of halves
    backwards = consistency.motion_smoothness(video[:, : last + 1][:, ::-1], average)
    np.testing.assert_allclose(backwards, computed, rtol=1e-6)


def square(places, size=32):
    video = np.full((1, len(places), size, size, 3), 0.4, np.float32)
    for t, x in enumerate(places):
        video[0, t, 10:18, x : x + 8] = 0.9
    return jnp.asarray(video)


def flow_between(places, size=32):
    """Flow between each frame and the next: on the object, and 0 on the floor."""
    steps = len(places) - 1
    backward, forward = np.zeros((2, 1, steps, size, size, 2), np.float32)
    for t in range(steps):
        step = places[t + 1] - places[t]
        backward[0, t, 10:18, places[t + 1] : places[t + 1] + 8, 0] = -step
        forward[0, t, 10:18, places[t] : places[t] + 8, 0] = step
    return jnp.asarray(backward), jnp.asarray(forward)


def test_midpoint_moves_both_neighbours_half_way():
    texture = jnp.asarray(noise(1, 16, 40, 3))
    first, second = texture[:, :, 4:36], texture[:, :, :32]  # moves 4 to the right
    backward = jnp.broadcast_to(jnp.array([-4.0, 0.0]), (1, 16, 32, 2))
    between = consistency.midpoint(first, second, backward, -backward)
    expected = texture[:, :, 2:34]
    np.testing.assert_allclose(between[:, :, 4:-4], expected[:, :, 4:-4], atol=1e-6)
    # Flow of a coarser grid is in pixels of that grid.
    coarse = jnp.broadcast_to(jnp.array([-1.0, 0.0]), (1, 4, 8, 2))
    same = consistency.midpoint(first, second, coarse, -coarse)
    np.testing.assert_allclose(same, between, atol=1e-6)


def test_even_motion_is_smooth_and_a_jerk_is_not():
    even, jerky = [2, 4, 6, 8, 10, 12, 14], [2, 6, 6, 6, 10, 14, 14]
    backward, forward = flow_between(even[::2])
    score = jax.jit(consistency.flow_smoothness)
    smooth = score(square(even), backward, forward)
    jerk = score(square(jerky), backward, forward)
    assert even[::2] == jerky[::2]  # only the odd frames differ
    ghosts = consistency.motion_smoothness(square(even), average)
    # What an average gets wrong is halved; halting for a frame costs as much as that.
    np.testing.assert_allclose(1 - smooth, (1 - ghosts) / 2, rtol=1e-3)
    assert jerk < smooth - 0.007
    # Up and down instead of left and right, or backwards.
    turn = lambda x: jnp.swapaxes(x, 2, 3)  # noqa: E731
    turned = score(
        turn(square(even)), turn(backward)[..., ::-1], turn(forward)[..., ::-1]
    )
    np.testing.assert_allclose(turned, smooth, rtol=1e-6)
    reverse = score(square(even)[:, ::-1], forward[:, ::-1], backward[:, ::-1])
    np.testing.assert_allclose(reverse, smooth, rtol=1e-6)


def test_one_example_does_not_touch_another():
    video, occupied = noise(2, 5, 6, 6, 3), noise(2, 5, 6, 6, seed=1) > 0.9
    metrics = [
        lambda s: consistency.feature_consistency(video[s].reshape(-1, 5, 108)),
        lambda s: consistency.free_background_consistency(video[s], occupied[s]),
        lambda s: consistency.temporal_flickering(video[s]),
        lambda s: consistency.motion_smoothness(video[s], average),
    ]
    for metric in metrics:
        both = metric(slice(None))
        np.testing.assert_allclose(metric(slice(1, 2)), both[1:], rtol=1e-6)


def test_too_few_frames_are_refused():
    video = jnp.zeros((1, 1, 4, 4, 3))
    two = jnp.zeros((1, 2, 4, 4, 3))
    with pytest.raises(
        ValueError, match="consistency of 1 frames; it wants at least 2"
    ):
        consistency.feature_consistency(jnp.zeros((1, 1, 4)))
    with pytest.raises(ValueError, match="consistency of 1 frames"):
        consistency.free_background_consistency(video, jnp.zeros((1, 1, 4, 4), bool))
    with pytest.raises(ValueError, match="flickering of 1 frames"):
        consistency.temporal_flickering(video)
    with pytest.raises(ValueError, match="smoothness of 2 frames; it wants at least 3"):
        consistency.motion_smoothness(two, average)
    flow = jnp.zeros((1, 4, 4, 4, 2))
    with pytest.raises(ValueError, match="flow of 4 and 4 steps; wanted 2"):
        consistency.flow_smoothness(jnp.zeros((1, 5, 4, 4, 3)), flow, flow)
