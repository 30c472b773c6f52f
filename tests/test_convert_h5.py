"""The command that packs videos into RIVER's HDF5 files and unpacks them."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from jax_vidpred import convert_h5
from jax_vidpred.data import h5_files
from jax_vidpred.data.clevrer import index_files
from jax_vidpred.data.twin.dataset import write_dataset
from jax_vidpred.data.video_io import read_video

VIDEOS = {("train", 0): 4, ("train", 1): 6, ("val", 3): 5}  # number of frames


def make_video(split, number, size=(12, 16)):
    rng = np.random.default_rng((len(split), number))
    return rng.integers(0, 256, (VIDEOS[split, number], *size, 3), np.uint8)


def write_pictures(folder, video, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for at, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{at:05d}.{suffix}")


@pytest.fixture
def frames(tmp_path):
    """Frames of three videos, and nothing in `test`."""
    for split, number in VIDEOS:
        folder = tmp_path / f"frames/{split}/{number:05d}"
        write_pictures(folder, make_video(split, number))
    (tmp_path / "frames/test").mkdir()
    return tmp_path / "frames"


@pytest.fixture
def run(capsys):
    """Runs the command in this process; returns exit code, stdout and stderr."""

    def run(data_dir, out_dir, *more):
        line = ["--data_dir", str(data_dir), "--out_dir", str(out_dir), *more]
        code = convert_h5.main([*line, "--workers", "1"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def read_as_river(folder, index):
    """A video by its number in all files of a folder: the rules of its reader."""
    for path in sorted([*folder.glob("*.hdf5"), *folder.glob("*.h5")]):
        with h5py.File(path) as file:
            if index >= len(file["len"]):
                index -= len(file["len"])
                continue
            frames = file[str(index)]
            length = int(file["len"][str(index)][()])
            return np.stack([frames[str(at)][:] for at in range(length)])
    raise IndexError(index)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_frames_there_and_back_bit_by_bit(frames, tmp_path, run):
    code, out, _ = run(frames, tmp_path / "h5", "--extension", "png")
    assert code == 0 and out.startswith("3 videos (train 2, val 1) in ")
    assert names(tmp_path / "h5") == ["convert_h5.json", "train", "val"]
    assert names(tmp_path / "h5/train") == ["shard_0001.hdf5"]
    for split, index, number in (("train", 0, 0), ("train", 1, 1), ("val", 0, 3)):
        stored = read_as_river(tmp_path / "h5" / split, index)
        np.testing.assert_array_equal(stored, make_video(split, number))
    code, _, _ = run(tmp_path / "h5", tmp_path / "back", "--to", "png")
    assert code == 0 and names(tmp_path / "back/train") == ["00000", "00001"]
    for split, number, name in (("train", 1, "00001"), ("val", 3, "00000")):
        folder = tmp_path / "back" / split / name
        assert names(folder)[-1] == f"{VIDEOS[split, number] - 1:05d}.png"
        for at, frame in enumerate(make_video(split, number)):
            with Image.open(folder / f"{at:05d}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture), frame)


@pytest.mark.slow
def test_videos_of_clevrer(tmp_path, run):
    counts = {"train": 1, "validation": 1, "test": 1}
    write_dataset(tmp_path / "twin", counts, 16, 16, seed=1, num_workers=1)
    code, _, _ = run(tmp_path / "twin", tmp_path / "h5", "--image_size", "16")
    assert code == 0
    for split, (files,) in index_files(tmp_path / "twin").items():
        folder = tmp_path / "h5" / {"validation": "val"}.get(split, split)
        video = read_video(files.video)
        assert video.shape == (128, 16, 16, 3)
        np.testing.assert_array_equal(read_as_river(folder, 0), video)


def test_size_and_extension(frames, tmp_path, run):
    for at in range(3):  # previews beside the frames
        Image.new("RGB", (4, 4)).save(frames / f"train/00000/{at:05d}.jpg")
    line = ("--image_size", "8", "--extension", "png")
    assert run(frames, tmp_path / "h5", *line)[0] == 0
    stored = read_as_river(tmp_path / "h5/train", 0)
    write_pictures(tmp_path / "same", make_video("train", 0))
    np.testing.assert_array_equal(stored, read_video(tmp_path / "same", size=(8, 8)))
    code, _, error = run(frames, tmp_path / "other", "--extension", "jpeg")
    assert code == 2 and "none of the 2 videos of split 'train'" in error
    assert names(tmp_path / "other") == []


def test_labels_stay_with_their_videos(frames, tmp_path, run):
    for split, number in VIDEOS:
        label = 255 - make_video(split, number)
        write_pictures(frames / f"labels/{split}/{number:05d}", label)
    (frames / "labels/train/00000/00001.png").write_bytes(b"")
    code, out, error = run(frames, tmp_path / "h5")
    assert code == 0 and "2 videos (train 1, val 1)" in out
    assert "left out 1 videos that cannot be used; the first" in error
    ledger = json.loads((tmp_path / "h5/convert_h5.json").read_text())
    (reason,) = ledger["train"]["skipped"]
    assert "labels/train/00000/00001.png: not a readable picture" in reason
    wanted = make_video("train", 1)
    for folder, video in (("train", wanted), ("labels/train", 255 - wanted)):
        np.testing.assert_array_equal(read_as_river(tmp_path / "h5" / folder, 0), video)
    (files,) = index_files(tmp_path / "h5")["train"]
    np.testing.assert_array_equal(read_video(files.label), 255 - wanted)


def test_a_video_without_labels_among_others(frames, tmp_path, run):
    write_pictures(frames / "labels/train/00001", make_video("train", 1))
    assert "(train 1, val 1)" in run(frames, tmp_path / "h5")[1]
    assert "(train 2, val 1)" in run(frames, tmp_path / "png", "--to", "png")[1]
    train, _ = index_files(tmp_path / "png").values()
    assert [bool(one.label) for one in train] == [False, True]


def test_an_interrupted_run_goes_on(frames, tmp_path, run, monkeypatch):
    write = h5_files.ShardWriter.add

    def interrupted(self, video):
        if len(video) == VIDEOS["val", 3]:
            raise KeyboardInterrupt
        write(self, video)

    with monkeypatch.context() as patch:
        patch.setattr(h5_files.ShardWriter, "add", interrupted)
        code, _, error = run(frames, tmp_path / "h5")
        assert code == 130 and "run the same line again to go on" in error
    assert names(tmp_path / "h5") == ["convert_h5.json", "train"]
    (tmp_path / "h5/.val.part/video").mkdir(parents=True)  # of a killed run
    before = (tmp_path / "h5/train/shard_0001.hdf5").stat().st_mtime_ns
    code, out, _ = run(frames, tmp_path / "h5")
    assert code == 0 and "(1 of 2 splits made now)" in out
    assert names(tmp_path / "h5") == ["convert_h5.json", "train", "val"]
    assert (tmp_path / "h5/train/shard_0001.hdf5").stat().st_mtime_ns == before
    assert "(0 of 2 splits made now)" in run(frames, tmp_path / "h5")[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--image_size", "8"), "h5/train is there already, and was not made of these"),
        (("--to", "png"), "h5/train is there already"),
        (("--image_size", "0"), "--image_size 0: wanted 1 or more"),
    ],
)
def test_what_is_there_is_never_overwritten(frames, tmp_path, run, arguments, message):
    assert run(frames, tmp_path / "h5")[0] == 0
    path = tmp_path / "h5/train/shard_0001.hdf5"
    before = path.read_bytes()
    code, out, error = run(frames, tmp_path / "h5", *arguments)
    assert code == 2 and not out
    assert message in error and len(error.strip().splitlines()) == 1
    assert path.read_bytes() == before


def test_errors_are_one_line(frames, tmp_path, run):
    code, _, error = run(tmp_path / "nowhere", tmp_path / "h5")
    assert code == 2 and error.startswith("convert_h5: ") and "no such folder" in error
    (tmp_path / "other/val").mkdir(parents=True)  # of somebody else
    code, _, error = run(frames, tmp_path / "other")
    assert code == 2 and "other/val is there already" in error
    assert names(tmp_path / "other") == ["val"]  # seen before any work
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/convert_h5.json").write_text('{"train": 5}')
    code, _, error = run(frames, tmp_path / "bad")
    assert code == 2 and "convert_h5.json: damaged (TypeError)" in error
    assert len(error.strip().splitlines()) == 1
