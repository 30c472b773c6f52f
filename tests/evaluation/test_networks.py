"""Frozen networks that judge: absent ones are named, those that are there are used."""

import jax
import numpy as np
import pytest

from jax_vidpred.evaluation import networks, perceptual
from jax_vidpred.features import lpips
from jax_vidpred.features.weights import FOLDER_VARIABLE, WeightsError, to_safetensors

CONTEXT, FUTURE, SIZE = 2, 3, 32


def test_what_is_absent_is_named_with_its_file(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    loaded = networks.load_networks()
    assert not (loaded.distances or loaded.embeddings or loaded.videos)
    assert loaded.absent["lpips_vgg"].startswith("needs vgg16-397923af.pth")
    assert set(loaded.absent) == {
        *("lpips_alex", "lpips_vgg", "vbench_subject", "vbench_background"),
        *("vbench_smoothness", "fvd"),
    }
    video = np.zeros((1, CONTEXT + FUTURE, SIZE, SIZE, 3), np.uint8)
    scores = {"system": {}}
    assert perceptual.add_scores(scores, {}, video, CONTEXT, loaded) == {}
    assert scores == {"system": {}}  # never a number


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """LPIPS with AlexNet, untrained."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.abs(rng.normal(0, 0.05, leaf.shape)).astype("f4"),
        lpips._like("alex"),
    )
    network = next(one for one in lpips.NETWORKS if one.name == "lpips_alex")
    path = tmp_path / "lpips_alex.safetensors"
    path.write_bytes(to_safetensors(network, params))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_lpips_is_scored_where_its_weights_are(folder):
    loaded = networks.load_networks()
    assert list(loaded.distances) == ["lpips_alex"]
    assert (
        "lpips_alex" not in loaded.absent and len(loaded.variants["lpips_alex"]) == 16
    )
    rng = np.random.default_rng(1)
    video = rng.integers(0, 256, (1, CONTEXT + FUTURE, SIZE, SIZE, 3), np.uint8)
    truth = video[:, CONTEXT:] / np.float32(255)
    frozen = np.repeat(video[:, CONTEXT - 1 : CONTEXT] / np.float32(255), FUTURE, 1)
    scores = {"perfect": {}, "frozen": {}}
    perceptual.add_scores(
        scores, {"perfect": truth, "frozen": frozen}, video, CONTEXT, loaded
    )
    assert np.abs(scores["perfect"]["lpips_alex"]).max() < 1e-6
    assert np.asarray(scores["frozen"]["lpips_alex"]).min() > 1e-3
    assert np.abs(scores["perfect"]["tlpips_x100_alex"]).max() < 1e-4
    # A frozen video changes by nothing; the error is the change of the true one.
    changes = loaded.distances["lpips_alex"](truth[0, :-1], truth[0, 1:])
    np.testing.assert_allclose(
        scores["frozen"]["tlpips_x100_alex"][0, 1:], 100 * changes, rtol=1e-4
    )


def test_a_file_that_is_damaged_is_no_absent_one(folder):
    (folder / "lpips_alex.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="lpips_alex"):
        networks.load_networks()


def test_the_windows_of_i3d_end_with_the_clip():
    """20 -> 12 frames: one window, all predictions in it; none of context alone."""
    seen = []

    def network(video):
        seen.append(np.asarray(video))
        return np.zeros((len(video), 2), "f4")

    loaded = networks.Networks({}, {}, {"i3d": network}, {}, {})
    video = np.zeros((1, 32, 16, 16, 3), np.uint8)
    video[:, 20:] = 255
    black = {"system": np.zeros((1, 12, 16, 16, 3), "f4")}
    features = perceptual.add_scores({"system": {}}, black, video, 20, loaded)
    assert features["truth"]["i3d"].shape == (1, 1, 2)
    assert features["system"]["i3d"].shape == (1, 1, 2)
    bright = seen[0][0].mean((1, 2, 3)) > 0
    assert bright.tolist() == [False] * 4 + [True] * 12
    short = perceptual.add_scores({}, {}, video[:, :10], 6, loaded)
    assert short == {}
