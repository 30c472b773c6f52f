"""The command that simulates a data set, run as users run it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from jax_vidpred import simulate

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments):
    return [sys.executable, "-m", "jax_vidpred.simulate", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)


def contents(root):
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_makes_a_data_set_and_repairs_it(tmp_path):
    line = ("--out", tmp_path, "--num_train", 1, "--num_test", 1, "--size", "48x32")
    first = run(*line, "--workers", 2)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"1 train + 1 test videos of 48x32 in {tmp_path}")
    assert "2 made now" in first.stdout
    assert "2/2" in first.stderr
    files = contents(tmp_path)
    videos = [path for path in files if path.suffix == ".mp4"]
    assert len(videos) == 2
    videos[0].unlink()
    second = run(*line)
    assert second.returncode == 0, second.stderr
    assert "1 made now" in second.stdout
    assert contents(tmp_path) == files


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "no videos asked for; give --num_train"),
        (("--num_train", "1", "--size", "65x64"), "width 65; wanted an even"),
        (("--num_train", "20000"), "20000 videos of split 'train'; wanted"),
        (("--num_train", "1", "--size", "64"), "'64'; wanted WIDTHxHEIGHT"),
        (("--num_train", "1", "--workers", "0"), "0 workers; wanted 1 or more"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    try:
        code = simulate.main(["--out", str(tmp_path), *arguments])
    except SystemExit as end:  # argparse leaves so
        code = end.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.strip().splitlines()[-1]
    assert not contents(tmp_path)


def test_a_foreign_folder_is_refused_without_a_traceback(tmp_path):
    (tmp_path / "video_train").mkdir()
    result = run("--out", tmp_path, "--num_train", 1)
    assert result.returncode == 2
    assert result.stderr.strip().startswith("simulate: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_whole_videos_only(tmp_path):
    process = subprocess.Popen(
        command(
            "--out", tmp_path, "--num_train", 500, "--size", "48x32", "--workers", 2
        ),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.1)
    # A terminal sends the signal to the command and its workers alike.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Run the same line again to go on." in errors.splitlines()[-1]
    assert "Traceback" not in errors
    videos = len(list(tmp_path.rglob("*.mp4")))
    assert 1 <= videos < 500
    assert f"{videos} of 500 videos are whole" in errors
    assert not list(tmp_path.rglob(".*"))
    assert len(list(tmp_path.rglob("proposal_*.json"))) == videos
