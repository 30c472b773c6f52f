"""Label maps: blobs where the camera sees the objects, ways in cells, no slot order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.ops import geometry
from jax_vidpred.ops.state_maps import (
    CHANNELS,
    RADIUS,
    extend_constant_velocity,
    render_states,
)

HEIGHT, WIDTH = 40, 60  # an eighth of the picture: a blob covers several cells
HERE, BEFORE, WAY = 0, 1, slice(2, 4)


def states(*frames):
    """[1, t, n, 4] from a list of (x, y) for each frame, and all of them present."""
    xy = np.array(frames, "float32")[None]
    state = jnp.asarray(np.concatenate([xy, np.full_like(xy, 99.0)], -1))
    return state, jnp.ones(state.shape[:3], bool)


def render(state, present):
    return np.asarray(
        jax.jit(render_states, static_argnums=(2, 3))(state, present, HEIGHT, WIDTH)
    )


def centroid(channel):
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return np.array([(channel * x).sum(), (channel * y).sum()]) / channel.sum()


def projected(xy):
    return geometry.project(np.array([*xy, 0.2]), HEIGHT, WIDTH)[0]


@pytest.mark.parametrize("xy", [(0.0, 0.0), (1.0, -1.2), (-1.5, 0.7)])
def test_blob_is_where_the_camera_sees_the_object(xy):
    maps = render(*states([(0.3, 0.3)], [xy]))
    assert maps.shape == (1, 1, HEIGHT, WIDTH, len(CHANNELS))
    np.testing.assert_allclose(
        centroid(maps[0, 0, ..., HERE]), projected(xy), atol=0.02
    )
    before = centroid(maps[0, 0, ..., BEFORE])
    np.testing.assert_allclose(before, projected((0.3, 0.3)), atol=0.02)


def test_blob_has_the_projected_radius_as_its_deviation():
    maps = render(*states([(0.0, 0.0)], [(0.0, 0.0)]))[0, 0, ..., HERE]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    middle = projected((0.0, 0.0))
    _, depth = geometry.project(np.array([0, 0, 0.2]))
    radius = RADIUS * geometry.FOCAL / depth / 8
    for offset in (x - middle[0], y - middle[1]):
        deviation = np.sqrt((maps * offset**2).sum() / maps.sum())
        assert deviation == pytest.approx(radius, rel=0.02)
    assert 0.9 < maps.max() <= 1


def test_way_is_that_of_the_positions_whatever_the_velocity_says():
    first, second = (0.2, -0.5), (-0.1, 0.1)
    maps = render(*states([first], [second]))[0, 0]
    way = projected(second) - projected(first)
    expected = maps[..., HERE, None] * way
    np.testing.assert_allclose(maps[..., WAY], expected, atol=2e-4)
    assert abs(way).min() > 1  # or the test says little


def test_frames_before_are_the_frames_of_the_entry_before():
    maps = render(*states([(0, 0)], [(0.5, 0.5)], [(1, 1)]))
    np.testing.assert_array_equal(maps[0, 1, ..., BEFORE], maps[0, 0, ..., HERE])


def test_absent_objects_leave_no_trace_and_entering_ones_have_no_way():
    state, present = states(
        [(0, 0), (0.5, 1)], [(0.2, 0), (0.4, 1)], [(0.3, 0), (0.3, 1)]
    )
    entering = present.at[:, :1, 1].set(False)
    alone = render(state[:, :, :1], present[:, :, :1])
    maps = render(state, entering)
    np.testing.assert_allclose(maps[0, 0, ..., BEFORE], alone[0, 0, ..., BEFORE])
    place = tuple(projected((0.4, 1)).astype(int)[::-1])
    assert maps[0, 0][place][HERE] > 0.8
    np.testing.assert_allclose(maps[0, 0][place][WAY], 0, atol=1e-3)
    assert abs(maps[0, 1][place][WAY]).max() > 0.3
    assert not render(state, 0 * present > 0).any()


def test_order_of_the_objects_does_not_matter():
    rng = np.random.default_rng(0)
    state = jnp.float32(rng.uniform(-1, 1, (2, 4, 5, 4)))
    present = jnp.asarray(rng.uniform(size=(2, 4, 5)) < 0.7)
    order = np.array([3, 0, 4, 1, 2])
    maps = render(state, present)
    np.testing.assert_allclose(
        render(state[:, :, order], present[:, :, order]), maps, atol=1e-5
    )


def test_where_objects_overlap_values_keep_their_range():
    twice = states([(0, 0), (0, 0)], [(0.3, 0.2), (0.3, 0.2)])
    once = states([(0, 0)], [(0.3, 0.2)])
    both, one = render(*twice), render(*once)
    np.testing.assert_allclose(both[..., :2], one[..., :2], atol=1e-6)
    middle = tuple(projected((0.3, 0.2)).astype(int)[::-1])
    way = projected((0.3, 0.2)) - projected((0, 0))
    np.testing.assert_allclose(both[0, 0][middle][WAY], way, rtol=1e-3)


def test_what_lies_behind_the_camera_is_not_seen():
    maps = render(*states([(7.0, 0.0)], [(5.7, 0.0)]))
    assert np.isfinite(maps).all() and not maps.any()


def test_states_go_on_at_constant_velocity():
    state = jnp.array([[[[0.0, 0.0, 9.0, 9.0]], [[1.0, 2.0, 0.5, -1.0]]]])
    present = jnp.array([[[False], [True]]])
    longer, there = extend_constant_velocity(state, present, 4, 0.1)
    np.testing.assert_array_equal(longer[:, :2], state)
    np.testing.assert_allclose(
        longer[0, 2:, 0], [[1.05, 1.9, 0.5, -1.0], [1.1, 1.8, 0.5, -1.0]], rtol=1e-6
    )
    np.testing.assert_array_equal(there[0, :, 0], [False, True, True, True])
    shorter, there = extend_constant_velocity(state, present, 1, 0.1)
    np.testing.assert_array_equal(shorter, state[:, :1])
    assert there.shape == (1, 1, 1)
