"""Processes that make the same take turns; a killed one gives its turn back."""

import errno
import fcntl
import multiprocessing
import threading
import time

import pytest

from jax_vidpred.data.lock import one_at_a_time


def _hold(folder, entered):
    with one_at_a_time(folder):
        entered.set()
        threading.Event().wait(60)


@pytest.fixture
def holder(tmp_path):
    """A process that is inside and stays there."""
    context = multiprocessing.get_context("spawn")
    entered = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "made", entered))
    process.start()
    assert entered.wait(60)
    yield process
    process.kill()
    process.join()


def test_nothing_is_left_behind(tmp_path):
    with one_at_a_time(tmp_path / "new" / "made"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["made.lock"]
    assert not list((tmp_path / "new").iterdir())


def test_a_killed_process_gives_its_turn_back(holder, tmp_path, capsys):
    entered = threading.Event()

    def enter():
        with one_at_a_time(tmp_path / "made"):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.2)
    assert capsys.readouterr().err == (
        f"another process makes {tmp_path / 'made'}; waiting for it\n"
    )
    with one_at_a_time(tmp_path / "another"):
        pass  # nobody makes that one
    holder.kill()
    assert entered.wait(10)
    waiting.join()
    assert not list(tmp_path.iterdir())


def test_many_threads_are_inside_one_by_one(tmp_path):
    inside, most = [], []

    def enter():
        for _ in range(20):
            with one_at_a_time(tmp_path / "made"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 80
    assert not list(tmp_path.iterdir())


def test_where_files_cannot_be_locked_nobody_waits(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with one_at_a_time(tmp_path / "made"):
        pass
    (tmp_path / "file").touch()
    with one_at_a_time(tmp_path / "file" / "made"):
        pass
    assert capsys.readouterr().err.count("cannot be locked") == 2


def test_errors_inside_come_out(tmp_path):
    with pytest.raises(OSError, match="disk"), one_at_a_time(tmp_path / "made"):
        raise OSError("disk")
    assert not list(tmp_path.iterdir())
