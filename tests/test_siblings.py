"""RIVER from nothing to scores: codes, cached latents, futures, a frame of context."""

import json

import numpy as np
import pytest

import jax_vidpred
from configs import river
from jax_vidpred import evaluate, experiment, predict
from jax_vidpred.evaluation.journal import fingerprint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, smoke_workdir):
    """RIVER after four steps, on the data of the smoke run."""
    folder = tmp_path_factory.mktemp("siblings") / "river"
    config = river.get_config("smoke").to_dict()
    experiment.run(config, folder, smoke_workdir / "requires")
    return folder


def test_latents_were_encoded_once(workdir, smoke_workdir):
    (path,) = (smoke_workdir / "requires" / "latents").glob("*_train_*.npy")
    assert np.load(path, mmap_mode="r").shape == (3 * 128, 8, 8, 4)
    assert jax_vidpred.load(workdir).system.train_keys == ("latent",)


def test_it_is_judged_like_any_other(workdir):
    result = evaluate.run(workdir, max_videos=1, num_samples=3, show=False).result
    scores = result["systems"]["river"]["mean"]
    assert scores["psnr_best_of_3"] >= scores["psnr_mean_of_3"]
    assert {"copy-last", "VAE ceiling", "constant velocity"} < set(result["systems"])
    assert result["uncertainty"]["spread_variance"] > 0


def test_one_frame_of_context_has_no_velocity(workdir):
    options = dict(max_videos=1, num_samples=2, show=False)
    result = evaluate.run(workdir, num_context=1, num_future=3, **options).result
    assert np.isfinite(result["systems"]["river"]["mean"]["psnr"])
    assert "constant velocity" not in result["systems"]


def test_futures_of_one_video_are_the_same_for_any_number(workdir):
    predictor = jax_vidpred.load(workdir)
    size = (2, *predictor.frame_size, 3)
    context = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    few, many = (predictor.draw(context, 2, k, seed=5) for k in (2, 3))
    np.testing.assert_allclose(many[:2], few, atol=1e-5)
    assert np.abs(many[0] - many[2]).max() > 1e-3
    with pytest.raises(ValueError, match="num_samples=0"):
        predictor.draw(context, 2, 0)


def test_predict_shows_several_futures(workdir, smoke_workdir, tmp_path, capsys):
    folder = smoke_workdir / "requires/twin/video_validation/video_10000-11000"
    video, out = folder / "video_10000.mp4", tmp_path / "out"
    line = ["--workdir", workdir, "--videos", video, "--num_samples", "3"]
    line = [*map(str, line), "--num_future", "4", "--out", str(out)]
    assert predict.main(line) == 0
    with np.load(out / "video_10000.npz") as stored:
        futures = [stored[f"prediction{end}"] for end in ("", "_2", "_3")]
    assert len(np.unique(futures, axis=0)) == 3
    rows = json.loads((out / "metrics.json").read_text())["mean"]
    assert list(rows)[:2] == ["river", "best of 3"] and "copy-last" in rows
    assert rows["best of 3"]["psnr"] >= rows["river"]["psnr"]
    page = (out / "index.html").read_text()
    assert all(title in page for title in ("future 2", "future 3", "spread"))
    capsys.readouterr()
    assert predict.main(line) == 0
    assert "1 of 1 video done before" in capsys.readouterr().out
    wrong = [*line[:4], "--num_samples", "2", "--out", str(out)]
    wrong[1] = str(smoke_workdir)
    assert predict.main(wrong) == 2
    assert "flow-warp predicts one future; leave it out" in capsys.readouterr().err


def test_another_first_stage_than_that_of_training_is_an_error(workdir, smoke_workdir):
    record = workdir / experiment.RECORD
    as_it_was = record.read_text()
    content = json.loads(as_it_was)
    stage = experiment.load(smoke_workdir / "requires" / "vqgan")
    assert content["frozen"] == fingerprint({"vae": stage.params})
    record.write_text(json.dumps(content | {"frozen": "0" * 16}))
    try:
        message = "was trained on other parameters than .*vqgan has now; put those back"
        with pytest.raises(experiment.ExperimentError, match=message):
            experiment.load(workdir)
        with pytest.raises(experiment.ExperimentError, match=message):
            experiment.run(content["config"], workdir, smoke_workdir / "requires")
    finally:
        record.write_text(as_it_was)
