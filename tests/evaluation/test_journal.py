"""Parts that are done are not done again, whatever interrupts the work."""

import math

import pytest

from jax_vidpred.data.schema import DataError
from jax_vidpred.evaluation.journal import Journal


def never():
    raise AssertionError("computed again")


def test_what_is_done_is_known_to_the_next_run(tmp_path):
    path = tmp_path / "new folder" / "journal"
    first = Journal(path, {"seed": 1})
    assert not path.parent.exists()
    assert first.result("a", lambda: {"psnr": [1.5, math.inf]}) == {
        "psnr": [1.5, math.inf]
    }
    first.result("b", lambda: None)
    second = Journal(path, {"seed": 1})
    assert second.result("a", never) == {"psnr": [1.5, math.inf]}
    assert second.result("b", never) is None
    second.result("c", lambda: 3)
    third = Journal(path, {"seed": 1})
    assert [third.result(name, never) for name in "bc"] == [None, 3]


def test_other_work_begins_anew(tmp_path):
    path = tmp_path / "journal"
    Journal(path, {"seed": 1}).result("a", lambda: 1)
    other = Journal(path, {"seed": 2})
    assert other.result("a", lambda: 2) == 2
    assert Journal(path, {"seed": 2}).result("a", never) == 2
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_line_that_was_cut_off_is_done_again(tmp_path, cut):
    path = tmp_path / "journal"
    journal = Journal(path, {"seed": 1})
    journal.result("a", lambda: 1)
    whole = path.read_bytes()
    journal.result("b", lambda: "a text that is longer than the longest cut")
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path, {"seed": 1})
    assert again.result("a", never) == 1
    assert again.result("b", lambda: 2) == 2
    assert path.read_bytes() == whole + b'["b", 2]\n'


def test_without_a_file_nothing_is_kept(tmp_path):
    journal = Journal()
    assert journal.result("a", lambda: 1) == 1 == journal.result("a", never)


def test_no_place_for_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="journal: cannot be written .*free space"):
        Journal(tmp_path / "file" / "journal").result("a", lambda: 1)
