"""Even choices by hand."""

from jax_vidpred.ops import spread


def test_some_of_many():
    assert spread.evenly(5, 2).tolist() == [0, 2]
    assert spread.evenly(3, None).tolist() == spread.evenly(3, 9).tolist() == [0, 1, 2]


def test_starts_reach_from_the_first_frame_to_the_last():
    assert spread.starts(128, 35, 4).tolist() == [0, 31, 62, 93]
    assert spread.starts(128, 35, 1).tolist() == [0]
    assert spread.starts(36, 35, 4).tolist() == [0, 1]
    assert spread.starts(34, 35, 4).tolist() == []
