"""The benchmark command, run as users run it, and the batches that it makes."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jax_vidpred import benchmark
from jax_vidpred.benchmarking import parts, phases
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

    # Once more, beside it.
    line = ("--config", "configs/temporal.py:smoke", "--parts", "vae,renderer")
    result = run(*line, "--repeats", 2, "--compare", out)
    assert result.returncode == 0, result.stderr
    compared = json.loads(result.stdout)["compare"]
    assert list(compared["rows"]) == ["vae training step"]
    assert compared["differences"] == {}
    assert "Only in the new result: render" in result.stderr
    assert "Only in the old result: read" in result.stderr
    row = compared["rows"]["vae training step"]
    assert row["old_ms"] == rows["vae training step"]["wall_ms"]["median"]
    assert f"{row['ratio']:.2f}" in result.stderr


@pytest.mark.slow
def test_the_parts_that_compile_long(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    smaller = {"TTT_STEPS": 1, "TTT_BATCH": 2, "LONG_CONTEXT": 6, "NUM_FUTURE": 2}
    smaller |= {"RAFT_UPDATES": 1, "RAFT_BATCHES": (2,), "EVALUATED_CLIPS": 1}
    smaller |= {"NUM_VIDEOS": 1}
    for name, value in smaller.items():
        monkeypatch.setattr(parts, name, value)
    config = phases.read_config(str(ROOT / "configs/temporal.py:smoke"))
    rows = benchmark.run(config, parts=("ttt", "raft", "evaluation"), repeats=1)
    assert list(rows) == [
        "adapt 1 steps, 6 frames, batch 1",
        "adapt 1 steps, 6 frames, batch 2",
        "RAFT small, 1 updates, 128x128, batch 2",
        "evaluate 1 clips of 8 frames",
    ]
    alone, batched, flow, judged = rows.values()
    assert batched["ms_per_video"] == {
        "alone": alone["wall_ms"]["median"],
        "batched": batched["wall_ms"]["median"] / 2,
    }
    assert flow["examples"] == 2 and flow["gflop"] > 0
    assert judged["compile_seconds"] > 0 and judged["gflop"] is None
    # With what has no future there is nothing to predict, adapt or judge.
    config = phases.read_config(str(ROOT / "configs/vae.py:smoke"))
    assert not benchmark.run(config, parts=("predict", "ttt", "evaluation"))


@pytest.mark.slow
def test_scaling(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    # Its temporal step has loops over time, in which nothing may be exchanged.
    line = ["--config", "configs/temporal.py:smoke", "--parts", "scaling"]
    assert benchmark.main(line) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["measurements"] == {}
    rows = report["scaling"]
    names = ("vae, data parallel", "temporal, data parallel", "vae, fsdp")
    assert list(rows) == [*names, "temporal, fsdp"]
    assert "TPU v5e" in said.err and "vae, fsdp" in said.err
    config = phases.read_config("configs/temporal.py:smoke")
    for name, phase in zip(phases.PHASES, phases.build_phases(config), strict=False):
        parallel, sharded = rows[f"{name}, data parallel"], rows[f"{name}, fsdp"]
        trained, all_of_it = (
            sum(leaf.nbytes for leaf in jax.tree.leaves(parameters))
            for parameters in (phase.state.params, phase.params)
        )
        # One sum in a step: the gradients, and a few scalars with them.
        assert list(parallel["sent"]) == ["all-reduce"]
        assert parallel["sent"]["all-reduce"]["count"] == 1
        size = parallel["sent"]["all-reduce"]["bytes"]
        assert trained <= size < 1.01 * trained
        # The same; besides, norms, and parameters are collected. Small ones every
        # device keeps.
        assert sharded["sent"].keys() == {"all-reduce", "all-gather"}
        assert sharded["sent"]["all-reduce"]["count"] <= 2
        assert trained <= sharded["sent"]["all-reduce"]["bytes"] < 1.01 * trained
        collected = sharded["sent"]["all-gather"]
        assert 0.8 * all_of_it < collected["bytes"] <= all_of_it
        assert collected["count"] <= len(jax.tree.leaves(phase.params))
        assert sharded["gflop"] == pytest.approx(parallel["gflop"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--parts", "vae,sound"), "benchmark: --parts sound; choose from data,"),
        (("--repeats", "0"), "benchmark: --repeats 0; wanted at least 1"),
        (("--config", "configs/none.py"), "No such file or directory"),
        (("--config", "configs/vae.py:huge"), "variant 'huge' is unknown"),
        (("--config", "configs/sections.py"), "has no get_config()"),
        (("--compare", "README.md"), "README.md is no result of the benchmark"),
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
    batch = phases.random_batch(data, (VIDEO, FLOW, VISIBLE, PRESENT))
    assert batch[VIDEO].shape == (3, 5, 16, 24, 3) and batch[VIDEO].dtype == np.uint8
    assert batch[FLOW].shape == (3, 4, 4, 6, 2) and batch[FLOW].dtype == np.float32
    assert batch[VISIBLE].min() >= 0 and batch[VISIBLE].max() <= 1
    assert batch[PRESENT].shape == (3, 5, 6) and batch[PRESENT].dtype == bool
    assert batch[PRESENT].any() and not batch[PRESENT].all()
