"""Places and masks of objects: carried by flow, and tracked by appearance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.metrics import masks, tracks
from jax_vidpred.metrics.appearance import track
from jax_vidpred.ops import geometry

SIZE = 64
FLOOR = np.array([0.5, 0.5, 0.52], np.float32)
RED, BLUE = np.array([0.6, 0.1, 0.1]), np.array([0.1, 0.15, 0.6])


def balls(*paths, size=SIZE):
    """Segments [t, size, size] of balls whose centres go along world paths [t, 2].

    A ball's silhouette is drawn as an ellipse, the nearest in front; NaN is nowhere.
    """
    y, x = np.mgrid[:size, :size] + 0.5
    result = np.zeros((len(paths[0]), size, size), np.uint8)
    for t, segments in enumerate(result):
        places = [np.append(path[t], tracks.CENTRE_HEIGHT) for path in paths]
        for k in np.argsort([place[0] for place in places]):  # x grows to the camera
            (u, v), _ = geometry.project(places[k], size, size)
            a, b = tracks.silhouette_radius(np.array([u, v]), size, size)
            segments[((x - u) / a) ** 2 + ((y - v) / b) ** 2 < 1] = k + 1
    return result


def line(start, end, steps):
    return np.linspace(start, end, steps)


def paint(segments, *colours):
    """Pictures [t, h, w, 3]: floor with a gradient, objects that are lit from above."""
    height = segments.shape[1]
    light = np.linspace(0.9, 1.1, height).reshape(1, -1, 1, 1)
    table = np.stack([FLOOR, *colours])
    rng = np.random.default_rng(0)
    noise = 0.004 * rng.standard_normal((*segments.shape, 3))
    return (table[segments] * light + noise).astype(np.float32)


def score(predicted, true, num_objects):
    return float(np.nanmean(masks.identity_iou(predicted, true, num_objects)))


# centroids and positions


def test_centroid_and_area_by_hand():
    segments = np.zeros((2, 4, 6), np.uint8)
    segments[0, 1:3, 2:5] = 2
    centroid, area = tracks.centroids(segments, 2)
    np.testing.assert_array_equal(area, [[0, 6], [0, 0]])
    np.testing.assert_array_equal(centroid[0, 1], [3.5, 2.0])
    assert np.isnan(centroid[0, 0]).all() and np.isnan(centroid[1]).all()
    moved, _ = tracks.centroids(np.roll(segments, (1, 1), (1, 2)), 2)
    np.testing.assert_array_equal(moved[0, 1], [4.5, 3.0])


@pytest.mark.parametrize("size", [64, 128])
def test_floor_positions_find_the_world_place(size):
    path = np.array([[0.0, 0.0], [1.0, -1.0], [-2.0, 1.5], [1.5, 0.5]])
    positions, found = tracks.floor_positions(balls(path, size=size), 1)
    assert found.all()
    np.testing.assert_allclose(positions[:, 0], path, atol=0.05)


def test_an_object_that_is_cut_off_or_gone_has_no_position():
    edge = np.array([[0.0, 0.0], [0.0, 2.35], [0.0, 9.0]])
    segments = balls(edge)
    assert segments[1].any() and not segments[2].any()
    positions, found = tracks.floor_positions(segments, 1)
    np.testing.assert_array_equal(found[:, 0], [True, False, False])
    assert np.isnan(positions[1:]).all()


def test_silhouette_radius_is_that_of_a_ball():
    centre, depth = geometry.project(np.array([0.5, -1.0, 0.2]), 64, 96)
    radius = tracks.silhouette_radius(centre, 64, 96)
    expected = 0.2 * geometry.FOCAL / depth * np.array([96 / 480, 64 / 320])
    np.testing.assert_allclose(radius, expected)


# carrying by flow


def flow_of(segments, motions, grid=16):
    """Backward flow [1, t - 1, grid, grid, 2] in cells, and visibility.

    As flow is cast from annotations: a cell moves with the object that fills half of
    it, and floor is hidden where an object was. `motions` are [n, 2] pixels a step.
    """
    before, later = segments[:-1], segments[1:]
    side = segments.shape[1] // grid
    cells = (len(later), grid, side, grid, side)
    flow = np.zeros((len(later), grid, grid, 2), np.float32)
    for k, motion in enumerate(motions):
        share = (later == k + 1).reshape(cells).mean((2, 4))
        flow[share >= 0.5] = -np.array(motion) / side
    visible = ((later > 0) | (before == 0)).reshape(cells).mean((2, 4))
    return flow[None], visible[None, ..., None].astype(np.float32)


def moving_square(steps, motion, side=8, corner=(8, 8)):
    segments = np.zeros((steps, SIZE, SIZE), np.uint8)
    for t in range(steps):
        x, y = corner[0] + t * motion[0], corner[1] + t * motion[1]
        segments[t, y : y + side, x : x + side] = 1
    return segments


carry = jax.jit(tracks.carry, static_argnames="num_objects")


def carried(segments, flow, visible, num_objects):
    first = jnp.asarray(segments[:1])
    result = carry(first, jnp.asarray(flow), jnp.asarray(visible), num_objects)
    return np.asarray(result)[0]


def test_a_mask_goes_where_the_flow_says_and_leaves_floor_behind():
    segments = moving_square(5, (4, 0))
    result = carried(segments, *flow_of(segments, [(4, 0)]), 1)
    assert result.dtype == np.uint8 and result.shape == (4, 64, 64)
    np.testing.assert_array_equal(result, segments[1:])


def test_motion_that_is_no_whole_number_of_cells_is_nearly_right():
    segments = moving_square(5, (3, 1))
    flow, visible = flow_of(segments, [(3, 1)])
    assert score(carried(segments, flow, visible, 1), segments[1:], 1) > 0.75
    # Floor that has come to light says nothing about the object's motion.
    blind = carried(segments, flow, np.ones_like(visible), 1)
    assert score(blind, segments[1:], 1) < score(
        carried(segments, flow, visible, 1), segments[1:], 1
    )


def test_without_flow_masks_stay():
    segments = balls(line((0, -1), (0, -1), 5), line((1, 1), (1, 1), 5))
    still = flow_of(segments, [(0, 0), (0, 0)])
    np.testing.assert_array_equal(carried(segments, *still, 2), segments[1:])


def test_an_object_that_goes_away_gets_smaller():
    path = line((1.5, 0.0), (-1.0, 0.0), 9)
    segments = balls(path)
    centre, area = tracks.centroids(segments, 1)
    steps = np.diff(centre[:, 0], axis=0)
    flow, visible = (
        np.concatenate(parts, 1)
        for parts in zip(
            *(flow_of(segments[t : t + 2], [step]) for t, step in enumerate(steps)),
            strict=True,
        )
    )
    result = carried(segments, flow, visible, 1)
    assert score(result, segments[1:], 1) > 0.7
    assert area[-1, 0] < (result[-1] == 1).sum() < 0.8 * area[0, 0]


def test_the_nearer_of_two_objects_hides_the_other():
    # Two squares side by side; the upper one moves down and right, behind the lower.
    segments = moving_square(3, (0, 0), corner=(24, 30))
    segments[0, 24:32, 8:16] = 2
    flow, visible = flow_of(segments, [(0, 0), (8, 0)])
    flow[0, :, 6:8, 2:8] = (-2, 0)
    result = carried(segments, flow, visible, 2)
    assert (result == 1).sum((1, 2)).tolist() == [64, 64]
    assert 40 < (result[1] == 2).sum() < 64


def test_wrong_flow_carries_masks_to_wrong_places():
    segments = moving_square(5, (4, 0))
    wrong = carried(segments, *flow_of(segments, [(0, 4)]), 1)
    assert score(wrong, segments[1:], 1) < 0.3


def test_flow_on_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="grid of 5x5 for segments of 64x64"):
        tracks.carry(
            jnp.zeros((1, 64, 64), jnp.uint8),
            jnp.zeros((1, 2, 5, 5, 2)),
            jnp.ones((1, 2, 5, 5, 1)),
            2,
        )


# tracking by appearance

CROSSING = balls(line((0.5, -1.5), (0.5, 1.2), 20), line((-0.5, 1.5), (-0.5, -1.2), 20))
VIDEO = paint(CROSSING, RED, BLUE)


def test_true_video_gives_the_true_masks():
    result = track(VIDEO[:6], CROSSING[:6], VIDEO[6:])
    assert result.dtype == np.uint8 and result.shape == (14, 64, 64)
    assert score(result, CROSSING[6:], 2) > 0.95


def test_objects_of_one_colour_keep_their_identity_by_place_and_motion():
    # They meet in the picture, and the nearer one hides the other for a while.
    paths = line((0.2, -1.8), (0.2, 1.8), 12), line((0.0, 1.8), (0.0, -1.8), 12)
    segments = balls(*paths)
    video = paint(segments, RED, RED)
    result = track(video[:4], segments[:4], video[4:])
    assert score(result, segments[4:], 2) > 0.95
    assert score(result[-3:], segments[-3:], 2) > 0.95


def test_an_object_that_is_cut_off_in_the_context_is_followed_as_a_whole():
    segments = balls(line((0.5, -2.9), (0.5, 0.0), 20))
    assert segments[5].any() and (segments[5] > 0).sum() < 0.5 * (segments[9] > 0).sum()
    video = paint(segments, BLUE)
    assert score(track(video[:6], segments[:6], video[6:]), segments[6:], 1) > 0.9


def test_the_floor_may_have_a_pattern():
    video = VIDEO.copy()
    stripe = np.zeros((SIZE, SIZE), bool)
    stripe[:, 20:24] = stripe[:, 40:44] = True
    video[(CROSSING == 0) & stripe] = (0.5, 0.2, 0.2)
    result = track(video[:6], CROSSING[:6], video[6:])
    assert score(result, CROSSING[6:], 2) > 0.9


def test_objects_that_rest_are_found_and_a_frozen_video_keeps_its_masks():
    frozen = np.repeat(VIDEO[5:6], 14, 0)
    result = track(VIDEO[:6], CROSSING[:6], frozen)
    assert score(result, np.repeat(CROSSING[5:6], 14, 0), 2) > 0.95
    assert score(result, CROSSING[6:], 2) < 0.4
    still = np.repeat(CROSSING[5:6], 9, 0)
    video = paint(still, RED, BLUE)
    assert score(track(video[:6], still[:6], video[6:]), still[6:], 2) > 0.95


def test_what_vanishes_is_empty_and_what_enters_is_floor():
    gone = np.where(CROSSING == 2, 0, CROSSING)
    video = VIDEO.copy()
    video[10:] = paint(gone, RED, BLUE)[10:]
    green = slice(50, 58), slice(4, 12)
    video[8:, *green] = (0.1, 0.5, 0.1)
    result = track(video[:6], CROSSING[:6], video[6:])
    assert not (result[4:] == 2).any() and (result[:4] == 2).any((1, 2)).all()
    assert score(result[4:], gone[10:], 1) > 0.95
    assert not result[:, *green].any()


def test_what_enters_beside_an_object_is_floor():
    still = np.repeat(CROSSING[5:6], 9, 0)
    video = paint(still, RED, BLUE)
    beside = (np.roll(still, 6, 2) == 1) & (still == 0)
    video[6:][beside[6:]] = (0.5, 0.0, 0.45)  # nearer to red than to the floor
    result = track(video[:6], still[:6], video[6:])
    assert score(result, still[6:], 2) > 0.95


def test_shadows_are_floor():
    gray = 0.55 * FLOOR
    shadow = np.roll(CROSSING, (3, 2), (1, 2)) > 0
    video = paint(CROSSING, gray, gray)
    shadow &= CROSSING == 0
    video = np.where(shadow[..., None], 0.74 * video, video)
    result = track(video[:6], CROSSING[:6], video[6:])
    assert score(result, CROSSING[6:], 2) > 0.9
    assert (result[shadow[6:]] > 0).mean() < 0.1


def test_a_future_that_goes_elsewhere_scores_low():
    elsewhere = paint(CROSSING[..., ::-1], RED, BLUE)
    result = track(VIDEO[:6], CROSSING[:6], elsewhere[6:])
    assert score(result, CROSSING[6:], 2) < 0.5


def test_nothing_to_track_is_floor():
    empty = np.zeros_like(CROSSING[:6])
    assert not track(VIDEO[:6], empty, VIDEO[6:]).any()


def test_unusable_pictures_are_refused():
    with pytest.raises(ValueError, match="values in \\[0, 1\\], divide by 255"):
        track((255 * VIDEO[:6]).astype(np.uint8), CROSSING[:6], VIDEO[6:])
    with pytest.raises(ValueError, match="wanted \\[c, h, w, 3\\]"):
        track(VIDEO[:6], CROSSING[:5], VIDEO[6:])


def test_a_picture_without_objects_shows_none():
    """Grey or noise in place of the future: nothing is found in it."""
    size, rng = 32, np.random.default_rng(0)
    context = np.full((3, size, size, 3), 0.5, np.float32)
    segments = np.zeros((3, size, size), np.uint8)
    context[:, 8:14, 8:14], segments[:, 8:14, 8:14] = (0.8, 0.2, 0.2), 1
    context[:, 18:24, 18:24], segments[:, 18:24, 18:24] = (0.3, 0.3, 0.3), 2
    stay = np.repeat(context[-1:], 4, 0)
    found = track(context, segments, stay)
    assert all((found == label).any((1, 2)).all() for label in (1, 2))
    for empty in (np.full_like(stay, 0.3), rng.random(stay.shape, np.float32)):
        assert (track(context, segments, empty) == 0).mean() > 0.98
