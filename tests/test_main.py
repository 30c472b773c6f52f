"""The training command: all three phases, resuming, and mistakes on its line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs import temporal
from jax_vidpred import experiment
from jax_vidpred.data.schema import DataError
from jax_vidpred.train.writers import read_metrics

ROOT = Path(__file__).parents[1]


def main(*arguments, **environment):
    line = [sys.executable, "-m", "jax_vidpred.main", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


def test_every_phase_is_a_whole_work_directory(smoke_workdir):
    places = {
        "vae": smoke_workdir / "requires/vae",
        "temporal": smoke_workdir / "requires/temporal",
        "joint": smoke_workdir,
    }
    for phase, place in places.items():
        assert (place / "checkpoints/4").is_dir(), phase
        losses = [r["train/loss"] for r in read_metrics(place) if "train/loss" in r]
        assert len(losses) == 2, phase
    record = experiment.read_record(smoke_workdir)
    assert record["requires"] == {"temporal": "requires/temporal"}


def test_required_stages_are_found_after_the_folder_moved(
    smoke_workdir, tmp_path, copied
):
    moved = copied(smoke_workdir, tmp_path / "elsewhere")
    stage = experiment.load(moved)
    assert set(stage.params) == {"temporal", "vae"}
    earlier = experiment.load(moved / "requires/temporal")
    assert set(earlier.params) == {"temporal", "vae"}


@pytest.mark.slow
def test_a_stage_that_is_used_through_a_link_stays_as_it_is(
    smoke_workdir, tmp_path, copied
):
    """Another experiment shares a stage that has been trained elsewhere."""
    elsewhere = copied(smoke_workdir, tmp_path / "trained")
    before = (elsewhere / experiment.RECORD).read_text()
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "joint").symlink_to(elsewhere)
    (shared / "twin").symlink_to(elsewhere / "requires/twin")
    (shared / "prepared").symlink_to(elsewhere / "requires/prepared")
    experiment.run(config_of(elsewhere), shared / "joint", shared)
    assert (elsewhere / experiment.RECORD).read_text() == before
    assert not (shared / "vae").exists() and not (shared / "temporal").exists()


@pytest.mark.slow
def test_the_same_line_resumes_and_a_longer_one_goes_on(
    smoke_workdir, tmp_path, copied
):
    workdir = shutil.copytree(smoke_workdir / "requires/vae", tmp_path / "vae")
    requires = copied(
        smoke_workdir / "requires", tmp_path / "requires", "vae", "temporal"
    )
    line = ("--config=configs/vae.py:smoke", f"--workdir={workdir}")
    line += (f"--requires_dir={requires}",)
    again = main(*line)
    assert again.returncode == 0, again.stderr
    assert "already trained for 4 steps" in again.stdout + again.stderr
    longer = main(*line, "--config.train.num_steps=6")
    assert longer.returncode == 0, longer.stderr
    assert "goes on after step 4" in longer.stdout + longer.stderr
    assert (workdir / "checkpoints/6").is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/vae.py", "--config.modl.stride=4"], "modl"),
        (["--config=configs/missing.py"], "configs/missing.py"),
        (["--config=configs/vae.py:clevrer"], "JAX_VIDPRED_CLEVRER"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_VIDPRED_CLEVRER", raising=False)
    result = main(*arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    complaints = [x for x in result.stderr.splitlines() if x.startswith("main: ")]
    assert len(complaints) == 1
    assert said in complaints[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / experiment.RECORD).exists()


def config_of(workdir):
    return json.loads((workdir / experiment.RECORD).read_text())["config"]


def test_another_config_is_refused_in_a_used_folder(smoke_workdir):
    config = config_of(smoke_workdir)
    config["model"]["features"] += 1
    with pytest.raises(experiment.ExperimentError, match="'model' differs"):
        experiment.run(config, smoke_workdir)


def test_a_key_that_a_system_does_not_know(smoke_workdir, tmp_path):
    config = config_of(smoke_workdir / "requires/vae")
    config["model"]["colour"] = "red"
    with pytest.raises(ValueError, match="config of system 'vae'.*'colour'"):
        experiment.run(config, tmp_path / "run", smoke_workdir / "requires")


def test_a_data_folder_that_is_not_there(smoke_workdir, tmp_path):
    config = config_of(smoke_workdir / "requires/vae")
    config["data"]["root"] = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere"):
        experiment.run(config, tmp_path / "run", tmp_path / "requires")


def test_a_folder_that_is_no_work_directory(tmp_path):
    with pytest.raises(experiment.ExperimentError, match="no work directory"):
        experiment.load(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("train", "log_every", 0, "train.log_every=0: wanted at least 1"),
        ("eval", "every", 0, "eval.every=0: wanted at least 1"),
        ("train", "accumulate", 3, "train.accumulate=3 cannot cut"),
        ("train", "profile", {"start": -1, "steps": 1}, "start=-1"),
        ("train", "peak_tflops", {"cpu": 0.0}, "wanted TFLOP/s of one device"),
    ],
)
@pytest.mark.parametrize("stage", [None, "vae"])
def test_bad_numbers_are_named_before_any_work(
    tmp_path, section, key, value, said, stage
):
    config = temporal.get_config("smoke").to_dict()
    part = config["requires"]["vae"] if stage else config
    part[section][key] = value
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        experiment.run(config, tmp_path / "run")
    if said.startswith((f"{section}.",)):
        name = "config.requires.vae" if stage else "config"
        assert str(caught.value).startswith(f"{name}.{section}.{key}")
    assert not (tmp_path / "run").exists()


def test_models_may_be_computed_otherwise_when_a_run_goes_on(smoke_workdir):
    config = config_of(smoke_workdir)
    config["model"] |= {"dtype": "bfloat16", "remat": True}
    config["requires"]["temporal"]["mesh"] = {"data": 1, "fsdp": 1, "rules": []}
    config["requires"]["temporal"]["train"]["accumulate"] = 2
    assert experiment._fixed(config) == experiment._fixed(config_of(smoke_workdir))
