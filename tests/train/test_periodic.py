"""Due times, the clock and the plain progress lines."""

import pytest

from jax_vidpred.train import periodic


def test_due_every_so_often_and_at_the_end():
    due = [step for step in range(24) if periodic.is_due(step, 10, 23)]
    assert due == [10, 20, 23]


def test_clock_leaves_out_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(periodic.time, "perf_counter", lambda: now[0])
    clock = periodic.Clock()
    now[0] += 4.0
    with clock.paused():
        now[0] += 100.0
    clock.count_wait(1.0)
    now[0] += 1.0
    assert clock.lap(10, 8) == {
        "steps_per_second": 2.0,
        "videos_per_second": 16.0,
        "data_wait_share": 0.2,
    }
    now[0] += 2.0  # a new period starts from nothing
    assert clock.lap(1, 8)["steps_per_second"] == 0.5
    assert clock.lap(0, 8)["data_wait_share"] == 0.0


def test_plain_lines_come_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(periodic.time, "monotonic", lambda: now[0])
    with periodic.ProgressDisplay("net", 1000, 200, every_seconds=30.0) as display:
        assert not display.interactive
        for step in range(210, 1001, 10):
            now[0] += 1.0
            display.update(step, {"loss": 0.5, "steps_per_second": 10.0})
        display.say("done")
    assert capsys.readouterr().out.splitlines() == [
        "net: step 210/1000, 0.5 loss, 10 steps/s, 79 s left",
        "net: step 510/1000, 0.5 loss, 10 steps/s, 49 s left",
        "net: step 810/1000, 0.5 loss, 10 steps/s, 19 s left",
        "net: step 1000/1000, 0.5 loss, 10 steps/s, 0 s left",
        "net: done",
    ]


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(periodic.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with periodic.ProgressDisplay("net", 10, 0) as display:
        display.update(7, {"loss": 0.25})
        display.say("a [line]")
    printed = capsys.readouterr().out
    assert "a [line]" in printed and "7/10" in printed and "0.25 loss" in printed


@pytest.mark.parametrize(
    "seconds, text", [(5, "5 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_durations(seconds, text):
    assert periodic._duration(seconds) == text
