"""HDF5 files as RIVER has them: read bit by bit, written alike, hostile ones not."""

import json
import os
import pathlib

import h5py
import numpy as np
import pytest
from tiny_frames import SIZE, make_video, whole_video, write_pictures, write_shard

from jax_vidpred.data import clevrer, h5_files, pipeline
from jax_vidpred.data.builder import fingerprint, prepare
from jax_vidpred.data.schema import LABEL, VIDEO, VIDEO_ID, DataError
from jax_vidpred.data.video_io import read_video

SIZES = {"height": SIZE[0], "width": SIZE[1], "grid_stride": 4}


def test_shards_reach_batches_bit_by_bit(tmp_path):
    videos = [make_video(seed, 5 + seed) for seed in range(5)]
    root = tmp_path / "h5"
    write_shard(root / "train/shard_0001.hdf5", videos[:2])
    write_shard(root / "train/shard_0002.hdf5", videos[2:4])
    write_shard(root / "train/shard_0003.hdf5", [])  # their converter leaves such
    write_shard(root / "val/one.h5", videos[4:])
    sources = prepare(root, tmp_path / "out", **SIZES)
    assert list(sources["train"].video_ids) == [0, 1, 2, 3]
    assert list(sources["validation"].video_ids) == [0]
    assert list(sources["train"].num_frames) == [5, 6, 7, 8]
    for at in range(4):
        np.testing.assert_array_equal(
            whole_video(sources["train"], at, VIDEO), videos[at]
        )
    (batch,) = pipeline.eval_batches(
        sources["train"],
        keys=(VIDEO,),
        batch_size=2,
        clip_frames=3,
        clips=((3, 1), (1, 2)),
        num_threads=0,
    )
    assert list(batch[VIDEO_ID]) == [3, 1]
    np.testing.assert_array_equal(batch[VIDEO][0], videos[3][1:4])
    np.testing.assert_array_equal(batch[VIDEO][1], videos[1][2:5])


def test_what_is_prepared_of_a_file_is_known_by_its_videos_size_and_time(tmp_path):
    path = tmp_path / "test/a.hdf5"
    write_shard(path, [make_video(0), make_video(1)])
    first, second = clevrer.index_files(tmp_path)["test"]
    known = {fingerprint(tmp_path, {"test": [one]}) for one in (first, second, first)}
    assert len(known) == 2
    os.utime(path, (1, 1))
    assert fingerprint(tmp_path, {"test": [first]}) not in known


def test_a_video_of_a_file_is_read_like_any_other(tmp_path):
    video = make_video(1)
    write_shard(tmp_path / "train/a.h5", [make_video(0), video])
    place = tmp_path / "train/a.h5/1"
    np.testing.assert_array_equal(read_video(place), video)
    np.testing.assert_array_equal(read_video(place, max_frames=2), video[:2])
    write_pictures(tmp_path / "same", video)
    np.testing.assert_array_equal(
        read_video(place, size=(7, 9)), read_video(tmp_path / "same", size=(7, 9))
    )


def test_labels_may_be_either(tmp_path):
    video, label = make_video(0), make_video(1)
    write_shard(tmp_path / "train/a.h5", [video])
    write_pictures(tmp_path / "labels/train/00000", label)
    (files,) = clevrer.index_files(tmp_path)["train"]
    arrays = clevrer.read_pictures(files, None)
    np.testing.assert_array_equal(arrays[LABEL], label)
    np.testing.assert_array_equal(arrays[VIDEO], video)


def test_what_is_written_is_as_they_write_it(tmp_path):
    videos = [make_video(seed, 2 + seed, (8, 8)) for seed in range(5)]
    with h5_files.ShardWriter(tmp_path, videos_per_file=2) as writer:
        for video in videos:
            writer.add(video)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["shard_0001.hdf5", "shard_0002.hdf5", "shard_0003.hdf5"]
    for number, name in enumerate(names):
        with h5py.File(tmp_path / name) as file:
            ours = videos[2 * number :][:2]
            assert {*file} == {"len", "videos", *map(str, range(len(ours)))}
            assert len(file["videos"]) == 0 and len(file["len"]) == len(ours)
            file.visititems(lambda _, one: len(one.attrs) and pytest.fail(one.name))
            for key, video in enumerate(ours):
                length = file["len"][str(key)]
                assert length.shape == () and length.dtype == np.int64
                assert length[()] == len(video) == len(file[str(key)])
                for at, frame in enumerate(video):
                    stored = file[str(key)][str(at)]
                    assert stored.dtype == np.uint8 and stored.compression == "lzf"
                    np.testing.assert_array_equal(stored[:], frame)
        # The oldest superblock: whatever version of HDF5 they have can read it.
        assert (tmp_path / name).read_bytes()[:9] == b"\x89HDF\r\n\x1a\n\x00"


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("Can't write data (No space left on device)")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with (
        pytest.raises(DataError, match="cannot be written .*No space left.*free space"),
        h5_files.ShardWriter(tmp_path) as writer,
    ):
        writer.add(make_video(0))


def _replace(file, name, **options):
    del file[name]
    file.create_dataset(name, **options)


def _custom_filter(file):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, 1, 3))
    plan.set_filter(32004, h5py.h5z.FLAG_OPTIONAL)
    del file["0/1"]
    space = h5py.h5s.create_simple((*SIZE, 3))
    h5py.h5d.create(file["0"].id, b"1", h5py.h5t.NATIVE_UINT8, space, plan)


def _virtual(file):
    layout = h5py.VirtualLayout((*SIZE, 3), np.uint8)
    layout[:] = h5py.VirtualSource("../../secret.h5", "0/0", (*SIZE, 3))
    del file["0/1"]
    file.create_virtual_dataset("0/1", layout)


def _external_link(name):
    def spoil(file):
        del file[name]
        file[name] = h5py.ExternalLink("../../secret.h5", f"/{name}")

    return spoil


def _soft_link(file):
    del file["0/1"]
    file["0/1"] = h5py.SoftLink("/0/0")


HUGE = {"shape": (10**6, 10**6, 3), "dtype": np.uint8, "chunks": (8, 8, 3)}
HOSTILE = {
    "external video": (_external_link("0"), "'0' of / is missing, or a link"),
    "external frame": (_external_link("0/1"), "'1' of /0 is missing, or a link"),
    "external length": (_external_link("len/0"), "'0' of /len is missing"),
    "soft link": (_soft_link, "'1' of /0 is missing, or a link"),
    "virtual": (_virtual, "/0/1: data of other files"),
    "raw data elsewhere": (
        lambda file: _replace(
            file,
            "0/1",
            shape=(*SIZE, 3),
            dtype=np.uint8,
            external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)],
        ),
        "/0/1: data of other files",
    ),
    "unknown filter": (_custom_filter, "/0/1: data of .* unknown compression"),
    "huge": (lambda file: _replace(file, "0/1", **HUGE), "frames of 1000000 x 1000000"),
    "empty": (
        lambda file: _replace(file, "0/1", data=np.zeros((0, 4, 3), np.uint8)),
        "frames of 0 x 4 pixels",
    ),
    "floats": (
        lambda file: _replace(file, "0/1", data=np.zeros((*SIZE, 3))),
        "/0/1: float64 .*; wanted uint8",
    ),
    "text": (lambda file: _replace(file, "0/1", data="x"), "wanted uint8"),
    "grey": (
        lambda file: _replace(file, "0/1", data=np.zeros(SIZE, np.uint8)),
        r"uint8 \(16, 24\); wanted uint8 \(h, w, 3\)",
    ),
    "a frame is missing": (lambda file: file.__delitem__("0/1"), "says 6 frames, but"),
    "a gap": (lambda file: file.move("0/1", "0/9"), "'1' of /0 is missing"),
    "group for frame": (
        lambda file: (file.__delitem__("0/1"), file.create_group("0/1")),
        "/0/1: wanted a dataset",
    ),
    "too long": (lambda file: _replace(file, "len/0", data=10**12), "1000000000000"),
    "negative": (lambda file: _replace(file, "len/0", data=-1), "says -1 frames"),
    "length is text": (lambda file: _replace(file, "len/0", data="6"), "one integer"),
    "many lengths": (lambda file: _replace(file, "len/0", data=[6]), "one integer"),
    "no video": (lambda file: file.__delitem__("0"), "'0' of / is missing"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path, name):
    spoil, message = HOSTILE[name]
    write_shard(tmp_path / "secret.h5", [make_video(9)])
    path = tmp_path / "root/train/a.h5"
    write_shard(path, [make_video(0), make_video(1)])
    with h5py.File(path, "a") as file:
        spoil(file)
    bad, good = clevrer.index_files(tmp_path / "root")["train"]
    with pytest.raises(DataError, match=message) as caught:
        read_video(bad.video)
    assert "\n" not in str(caught.value) and "a.h5: no HDF5 file" in str(caught.value)
    np.testing.assert_array_equal(read_video(good.video), make_video(1))


def test_bad_files_among_good_ones_are_skipped_and_counted(tmp_path, capsys):
    train = tmp_path / "root/train"
    for name in "abcdef":
        write_shard(train / f"{name}.h5", [make_video(ord(name))])
    (train / "b.h5").write_bytes((train / "b.h5").read_bytes()[:3000])
    (train / "c.h5").write_text("no HDF5")
    with h5py.File(train / "d.h5", "a") as file:
        del file["len"]
    (train / "e.h5").rename(tmp_path / "e.h5")
    (train / "e.h5").symlink_to(tmp_path / "e.h5")
    source = prepare(tmp_path / "root", tmp_path / "out", **SIZES)["train"]
    assert list(source.video_ids) == [0, 5]
    np.testing.assert_array_equal(whole_video(source, 1, VIDEO), make_video(ord("f")))
    (listing,) = (tmp_path / "out").rglob("skipped.json")
    rows = json.loads(listing.read_text())
    places = [pathlib.Path(row["video"]).relative_to(train) for row in rows]
    assert [str(place) for place in places] == ["b.h5/0", "c.h5/0", "d.h5/0", "e.h5/0"]
    for row, reason in zip(
        rows, ("OSError", "OSError", "'len' of / is missing", "leads out"), strict=True
    ):
        assert reason in row["reason"] and "\n" not in row["reason"]
    assert "Skipped 4 videos" in capsys.readouterr().err


def test_one_kind_a_split(tmp_path):
    write_shard(tmp_path / "train/a.h5", [make_video(0)])
    write_pictures(tmp_path / "train/00000", make_video(0))
    with pytest.raises(DataError, match=r"holds HDF5 files \(a.h5\) and folders"):
        clevrer.index_files(tmp_path)


@pytest.mark.parametrize("damaged", ["train", "labels/train"])
def test_a_damaged_file_does_not_shift_the_labels_of_the_next(tmp_path, damaged):
    for shard, first in (("shard_0001", 0), ("shard_0002", 3)):
        for folder, seed in (("train", 10), ("labels/train", 110)):
            videos = [make_video(seed + first + k) for k in range(3)]
            write_shard(tmp_path / folder / f"{shard}.hdf5", videos)
    path = tmp_path / damaged / "shard_0001.hdf5"
    path.write_bytes(path.read_bytes()[:200])
    pairs = []
    for files in clevrer.index_files(tmp_path)["train"]:
        try:
            pairs.append(clevrer.read_pictures(files, size=None))
        except DataError:
            continue
    second = [pair for pair in pairs if LABEL in pair]
    assert len(second) == 3
    for k, pair in enumerate(second):
        np.testing.assert_array_equal(pair[VIDEO], make_video(13 + k))
        np.testing.assert_array_equal(pair[LABEL], make_video(113 + k))
