"""Timing of calls."""

import time

import pytest

from jax_vidpred import stopwatch


def test_every_call_is_timed_but_the_first():
    calls = []

    def call():
        calls.append(None)
        time.sleep(0.2 if len(calls) == 1 else 0.01)

    row = stopwatch.measure(call, repeats=3, examples=6, unit="clips", flop=2e6)
    assert len(calls) == 4
    assert 10 <= row["wall_ms"]["min"] <= row["wall_ms"]["max"] < 200
    assert row["cpu_ms"]["max"] < row["wall_ms"]["min"]  # sleeping is no work
    median = row["wall_ms"]["median"] / 1e3
    assert row["examples_per_second"] == pytest.approx(6 / median)
    assert row["gflop_per_second"] == pytest.approx(2e-3 / median)


def test_arithmetic_that_is_not_known_is_none():
    row = stopwatch.measure(lambda: None, repeats=1, examples=1, unit="frames")
    assert row["gflop"] is None and row["gflop_per_second"] is None


def test_what_takes_long_is_measured_less_often(monkeypatch):
    monkeypatch.setattr(stopwatch, "MAX_SECONDS", 0.01)
    calls = []

    def call():
        calls.append(None)
        time.sleep(0.005)

    row = stopwatch.measure(call, repeats=50, examples=1, unit="frames")
    assert row["repeats"] == stopwatch.MIN_REPEATS == len(calls) - 1
    assert stopwatch.measure(call, repeats=2, examples=1, unit="frames")["repeats"] == 2
