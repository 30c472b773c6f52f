"""Worker processes: order kept, errors passed on, the caller's script left alone."""

import subprocess
import sys
import time

import pytest

from jax_vidpred.data.workers import ordered_map


def slow_square(number: int) -> int:
    time.sleep(0.05 if number % 3 == 0 else 0)
    if number < 0:
        raise ValueError(f"negative: {number}")
    return number**2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_come_in_order(num_workers):
    assert list(ordered_map(slow_square, range(9), num_workers)) == [
        number**2 for number in range(9)
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_reach_the_caller(num_workers):
    results = ordered_map(slow_square, [1, 2, -3, 4], num_workers)
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(ValueError, match="negative: -3"):
        next(results)


def test_scripts_need_no_guard(tmp_path):
    # A spawned process usually runs the script again: here it would say "started"
    # again, and then fail, because it would spawn processes while it starts.
    script = tmp_path / "script.py"
    script.write_text(
        "print('started')\n"
        "from operator import neg\n"
        "from jax_vidpred.data.workers import ordered_map\n"
        "print(list(ordered_map(neg, range(4), 2)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["started", "[0, -1, -2, -3]"], done.stderr
