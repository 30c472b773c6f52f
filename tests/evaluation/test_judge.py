"""What the judge sees: no future before it is scored, truth where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_vidpred
from jax_vidpred.data.schema import VIDEO
from jax_vidpred.evaluation import clips, judge, networks
from jax_vidpred.evaluation.settings import settings_for
from jax_vidpred.experiment import prepare_data
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.systems import ttt
from jax_vidpred.train.protocol import Prediction, Predictor, Stage

NONE = networks.Networks({}, {}, {}, {}, {})


class Batch:
    """A batch of the smoke run's validation videos, with what belongs to it."""

    def __init__(self, workdir, **asked):
        self.predictor = jax_vidpred.load(workdir)
        config = self.predictor.config
        self.settings = settings_for(config, 6, {"batch_size": 2, **asked})
        source = prepare_data(config["data"], workdir / "requires")["validation"]
        listed = clips.fixed_clips(source, self.settings)
        (_, read), *_ = clips.batches(source, listed[:2], self.settings)
        self.batch = read()

    def judge(self, predictor=None):
        return judge.Judge(predictor or self.predictor, self.settings, NONE)


@pytest.mark.slow
def test_the_future_does_not_leak_into_adapted_weights(smoke_workdir, monkeypatch):
    """Not by a bit: other futures, the same weights and the same predictions."""
    given = Batch(smoke_workdir, ttt=({"num_steps": 2, "min_gain": -1e9},))
    adapted = []
    adapt = ttt.adapt

    def watched(*arguments, **options):
        result = adapt(*arguments, **options)
        jax.debug.callback(lambda tree: adapted.append(tree), result.params)
        return result

    monkeypatch.setattr(ttt, "adapt", watched)
    predictions = []
    for seed in (None, 0):
        if seed is not None:
            other = np.random.default_rng(seed).integers(0, 256, (2, 12, 32, 32, 3))
            given.batch[VIDEO][:, 6:] = other
        made, _ = given.judge()._predictions(given.batch)
        predictions.append({name: one.video for name, one in made.items()})
    jax.effects_barrier()
    assert len(adapted) == 2
    for before, after in zip(*map(jax.tree.leaves, adapted), strict=True):
        np.testing.assert_array_equal(before, after)
    for name, video in predictions[0].items():
        np.testing.assert_array_equal(video, predictions[1][name])
    plain, tuned = predictions[0].values()
    assert (plain != tuned).any()  # or there would be nothing that could leak


@pytest.mark.slow
def test_a_budget_begins_with_the_prediction_as_it_is(smoke_workdir):
    given = Batch(smoke_workdir)
    part = given.judge()(given.batch)
    assert set(part["budget"]) == {
        *("as it is", "true flow", "true visibility", "true latent", "no residual")
    }
    assert part["budget"]["as it is"]["psnr"] == part["scores"]["flow-warp"]["psnr"]
    assert np.isfinite(part["budget"]["true latent"]["psnr"]).all()
    given.batch["known"][1] = False  # then nobody can tell the truth
    part = given.judge()(given.batch)
    for row in part["budget"].values():
        assert np.isfinite(row["psnr"][0]).all() and np.isnan(row["psnr"][1]).all()
    # The true video has only object scores: what the tracker can do.
    iou = np.array(part["scores"]["truth"]["iou_tracked"])
    assert np.nanmean(iou[0]) > 0.6 and "psnr" not in part["scores"]["truth"]
    assert np.isnan(iou[1]).all()


class Stochastic(Predictor):
    """Repeats the last frame, with noise that the key decides about."""

    stochastic = True
    num_context = 6

    def __init__(self):
        pass

    def predict(self, params, context, num_future, rng):
        del params
        noise = jax.random.normal(rng, (len(context), num_future, 32, 32, 3))
        video = jnp.repeat(context[:, -1:], num_future, 1) + 0.1 * noise
        return Prediction(video=jnp.clip(video, 0, 1), aux={})


@pytest.mark.slow
def test_a_stochastic_system_draws_several_futures(smoke_workdir):
    given = Batch(smoke_workdir, num_samples=3)
    given.predictor = VideoPredictor(Stage(Stochastic(), {}), given.predictor.config)
    part = given.judge()(given.batch)
    scores = part["scores"]["flow-warp"]
    assert min(np.subtract(scores["psnr_best_of_3"], scores["psnr_mean_of_3"])) > 0
    assert np.mean(scores["spread_variance"]) == pytest.approx(0.01, rel=0.4)
    assert part["budget"] == {} and "flow_error" not in scores
    assert "iou_tracked" in scores and "iou_carried" not in scores
