"""Work that processes share: each part once, the same result whoever does it."""

import pytest

from jax_vidpred.data.schema import DataError
from jax_vidpred.evaluation.work import Shard, work_through


def work(path, shard=None, parts=5, made_from=None, log=None):
    log = [] if log is None else log

    def compute(k):
        log.append(k)
        return {"square": k * k}

    return work_through(
        "squaring",
        {f"part {k}": lambda k=k: compute(k) for k in range(parts)},
        shard=shard or Shard(),
        path=path,
        made_from=made_from or {"seed": 0},
        on_progress=lambda *_: None,
    )


def test_alone_all_is_done_and_kept(tmp_path):
    path, log = tmp_path / "partial", []
    wanted = {f"part {k}": {"square": k * k} for k in range(5)}
    assert work(path, log=log) == wanted == work(None)
    assert log == list(range(5))
    assert work(path, log=log) == wanted and log == list(range(5))
    work(path, made_from={"seed": 1}, log=log)
    assert len(log) == 10  # other work


def test_the_last_process_has_everything(tmp_path):
    path, first, second = tmp_path / "partial", [], []
    assert work(path, Shard(1, 2), log=second) is None
    assert work(path, Shard(0, 2), log=first) == work(None)
    assert (first, second) == ([0, 2, 4], [1, 3])
    # The other one, started again, has it as well, and nothing to do.
    assert work(path, Shard(1, 2), log=second) == work(None)
    assert second == [1, 3]
    names = {journal.name for journal in Shard(0, 2).journals(path)}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_more_processes_than_parts(tmp_path):
    path = tmp_path / "partial"
    results = [work(path, Shard(i, 4), parts=2) for i in (3, 2, 1, 0)]
    assert results[:3] == [None] * 3
    assert results[3] == work(None, parts=2)


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "0/0"])
def test_a_share_that_is_none(text):
    with pytest.raises(ValueError, match=f"--shard {text}; wanted INDEX/COUNT"):
        Shard.parse(text)
    assert Shard.parse("2/8") == Shard(2, 8)


def test_two_processes_do_not_write_one_journal(tmp_path):
    path = tmp_path / "partial"

    def meanwhile():
        with pytest.raises(DataError, match="another process is writing it"):
            work(path, made_from={"seed": 1})
        return "own"

    told = work_through(
        "waiting",
        {"part 0": meanwhile, "part 1": lambda: "too"},
        shard=Shard(),
        path=path,
        made_from={"seed": 0},
        on_progress=lambda *_: None,
    )
    assert told == {"part 0": "own", "part 1": "too"}
    assert work(path, made_from={"seed": 1}) == work(None)  # now it is free


def test_a_line_that_was_cut_off_in_the_middle_ends_what_is_known(tmp_path):
    path, log = tmp_path / "partial", []
    work(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:9], *lines[4:], ""]))
    assert work(path, log=log) == work(None)
    assert log == [2, 3, 4]
