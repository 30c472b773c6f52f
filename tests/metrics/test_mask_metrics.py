"""Mask scores against values worked out by hand, pair counting and scikit-learn."""

import itertools

import numpy as np
import pytest

from jax_vidpred.metrics import masks


def squares(*corners, side=4, size=12):
    """One frame [1, h, w] with a square of each label 1, 2, ... at (row, column)."""
    frame = np.zeros((1, size, size), np.uint8)
    for label, corner in enumerate(corners, 1):
        if corner is not None:
            row, column = corner
            frame[0, row : row + side, column : column + side] = label
    return frame


def random_segments(seed, shape=(3, 5, 6), num_objects=3):
    return np.random.default_rng(seed).integers(0, num_objects + 1, shape, np.uint8)


TRUE = squares((0, 0), (6, 6))
SHIFTED = squares((0, 2), (6, 6))  # the first shares 8 of 24 pixels
SWAPPED = squares((6, 6), (0, 0))
LOST = squares((0, 0), None)


def test_identity_iou_by_hand_and_a_swap_costs():
    iou = masks.identity_iou(SHIFTED, TRUE, 3)
    np.testing.assert_allclose(iou, [[1 / 3, 1.0, np.nan]])
    np.testing.assert_array_equal(masks.identity_iou(SWAPPED, TRUE, 2), [[0, 0]])
    np.testing.assert_array_equal(masks.identity_iou(LOST, TRUE, 2), [[1, 0]])


def test_hungarian_iou_forgives_a_swap_but_not_a_loss():
    np.testing.assert_array_equal(masks.hungarian_iou(SWAPPED, TRUE, 2), [[1, 1]])
    np.testing.assert_array_equal(masks.hungarian_iou(LOST, TRUE, 2), [[1, 0]])
    iou = masks.hungarian_iou(SHIFTED, TRUE, 3)
    np.testing.assert_allclose(iou, [[1 / 3, 1.0, np.nan]])


def test_hungarian_iou_is_the_best_of_all_assignments():
    predicted, true = random_segments(0), random_segments(1)
    pairs = np.stack(
        [
            masks.identity_iou(np.where(predicted == 0, 0, order[predicted]), true, 3)
            for order in (
                np.array([0, *p], np.uint8) for p in itertools.permutations((1, 2, 3))
            )
        ]
    )
    computed = masks.hungarian_iou(predicted, true, 3)
    np.testing.assert_allclose(computed.sum(1), pairs.sum(-1).max(0))
    assert (computed.sum(1) > masks.identity_iou(predicted, true, 3).sum(1)).any()


def test_mean_is_over_objects_that_count_and_are_seen():
    iou = np.array([[0.2, 0.6, 1.0], [0.4, np.nan, 1.0], [np.nan, np.nan, 1.0]])
    counted = masks.visible_labels(TRUE[0], 3)
    np.testing.assert_array_equal(counted, [True, True, False])
    np.testing.assert_allclose(masks.mean_iou(iou, counted), [0.4, 0.4, np.nan])


def test_lifetime_ends_with_the_first_frame_below():
    assert masks.lifetime(np.array([0.9, np.nan, 0.5, 0.49, 0.8])) == 3
    assert masks.lifetime(np.array([0.9, 0.7]), threshold=0.7) == 2
    assert masks.lifetime(np.array([0.9, 0.7]), threshold=0.8) == 1
    assert masks.lifetime(np.array([0.1])) == 0


def pair_count(predicted, true):
    """ARI from its definition over pairs of pixels."""
    one, other = (
        (values[:, None] == values)[np.triu_indices(len(values), 1)]
        for values in (true, predicted)
    )
    expected = one.sum() * other.sum() / len(one)
    return ((one & other).sum() - expected) / ((one.sum() + other.sum()) / 2 - expected)


def test_rand_index_agrees_with_counting_pairs():
    predicted, true = random_segments(2), random_segments(3)
    predicted[0] = np.where(true[0] > 1, true[0], predicted[0])  # one that agrees
    whole = [
        pair_count(p.ravel(), t.ravel()) for p, t in zip(predicted, true, strict=True)
    ]
    np.testing.assert_allclose(masks.adjusted_rand_index(predicted, true, 3), whole)
    front = [
        pair_count(p[t > 0], t[t > 0]) for p, t in zip(predicted, true, strict=True)
    ]
    np.testing.assert_allclose(masks.foreground_rand_index(predicted, true, 3), front)


def test_rand_index_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    predicted, true = random_segments(4, (4, 20, 20)), random_segments(5, (4, 20, 20))
    predicted[1] = true[1]
    predicted[2] = np.where(true[2] > 1, true[2], predicted[2])
    for function, chosen in (
        (masks.adjusted_rand_index, np.full(true.shape, True)),
        (masks.foreground_rand_index, true > 0),
    ):
        expected = [
            metrics.adjusted_rand_score(t[c], p[c])
            for p, t, c in zip(predicted, true, chosen, strict=True)
        ]
        np.testing.assert_allclose(function(predicted, true, 3), expected, atol=1e-12)


def test_rand_index_ignores_labels_and_where_nothing_is_said():
    for function in (masks.adjusted_rand_index, masks.foreground_rand_index):
        assert function(TRUE, TRUE, 2) == 1
        assert function(SWAPPED, TRUE, 2) == 1
    assert masks.adjusted_rand_index(LOST, TRUE, 2) < 1
    # On true foreground, the floor of LOST is as good a segment as any other; on the
    # whole picture masks that are too large cost.
    assert masks.foreground_rand_index(LOST, TRUE, 2) == 1
    merged = (TRUE > 0).astype(np.uint8)
    assert masks.foreground_rand_index(merged, TRUE, 2) == 0
    floor = np.zeros_like(TRUE)
    assert masks.adjusted_rand_index(floor, floor, 2) == 1
    assert np.isnan(masks.foreground_rand_index(TRUE, floor, 2))


def test_box_recall_by_hand():
    counted = np.array([True, True])
    assert masks.box_recall(TRUE, TRUE, counted) == 1
    assert masks.box_recall(SWAPPED, TRUE, counted) == 1
    assert masks.box_recall(SHIFTED, TRUE, counted) == 0.5  # 8 of 24 is below a half
    assert masks.box_recall(squares((0, 1), (6, 6)), TRUE, counted) == 1  # 12 of 20
    assert masks.box_recall(LOST, TRUE, np.array([False, True])) == 0
    assert np.isnan(masks.box_recall(TRUE, np.zeros_like(TRUE), counted))


def test_a_predicted_box_is_used_once_in_order_of_the_true_objects():
    true = np.zeros((1, 8, 8), np.uint8)
    true[0, :4, :4] = 2
    true[0, 0, :4] = true[0, :4, 0] = 1  # an L; it leaves 3 x 3 to the second
    predicted = np.zeros_like(true)
    predicted[0, :4, :4] = 1  # 16 of 16 and 9 of 16
    assert masks.box_recall(predicted, true, np.array([True, True])) == 0.5
    assert masks.box_recall(predicted, true, np.array([False, True])) == 1


def test_frames_do_not_touch_each_other():
    predicted, true = random_segments(6), random_segments(7)
    for function in (
        masks.identity_iou,
        masks.hungarian_iou,
        masks.adjusted_rand_index,
        masks.foreground_rand_index,
    ):
        together = function(predicted, true, 3)
        alone = [function(predicted[t : t + 1], true[t : t + 1], 3) for t in range(3)]
        np.testing.assert_array_equal(together, np.concatenate(alone))


def test_unusable_segments_are_refused():
    with pytest.raises(ValueError, match="wanted two of the same shape"):
        masks.identity_iou(TRUE, TRUE[:, :5], 2)
    with pytest.raises(ValueError, match="label 2, wanted at most 1"):
        masks.adjusted_rand_index(TRUE, LOST, 1)
    with pytest.raises(ValueError, match="label 2, wanted at most 1"):
        masks.box_recall(TRUE, LOST, np.array([True]))
