"""The benchmark command, run as users run it, and the batches that it makes."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jax_vidpred import benchmark
from jax_vidpred.data.schema import FLOW, PRESENT, VIDEO, VISIBLE

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments):
    line = [sys.executable, "-m", "jax_vidpred.benchmark", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_report(tmp_path):
    out = tmp_path / "benchmark.json"
    line = ("--config", "configs/temporal.py:smoke", "--repeats", 2, "--out", out)
    # There is no joint phase in this config: it is left out.
    result = run(*line, "--parts", "data,vae,joint,predict")
    assert result.returncode == 0, result.stderr
    report = json.loads(out.read_text())
    assert "core" in report["device"]
    assert report["cores"] >= 1 and "jax 0." in report["versions"]
    rows = report["measurements"]
    assert list(rows) == [
        "read 22 frames of 32x32, all keys",
        "read 16 frames of 128x128, video only",
        "vae training step",
        "predict 6 -> 12 frames",
        "predict 20 -> 12 frames",
    ]
    for name, row in rows.items():
        points = [row["wall_ms"][k] for k in ("min", "quartile_1", "median")]
        points += [row["wall_ms"][k] for k in ("quartile_3", "max")]
        assert points == sorted(points) and points[0] > 0, name
        assert row["cpu_ms"]["median"] > 0 and row["repeats"] == 2
        rate = row["examples"] / row["wall_ms"]["median"] * 1e3
        assert row["examples_per_second"] == pytest.approx(rate)
        computes = not name.startswith("read")
        assert ("compile_seconds" in row) == (row["gflop"] is not None) == computes
        assert name in result.stderr
    # 2 clips of 2 frames
    assert rows["vae training step"]["examples"] == 4
    assert rows["vae training step"]["unit"] == "frames"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--parts", "vae,sound"), "benchmark: --parts sound; choose from data,"),
        (("--repeats", "0"), "benchmark: --repeats 0; wanted at least 1"),
        (("--config", "configs/none.py"), "No such file or directory"),
        (("--config", "configs/vae.py:huge"), "variant 'huge' is unknown"),
        (("--config", "configs/sections.py"), "has no get_config()"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    assert benchmark.main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_random_batch_has_the_shapes_of_real_ones():
    data = dict(batch_size=3, clip_frames=5, height=16, width=24, grid_stride=4)
    batch = benchmark.random_batch(data, (VIDEO, FLOW, VISIBLE, PRESENT))
    assert batch[VIDEO].shape == (3, 5, 16, 24, 3) and batch[VIDEO].dtype == np.uint8
    assert batch[FLOW].shape == (3, 4, 4, 6, 2) and batch[FLOW].dtype == np.float32
    assert batch[VISIBLE].min() >= 0 and batch[VISIBLE].max() <= 1
    assert batch[PRESENT].shape == (3, 5, 6) and batch[PRESENT].dtype == bool
    assert batch[PRESENT].any() and not batch[PRESENT].all()
