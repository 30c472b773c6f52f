"""Video files: exact sizes, true colours, whole or absent, one clear line when bad."""

import errno
import io
import os
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from jax_vidpred.data import video_io
from jax_vidpred.data.schema import DataError


def moving_square(num_frames=12, height=48, width=64):
    """A red square that runs to the right over a grey gradient."""
    ramp = np.linspace(60, 200, height)[None, :, None, None]
    video = np.broadcast_to(ramp, (num_frames, height, width, 3)).astype(np.uint8)
    video = video.copy()
    for t in range(num_frames):
        video[t, 10:26, 4 + 2 * t : 20 + 2 * t] = (200, 40, 60)
    return video


@pytest.fixture(scope="module")
def video():
    return moving_square()


@pytest.fixture(scope="module")
def encoded(video):
    return video_io.encode_mp4(video, crf=4)


def test_mp4_returns_the_frames(tmp_path, video):
    path = tmp_path / "deep" / "a.mp4"
    video_io.write_mp4(path, video, crf=4)
    back = video_io.read_video(path)
    assert back.shape == video.shape and back.dtype == np.uint8
    error = back.astype(float) - video
    assert np.abs(error).mean() < 1.5
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.4  # no shift of brightness
    assert os.listdir(path.parent) == ["a.mp4"]


def test_scaling_is_the_mean_over_areas(tmp_path, video):
    path = tmp_path / "a.mp4"
    video_io.write_mp4(path, video, crf=0)
    whole = video_io.read_video(path).astype(float)
    small = video_io.read_video(path, size=(12, 16))
    mean = whole.reshape(len(video), 12, 4, 16, 4, 3).mean(axis=(2, 4))
    # Chroma is averaged before the conversion, which clips and rounds.
    assert np.abs(small - mean).mean() < 1.0
    assert np.abs((small - mean).mean(axis=(0, 1, 2))).max() < 0.3


def test_max_frames_stops_early(tmp_path, encoded):
    path = tmp_path / "a.mp4"
    path.write_bytes(encoded)
    few, all_frames = video_io.read_video(path, max_frames=5), video_io.read_video(path)
    np.testing.assert_array_equal(few, all_frames[:5])
    assert len(video_io.read_video(path, max_frames=99)) == 12


def test_odd_sizes_are_padded_by_their_edge(tmp_path, video):
    path = tmp_path / "a.mp4"
    video_io.write_mp4(path, video[:, :47, :63], crf=0)
    back = video_io.read_video(path)
    assert back.shape == (12, 48, 64, 3)
    last_rows = back[:, 46:].astype(int)
    assert np.abs(last_rows[:, 1] - last_rows[:, 0]).max() <= 2


def test_bytes_do_not_depend_on_what_memory_held():
    program = (
        "import sys, hashlib, numpy as np; sys.path.insert(0, sys.argv[1]);"
        "from test_video_io import moving_square;"
        "from jax_vidpred.data.video_io import encode_mp4;"
        "video = moving_square(40, 64, 64);"
        "noise = np.random.default_rng(0).integers(0, 30, video.shape, np.uint8);"
        "print(hashlib.sha256(encode_mp4(video + noise)).hexdigest())"
    )
    here = str(pathlib.Path(__file__).parent)
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, here],
            env=os.environ | {"MALLOC_PERTURB_": fill},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for fill in ("7", "200")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("empty", lambda whole: b"", "cannot be decoded"),
        ("text", lambda whole: b"no video " * 500, "cannot be decoded"),
        ("head", lambda whole: whole[: len(whole) // 2], "cannot be decoded"),
        ("tail", lambda whole: whole[len(whole) // 2 :], "cannot be decoded"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, encoded, name, spoil, reason):
    path = tmp_path / f"{name}.mp4"
    path.write_bytes(spoil(encoded))
    with pytest.raises(video_io.VideoError, match=reason) as caught:
        video_io.read_video(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_ends_early_is_truncated(tmp_path, video):
    # With the index in front, as on the web, the first frames of a cut file decode.
    path = tmp_path / "a.mp4"
    options = {"movflags": "faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for picture in video:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(video_io.read_video(path)) == 12
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux() if packet.size]
    whole = path.read_bytes()
    path.write_bytes(whole[: ends[7]])  # after a whole packet: nothing looks damaged
    with pytest.raises(video_io.VideoError, match="truncated, .* of 12 frames can be"):
        video_io.read_video(path)
    path.write_bytes(whole[: ends[7] - 9])
    with pytest.raises(video_io.VideoError, match="a.mp4: (truncated|cannot be deco)"):
        video_io.read_video(path)


def test_missing_and_soundless_inputs(tmp_path):
    with pytest.raises(video_io.VideoError, match="no such file"):
        video_io.read_video(tmp_path / "none.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(video_io.VideoError, match="no frames"):
        video_io.read_video(tmp_path / "folder")


def test_a_folder_of_pictures_is_a_video(tmp_path, video):
    for t, frame in enumerate(video):
        Image.fromarray(frame).save(tmp_path / f"frame_{t:05d}.png")
    np.testing.assert_array_equal(video_io.read_video(tmp_path), video)
    small = video_io.read_video(tmp_path, size=(24, 32), max_frames=3)
    mean = video[:3].reshape(3, 24, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - mean).max() <= 0.5 + 1e-6


def test_gif_shows_the_video(video):
    data = video_io.encode_gif(video, fps=10, scale=2)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info["loop"] == 0 and picture.info["duration"] == 100
        frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(picture)]
    back = np.stack(frames)
    assert back.shape == (12, 96, 128, 3)
    assert np.abs(back[:, ::2, ::2].astype(float) - video).mean() < 4


def test_wrong_arrays_are_refused(video):
    for wrong in (video.astype(np.float32), video[0], video[:0], video[..., :2]):
        with pytest.raises(DataError, match="wanted uint8"):
            video_io.encode_mp4(wrong)


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left on device"):
        video_io.write_whole(tmp_path / "a.bin", b"data")
    assert os.listdir(tmp_path) == []


def test_pictures_of_16_bits_keep_their_shades(tmp_path):
    ramp = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "00000.png")
    (frame,) = video_io.read_video(tmp_path)
    expected = np.repeat(ramp[..., None] / 257, 3, -1)
    np.testing.assert_allclose(frame, expected, atol=0.51)
