"""Balls drawn as ellipses, one before the other: where is the one behind?"""

import numpy as np
import pytest

from jax_vidpred.metrics.silhouettes import unhidden_positions
from jax_vidpred.metrics.tracks import floor_positions
from jax_vidpred.ops import geometry

RADIUS = 0.2


def _draw(places, height=64, width=64):
    """Segments [t, h, w] of balls at places [t, n, 2], the nearest on top."""
    to_pixels = geometry.floor_homography(height, width, RADIUS)
    focal = geometry.FOCAL * np.array([width / 480, height / 320])
    rows, columns = np.mgrid[:height, :width] + 0.5
    segments = np.zeros((len(places), height, width), np.uint8)
    for frame, row in zip(segments, places, strict=True):
        for k in np.argsort(row[:, 0]):
            u, v, depth = to_pixels @ [*row[k], 1.0]
            a, b = focal * RADIUS / depth
            inside = ((columns - u / depth) / a) ** 2 + ((rows - v / depth) / b) ** 2
            frame[inside <= 1] = k + 1
    return segments


def _passing():
    """Ball 0 rests; ball 1 passes closely behind it, from side to side."""
    along = np.linspace(-0.8, 0.8, 17)
    return np.stack(
        [
            np.stack([np.full(17, 0.3), np.zeros(17)], -1),
            np.stack([np.full(17, 0.3 - 0.41), along], -1),
        ],
        axis=1,
    )


def _errors(function, places, **size):
    found_places, found = function(_draw(places, **size), places.shape[1])
    assert found.all()
    return np.linalg.norm(found_places - places, axis=-1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (80, 120)])
def test_a_hidden_part_is_allowed_for(height, width):
    size = {"height": height, "width": width}
    plain = _errors(floor_positions, _passing(), **size)
    ours = _errors(unhidden_positions, _passing(), **size)
    assert plain[:, 1].max() > 0.12  # what there is to mend
    assert ours.max() < 0.05


def test_what_stands_free_is_left_where_it_is():
    places = _passing()[[0, 1, -1]]
    segments = _draw(places)
    np.testing.assert_array_equal(
        unhidden_positions(segments, 2)[0], floor_positions(segments, 2)[0]
    )
    missing = unhidden_positions(np.zeros_like(segments), 2)
    assert not missing[1].any() and np.isnan(missing[0]).all()


def test_labels_do_not_matter():
    places = _passing()
    one, _ = unhidden_positions(_draw(places), 2)
    two, _ = unhidden_positions(_draw(places[:, ::-1]), 2)
    np.testing.assert_allclose(one, two[:, ::-1], atol=1e-9)


def test_a_sliver_is_no_place():
    segments = _draw(_passing())
    behind = segments[8] == 2
    rows, columns = np.nonzero(behind)
    segments[8][behind] = 1
    segments[8, rows[0], columns[0]] = 2
    found = unhidden_positions(segments, 2)[1]
    assert floor_positions(segments, 2)[1][8, 1] and not found[8, 1]
    assert found[:8].all() and found[9:].all()
