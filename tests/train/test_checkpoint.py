"""Checkpoints: what is kept, what comes back, what is said when it does not."""

import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_vidpred.train import checkpoint, checksums, optim, state

OPTIMIZER = optim.make_optimizer(learning_rate=0.1, num_steps=10)


def make_state(value=1.0, *, width=3, ema=True, extra=None):
    params = {
        "net": {"kernel": jnp.full((width, 2), value)},
        "bias": jnp.full(2, value),
    }
    return state.TrainState.create(
        params=params,
        optimizer=OPTIMIZER,
        ema=ema,
        extra=extra,
        frozen={"first_stage": jnp.full(2, value)},
    )


def save_steps(workdir, steps, *, scores=None, keep=2, mode="max", **state_changes):
    """Saves states full of their step."""
    checkpoints = checkpoint.Checkpoints(
        workdir, keep=keep, best_metric="psnr", best_mode=mode
    )
    for step in steps:
        summary = {"psnr": scores[step]} if scores and step in scores else None
        made = make_state(float(step), **state_changes).replace(step=jnp.int32(step))
        checkpoints.save(step, made, config={"at": step}, summary=summary)
    checkpoints.close()


def kept(workdir):
    return sorted(int(p.name) for p in (workdir / checkpoint.FOLDER).iterdir())


def restore(workdir, target=None):
    checkpoints = checkpoint.Checkpoints(workdir)
    try:
        return checkpoints.restore_latest(target or make_state(0.0))
    finally:
        checkpoints.close()


def damage(workdir, step):
    for path in (workdir / checkpoint.FOLDER / str(step) / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:7])


def test_round_trip_without_the_frozen_part(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    restored = restore(tmp_path, make_state(-5.0))
    wanted = make_state(3.0).replace(step=jnp.int32(3))
    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    jax.tree.map(
        np.testing.assert_array_equal,
        restored.replace(frozen={}),
        wanted.replace(frozen={}),
    )
    np.testing.assert_array_equal(restored.frozen["first_stage"], -5.0)
    files = (tmp_path / checkpoint.FOLDER).rglob("*")
    assert not any(b"first_stage" in p.read_bytes() for p in files if p.is_file())


@pytest.mark.parametrize("mode, best", [("max", 2), ("min", 3)])
def test_latest_and_best_are_kept_and_the_best_is_used(tmp_path, mode, best):
    # Step 4 is not scored, step 5 has no finite score.
    scores = {1: 21.0, 2: 30.0, 3: 20.0, 5: float("nan"), 6: 25.0, 7: 24.0}
    save_steps(tmp_path, range(1, 8), scores=scores, mode=mode)
    assert kept(tmp_path) == [best, 6, 7]
    params, _ = checkpoint.restore_params(tmp_path)
    np.testing.assert_array_equal(params["bias"], best)
    assert checkpoint.restore_config(tmp_path) == {"at": best}
    assert checkpoint.restore_config(tmp_path, step=6) == {"at": 6}
    restored = restore(tmp_path)
    assert int(restored.step) == 7  # training goes on from the latest


def test_params_alone_prefer_the_average(tmp_path):
    made = make_state(1.0, extra={"ratio": jnp.float32(0.5)})
    made = made.replace(ema=jax.tree.map(lambda p: 7 * p, made.params))
    checkpoints = checkpoint.Checkpoints(tmp_path / "with")
    checkpoints.save(1, made, config={})
    checkpoints.close()
    params, extra = checkpoint.restore_params(tmp_path / "with")
    assert jax.tree.structure(params) == jax.tree.structure(made.params)
    np.testing.assert_array_equal(params["net"]["kernel"], 7.0)
    assert isinstance(params["net"]["kernel"], np.ndarray)
    np.testing.assert_array_equal(extra["ratio"], 0.5)
    save_steps(tmp_path / "without", [1], ema=False)
    params, extra = checkpoint.restore_params(tmp_path / "without")
    np.testing.assert_array_equal(params["net"]["kernel"], 1.0)
    assert extra == {}


def test_nothing_there(tmp_path):
    assert restore(tmp_path) is None
    for function in (checkpoint.restore_params, checkpoint.restore_config):
        with pytest.raises(
            checkpoint.CheckpointError, match="no checkpoint in .*--work"
        ):
            function(tmp_path)
    save_steps(tmp_path, [4])
    with pytest.raises(checkpoint.CheckpointError, match=r"of step 5 in .*has \[4\]"):
        checkpoint.restore_params(tmp_path, step=5)


def test_another_model_is_refused_by_name(tmp_path):
    save_steps(tmp_path, [1])
    for target, message in (
        (make_state(width=4), r"\(3, 2\) at params/net/kernel, wanted \(4, 2\)"),
        (make_state(ema=False), r"\(2,\) at ema/bias, wanted nothing"),
        (make_state(extra={"r": jnp.ones(())}), r"nothing at extra/r, wanted \(\)"),
    ):
        with pytest.raises(checkpoint.CheckpointError, match=message) as caught:
            restore(tmp_path, target)
        assert "another model" in str(caught.value) and "\n" not in str(caught.value)
    assert kept(tmp_path) == [1]


def test_damaged_latest_falls_back_and_is_put_aside(tmp_path, caplog):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path, 2)
    restored = restore(tmp_path)
    assert int(restored.step) == 1
    assert "step 2 is damaged" in caplog.text and "from step 1" in caplog.text
    assert (tmp_path / "damaged_checkpoints" / "2").exists()
    # Step 2 is trained again and can be saved again.
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(2, make_state(), config={})
    checkpoints.close()
    assert kept(tmp_path) == [1, 2]


def test_one_flipped_bit_is_noticed(tmp_path):
    # Orbax itself would give other parameters without a word, or none.
    save_steps(tmp_path, [1, 2])
    folder = tmp_path / checkpoint.FOLDER / "2"
    sums = json.loads((folder / checksums.SUMS_FILE).read_text())
    largest = max(sums, key=lambda name: (folder / name).stat().st_size)
    content = bytearray((folder / largest).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / largest).write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="not as it was written"):
        checkpoint.restore_params(tmp_path, step=2)
    restored = restore(tmp_path)
    assert int(restored.step) == 1
    np.testing.assert_array_equal(restored.params["bias"], 1.0)


def test_checkpoint_without_sums_is_of_an_earlier_version(tmp_path):
    save_steps(tmp_path, [1])
    (tmp_path / checkpoint.FOLDER / "1" / checksums.SUMS_FILE).unlink()
    assert int(restore(tmp_path).step) == 1


def test_nothing_is_moved_when_all_are_damaged(tmp_path):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    with pytest.raises(checkpoint.CheckpointError, match="can be read"):
        restore(tmp_path)
    assert kept(tmp_path) == [1, 2]
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        checkpoint.restore_params(tmp_path)


def test_half_written_checkpoint_does_not_count(tmp_path):
    save_steps(tmp_path, [1, 2])
    folder = tmp_path / checkpoint.FOLDER
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")  # killed while writing
    assert int(restore(tmp_path).step) == 1
    give_up = time.monotonic() + 30  # it is cleaned away, by a thread of Orbax
    while len(list(folder.iterdir())) > 1 and time.monotonic() < give_up:
        time.sleep(0.05)
    assert kept(tmp_path) == [1]


def test_full_disk_is_one_line_and_keeps_the_last(tmp_path, monkeypatch):
    save_steps(tmp_path, [1])
    checkpoints = checkpoint.Checkpoints(tmp_path)
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=100)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: nearly_full)
        with pytest.raises(checkpoint.CheckpointError, match="disk full") as caught:
            checkpoints.save(2, make_state(), config={})
    assert "run the same line again" in str(caught.value)
    # It can also fill up while Orbax writes.
    error = ValueError("RESOURCE_EXHAUSTED: write: No space left on device [28]")
    monkeypatch.setattr(
        checkpoints._manager, "save", lambda *a, **k: (_ for _ in ()).throw(error)
    )
    with pytest.raises(checkpoint.CheckpointError, match="disk full; free some space"):
        checkpoints.save(2, make_state(), config={})
    checkpoints.close()
    assert kept(tmp_path) == [1]


def test_relative_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steps("here", [1])
    assert kept(tmp_path / "here") == [1]
    assert int(restore("here").step) == 1
