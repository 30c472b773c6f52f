"""The loop: exact resumption, what is written, how it stops."""

import itertools
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jax_vidpred.train import checkpoint, loop, measurements, mesh, rngs, writers


def assert_same(one, other):
    leaves = zip(
        jax.tree_util.tree_leaves_with_path(one),
        jax.tree_util.tree_leaves_with_path(other),
        strict=True,
    )
    for (path, a), (other_path, b) in leaves:
        assert path == other_path
        np.testing.assert_array_equal(a, b, err_msg=str(path))


@pytest.mark.slow
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, toy, monkeypatch):
    whole = toy.train(tmp_path / "whole")
    # Killed between two checkpoints: the steps after the last one are lost and redone.
    seen = []
    steps = loop.TrainingSteps.__call__

    def die_in_step_25(self, state, batch):
        if len(seen) == 24:
            raise RuntimeError("killed")
        seen.append(batch)
        return steps(self, state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingSteps, "__call__", die_in_step_25)
        with pytest.raises(RuntimeError, match="killed"):
            toy.train(tmp_path / "killed")
    resumed = toy.train(tmp_path / "killed")
    assert int(whole.step) == 40
    assert_same(whole, resumed)
    # Evaluated four times, at 10, 20, 30, 40, and not once more.
    np.testing.assert_allclose(whole.extra["ratio"], 0.9**4, rtol=1e-6)
    lines = writers.read_metrics(tmp_path / "whole")
    again = writers.read_metrics(tmp_path / "killed")
    losses = {x["step"]: x["train/loss"] for x in lines if "train/loss" in x}
    assert sorted(losses) == [5, 10, 15, 20, 25, 30, 35, 40]
    assert losses == {x["step"]: x["train/loss"] for x in again if "train/loss" in x}


def test_learns_and_writes_what_was_measured(tmp_path, toy, capsys):
    toy.train(tmp_path, toy.System(learning_rate=0.3), best_metric="error")
    lines = writers.read_metrics(tmp_path)
    train = [line for line in lines if "train/loss" in line]
    evaluations = [line for line in lines if "eval/error" in line]
    assert [line["step"] for line in evaluations] == [10, 20, 30, 40]
    assert train[-1]["train/loss"] < 0.2 * train[0]["train/loss"]
    for name in ("steps_per_second", "videos_per_second", "learning_rate"):
        assert all(line[f"train/{name}"] > 0 for line in train)
    assert all(0 <= line["train/data_wait_share"] <= 1 for line in train)
    np.testing.assert_allclose(
        train[0]["train/videos_per_second"], 8 * train[0]["train/steps_per_second"]
    )
    assert "finished 40 steps" in capsys.readouterr().out
    assert checkpoint.restore_config(tmp_path) == {"name": "toy"}


def test_finished_run_returns_its_state_at_once(tmp_path, toy, capsys, monkeypatch):
    state = toy.train(tmp_path, num_steps=10)
    capsys.readouterr()
    monkeypatch.setattr(loop, "TrainingSteps", None)  # must not even be compiled
    assert_same(state, toy.train(tmp_path, num_steps=10))
    assert "already trained for 10 steps" in capsys.readouterr().out


def test_every_step_has_its_key_and_its_batch(tmp_path, toy):
    toy.train(tmp_path, num_steps=6, log_every=1)
    lines = [x for x in writers.read_metrics(tmp_path) if "train/noise" in x]
    keys = [rngs.fold_in(rngs.for_step(7, "train", k), "noise") for k in range(6)]
    np.testing.assert_allclose(
        [line["train/noise"] for line in lines],
        [0.01 * jax.random.normal(key, ()) for key in keys],
        rtol=1e-5,
    )
    batches = itertools.islice(toy.train_batches(), 6)
    assert [line["train/ids"] for line in lines] == [
        batch["video_id"].sum() for batch in batches
    ]


def test_few_steps_are_under_way_at_once(toy):
    system, one = toy.System(), mesh.make_layout(data=1)
    batch = next(iter(toy.eval_batches()))
    state = one.born(system.init, jax.random.key(0), one.put_batch(batch))
    steps = loop.TrainingSteps(system, state, batch, 0, one)
    began = time.perf_counter()
    assert steps.idle_seconds(0.0) == 0  # before the first step nobody waits for data
    for count in range(1, 21):
        state, scalars = steps(state, batch)
        assert len(steps._in_flight) == min(count, 8)
    jax.block_until_ready(scalars)
    time.sleep(0.1)
    assert 0.1 < steps.idle_seconds(began) < time.perf_counter() - began
    late = time.perf_counter()
    time.sleep(0.05)
    assert 0.05 <= steps.idle_seconds(late) < 0.1 + time.perf_counter() - late
    steps.close()
    assert int(state.step) == 20


@pytest.mark.parametrize(
    "bad_step, changes",
    [
        (13, {}),
        (20, {}),
        (40, {}),
        (17, {"log_every": 100, "eval_every": 100}),  # found only when saving
    ],
)
def test_divergence_stops_and_keeps_the_last_good_checkpoint(
    tmp_path, toy, bad_step, changes
):
    system = toy.System(diverge_at=bad_step)
    with pytest.raises(measurements.TrainingDiverged) as caught:
        toy.train(tmp_path, system, **changes)
    message = str(caught.value)
    assert f"not finite at step {bad_step}:" in message
    assert "loss=nan" in message.split("(finite:")[0]
    assert "ratio=" in message.split("(finite:")[1]
    # The batch is read again to name its videos; nothing is wrong with them.
    (batch,) = itertools.islice(toy.train_batches(bad_step - 1), 1)
    ids = sorted(batch["video_id"])
    assert f"finite (video {ids[0]:05d}, video {ids[1]:05d}" in message
    params, _ = checkpoint.restore_params(tmp_path)
    assert np.all(np.isfinite(params["linear"]["kernel"]))
    latest = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert latest == (bad_step - 1) // 10 * 10


def test_first_evaluation_error_comes_before_the_first_step(tmp_path, toy, monkeypatch):
    def broken(self, state, batch, rng):
        raise RuntimeError("broken evaluation")

    monkeypatch.setattr(toy.System, "eval_step", broken)
    monkeypatch.setattr(loop, "TrainingSteps", None)
    with pytest.raises(RuntimeError, match="broken evaluation"):
        toy.train(tmp_path)


def test_unusable_batches_are_explained(tmp_path, toy, monkeypatch):
    with pytest.raises(ValueError, match="ended after 8 batches: wanted batches with"):
        toy.train(tmp_path, train_batches=lambda k: toy.train_batches(k, num_epochs=1))
    with pytest.raises(ValueError, match=r"'pnsr' is not measured.*\['error'\]"):
        toy.train(tmp_path, best_metric="pnsr")
    monkeypatch.setattr(toy.System, "required_keys", ("video", "flow"))
    with pytest.raises(ValueError, match=r"ToySystem needs \['flow'\] in a batch"):
        toy.train(tmp_path)


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
import conftest
from jax_vidpred.train import loop
step = loop.TrainingSteps.__call__
def slow(self, *args):
    time.sleep(0.02)
    print("step", flush=True)
    return step(self, *args)
loop.TrainingSteps.__call__ = slow
conftest.toy_train(sys.argv[2], checkpoint_every=1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_saves_and_the_same_line_goes_on(tmp_path, toy, number, status):
    here = str(pathlib.Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, here, str(tmp_path / "stopped")],
        stdout=subprocess.PIPE,
        text=True,
    )
    done = 0
    for line in process.stdout:
        done += line == "step\n"
        if done == 12:
            process.send_signal(number)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=60) == status
    assert "stopped after step" in rest and "saved" in rest
    (folder,) = (tmp_path / "stopped" / "checkpoints").iterdir()
    assert 12 <= int(folder.name) <= 16
    if number == signal.SIGTERM:
        assert_same(toy.train(tmp_path / "whole"), toy.train(tmp_path / "stopped"))
