"""Latents that are encoded once: the right ones, in a file that is whole or absent."""

import numpy as np
import pytest

from jax_vidpred.data import latents, pipeline
from jax_vidpred.data.latents import with_latents
from jax_vidpred.data.schema import LATENT, START, VIDEO, VIDEO_ID, DataError
from jax_vidpred.data.skips import Skips
from jax_vidpred.data.source import DamagedError


@pytest.fixture(scope="module")
def source(smoke_workdir):
    """Three videos of the twin."""
    from configs import sections
    from jax_vidpred.experiment import prepare_data

    data = sections.data("smoke").to_dict()
    return prepare_data(data, smoke_workdir / "requires")["train"]


def encode(frames):
    """Means of 8x8 pixels: a grid of 4x4 with 3 channels."""
    n, h, w, c = frames.shape
    return frames.reshape(n, h // 8, 8, w // 8, 8, c).mean((2, 4)) / 255


def test_latents_of_a_clip_are_those_of_its_frames(source, tmp_path):
    made = with_latents(source, encode, tmp_path, "means")
    batches = iter(
        pipeline.train_batches(
            made, keys=(VIDEO, LATENT), batch_size=2, clip_frames=5, frame_stride=3
        )
    )
    for _ in range(3):
        batch = next(batches)
        assert batch[LATENT].dtype == np.float32
        for video, latent in zip(batch[VIDEO], batch[LATENT], strict=True):
            np.testing.assert_allclose(latent, encode(video), atol=1e-3)


def test_clips_are_the_same_with_and_without_frames(source, tmp_path):
    made = with_latents(source, encode, tmp_path, "means")
    options = dict(batch_size=2, clip_frames=5, frame_stride=2, seed=4)
    with_frames, alone = (
        next(iter(pipeline.train_batches(made, keys=keys, **options)))
        for keys in ((VIDEO,), (LATENT,))
    )
    for key in (VIDEO_ID, START):
        np.testing.assert_array_equal(with_frames[key], alone[key])
    assert VIDEO not in alone


def test_it_is_encoded_once_for_each_name(source, tmp_path):
    calls = []

    def counted(frames):
        calls.append(len(frames))
        return encode(frames)

    first = with_latents(source, counted, tmp_path, "one")
    once = len(calls)
    assert set(calls) == {latents.FRAMES_AT_ONCE}
    again = with_latents(source, counted, tmp_path, "one")
    assert len(calls) == once
    np.testing.assert_array_equal(first.latents, again.latents)
    with_latents(source, counted, tmp_path, "two")
    assert len(calls) == 2 * once
    assert not list(tmp_path.glob("*.part"))


def test_a_file_that_is_not_whole_is_made_again(source, tmp_path):
    with_latents(source, encode, tmp_path, "one")
    (path,) = tmp_path.glob("*.npy")
    good = path.read_bytes()
    for bad in (good[:-100], b"", b"\x93NUMPY damaged"):
        path.write_bytes(bad)
        made = with_latents(source, encode, tmp_path, "one")
        assert path.read_bytes() == good
        assert len(made.latents) == source.num_frames.sum()


def test_a_clip_does_not_reach_into_the_next_video(source, tmp_path):
    made = with_latents(source, encode, tmp_path, "one")
    into = made.empty((LATENT,), 1, 4)
    with pytest.raises(DataError, match="frames 126 to 129 were asked for"):
        made.read(0, 126, 1, {LATENT: into[LATENT][0]})


def test_a_damaged_video_is_skipped_as_without_latents(source, tmp_path, monkeypatch):
    fill = type(source)._fill

    def damaged(self, index, *rest):
        if index == 1:
            raise ValueError("flipped bits")
        fill(self, index, *rest)

    monkeypatch.setattr(type(source), "_fill", damaged)
    made = with_latents(source, encode, tmp_path, "one")
    into = made.empty((LATENT,), 1, 4)[LATENT][0]
    with pytest.raises(
        DamagedError, match="video 1 of split 'train' could not be read"
    ):
        made.read(1, 0, 1, {LATENT: into})
    skips = Skips()
    options = dict(keys=(LATENT,), batch_size=2, clip_frames=5, frame_stride=2)
    batches = iter(pipeline.train_batches(made, **options, skips=skips))
    for _ in range(4):
        batch = next(batches)
        assert np.isfinite(batch[LATENT]).all() and 1 not in batch[VIDEO_ID]
    assert skips.count
