"""COCO run-length code and mask overlap."""

import json
import os
import pathlib

import numpy as np
import pytest

from jax_vidpred.ops import masks


def disc(height, width, row, column, radius):
    rows, columns = np.mgrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def test_code_of_a_small_mask_is_the_one_computed_by_hand():
    # Columns: 0110 / 1111 / 0000 -> runs 1, 2, 1, 4, 4 (zeros first).
    # 1, 2, 1 as they are; 4 - 2 = 2; 4 - 1 = 3: characters 48 + each.
    mask = np.array([[0, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]], bool)
    assert masks.encode_rle(mask) == {"size": [4, 3], "counts": "12123"}


def test_long_and_negative_numbers_by_hand():
    # One row: 40 zeros, 20 ones, 3 zeros, 1 one.
    # 40 = 8 + 32 * 1: groups 8 (more), 1 -> chr(48 + 8 + 32), chr(48 + 1) = "X1".
    # 20 has bit 16 set, which would read as a sign: 20 (more), 0 -> "d0".
    # 3 -> "3". 1 - 20 = -19 = 13 + 32 * (-1): 13 (more), 31 -> "]" and "O".
    mask = np.zeros((1, 64), bool)
    mask[0, 40:60] = mask[0, 63] = True
    code = masks.encode_rle(mask)
    assert code["counts"] == "X1d03]O"
    np.testing.assert_array_equal(masks.decode_rle(code), mask)


def test_round_trip_on_random_masks():
    random = np.random.default_rng(0)
    for trial in range(300):
        height, width = random.integers(1, 90, 2)
        if trial % 3:
            row, column = random.uniform(-5, 95, 2)
            mask = disc(height, width, row, column, random.uniform(0, 60))
        else:
            mask = random.random((height, width)) < random.random()
        code = masks.encode_rle(mask)
        np.testing.assert_array_equal(masks.decode_rle(code), mask)
        assert json.loads(json.dumps(code)) == code


def test_round_trip_at_full_size_and_on_the_extremes():
    for mask in (
        disc(320, 480, 100, 200, 40),
        np.zeros((320, 480), bool),
        np.ones((320, 480), bool),
    ):
        np.testing.assert_array_equal(masks.decode_rle(masks.encode_rle(mask)), mask)


@pytest.mark.parametrize("counts", ["1212", "12124", "1212S", "1 123", ""])
def test_damaged_codes_are_refused(counts):
    with pytest.raises(ValueError, match="run-length"):
        masks.decode_rle({"size": [4, 3], "counts": counts})


def test_iou_by_hand():
    a = np.array([[1, 1, 0, 0]], bool)
    b = np.array([[0, 1, 1, 1]], bool)
    assert masks.mask_iou(a, b) == 0.25
    assert masks.mask_iou(a, a) == 1
    assert masks.mask_iou(a & False, b) == 0
    assert masks.mask_iou(a & False, a & False) == 1
    np.testing.assert_array_equal(
        masks.mask_iou(np.stack([a, b]), np.stack([b, b])), [0.25, 1]
    )
    with pytest.raises(ValueError, match="equal shapes"):
        masks.mask_iou(a, b[:, :2])


def test_real_proposals_decode_and_encode_to_the_same_text():
    root = os.environ.get("JAX_VIDPRED_CLEVRER")
    if not root:
        pytest.skip("set JAX_VIDPRED_CLEVRER to a folder of official files")
    paths = sorted(pathlib.Path(root).glob("derender_proposals/proposal_*.json"))
    if not paths:
        pytest.skip(f"no derender_proposals in {root}")
    proposals = json.loads(paths[0].read_text())
    codes = [o["mask"] for f in proposals["frames"][:5] for o in f["objects"]]
    assert codes
    for code in codes:
        mask = masks.decode_rle(code)
        assert mask.shape == (320, 480)
        assert 10 < mask.sum() < 8000  # one object of known size
        assert masks.encode_rle(mask) == code
