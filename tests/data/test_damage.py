"""Prepared data that get damaged: training goes on, evaluation leaves out or stops."""

import itertools
import os
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
from tiny_clevrer import IDS, NUM_FRAMES

from jax_vidpred.data import pipeline
from jax_vidpred.data.builder import prepare
from jax_vidpred.data.schema import (
    MASK,
    PRESENT,
    START,
    STATE,
    VIDEO,
    VIDEO_ID,
    DataError,
)
from jax_vidpred.data.skips import Skips
from jax_vidpred.data.source import (
    FRAMES_PER_RECORD,
    DamagedError,
    record_payloads,
)
from jax_vidpred.evaluation import clips as scored

SIZES = {"height": 16, "width": 24, "grid_stride": 4}
SETTINGS = {"keys": (VIDEO, STATE), "batch_size": 8, "clip_frames": 5}
RECORDS = -(-NUM_FRAMES // FRAMES_PER_RECORD)  # of a video
BAD, INDEX = 5, IDS["train"].index(5)  # the video that is damaged
STEPS = 12


@pytest.fixture
def opened(prepared, data_root, tmp_path):
    """Opens the training videos of a copy that a test may spoil."""
    shutil.copytree(pathlib.Path(prepared["train"].folder).parents[1], tmp_path / "out")
    return lambda: prepare(data_root, tmp_path / "out", **SIZES)["train"]


def shard_of(source) -> pathlib.Path:
    (path,) = pathlib.Path(source.folder).rglob("*-train.array_record*")
    return path


def place_of(source, index: int, record: int) -> int:
    """Byte of the file where the frames of a record are."""
    payload = record_payloads(source.records[index * RECORDS + record])[b"video"]
    at = shard_of(source).read_bytes().find(bytes(payload[:300]))
    assert at > 0
    return at


def flip_a_bit(source, record: int) -> None:
    """In the middle of a record of the BAD video."""
    data = bytearray(shard_of(source).read_bytes())
    data[place_of(source, INDEX, record) + 100] ^= 4
    shard_of(source).write_bytes(data)


def replace_records(source, replace) -> None:
    """Puts other bytes in the place of some records."""
    records = [replace(i, record) for i, record in enumerate(source.records)]
    object.__setattr__(source, "records", records)


def batches(source, steps: int = STEPS, **options) -> list[dict]:
    made = pipeline.train_batches(source, **SETTINGS | options)
    return list(itertools.islice(iter(made), steps))


def assert_another_takes_the_row(good: list[dict], bad: list[dict]) -> int:
    """All rows are the same but those that need what is damaged; returns how many."""
    changed = 0
    for one, other in zip(good, bad, strict=True):
        same = (one[VIDEO_ID] == other[VIDEO_ID]) & (one[START] == other[START])
        changed += (~same).sum()
        assert (one[VIDEO_ID][~same] == BAD).all() and other[MASK].all()
        for key in SETTINGS["keys"]:
            np.testing.assert_array_equal(one[key][same], other[key][same])
    return changed


@pytest.mark.parametrize("num_threads", [0, 2])
def test_another_clip_takes_the_row_of_a_damaged_one(
    prepared, opened, capfd, num_threads
):
    good = batches(prepared["train"], num_threads=num_threads)
    flip_a_bit(opened(), record=1)
    source, counter = opened(), Skips()
    bad = batches(source, num_threads=num_threads, prefetch_batches=0, skips=counter)
    changed = assert_another_takes_the_row(good, bad)
    needs = [
        number == BAD and start // 4 <= 1 <= (start + 4) // 4
        for batch in bad
        for number, start in zip(batch[VIDEO_ID], batch[START], strict=True)
    ]
    assert not any(needs) and 0 < changed <= counter.count
    printed = capfd.readouterr().err
    assert printed.count("skipped") == 1
    assert re.search(
        rf"skipped: video {BAD} of split 'train' cannot be read \(RuntimeError: .*"
        rf"hash mismatch.*\); delete {re.escape(source.folder)}, it will be made again",
        printed,
    )
    # The same again, and the same from a step in the middle on.
    again = batches(source)
    rest = batches(source, STEPS - 7, first_step=7)
    for whole, part in zip(bad + bad[7:], again + rest, strict=True):
        assert all(np.array_equal(whole[key], part[key]) for key in whole)


def test_processes_replace_the_same_rows(opened):
    flip_a_bit(opened(), record=2)
    source = opened()
    whole = batches(source)
    parts = [batches(source, process_index=i, process_count=2) for i in (0, 1)]
    for step, batch in enumerate(whole):
        for key in batch:
            joined = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(joined, batch[key])


def test_a_file_that_is_cut_off_while_it_is_read(prepared, opened):
    good = batches(prepared["train"])
    source, counter = opened(), Skips()
    last = len(source) - 1
    # ArrayRecord gives empty records then, and no error.
    os.truncate(shard_of(source), place_of(source, last, 2))
    bad = batches(source, skips=counter)
    assert counter.count > 0
    for one, other in zip(good, bad, strict=True):
        gone = (one[VIDEO_ID] == 1000) & (one[START] + 4 >= 2 * FRAMES_PER_RECORD)
        assert (other[VIDEO_ID][~gone] == one[VIDEO_ID][~gone]).all()
        np.testing.assert_array_equal(one[VIDEO][~gone], other[VIDEO][~gone])
    # The next start finds that, and makes all again.
    assert assert_another_takes_the_row(good, batches(opened())) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda record, other: b"",
        lambda record, other: record[:1000],
        lambda record, other: bytes(len(record)),
        lambda record, other: b"\xff" * len(record),
        lambda record, other: record.replace(b"video\x12", b"v1deo\x12"),
        lambda record, other: other,
    ],
    ids=["empty", "cut off", "zeros", "ones", "a key is missing", "another record"],
)
def test_records_that_read_but_are_not_what_they_should_be(prepared, opened, change):
    source, counter = opened(), Skips()
    bad = range(INDEX * RECORDS, (INDEX + 1) * RECORDS)
    other = bytes(source.records[0])
    replace_records(source, lambda i, r: change(r, other) if i in bad else r)
    good = batches(prepared["train"])
    assert assert_another_takes_the_row(good, batches(source, skips=counter)) > 0
    with pytest.raises(DamagedError, match=f"video {BAD} of split 'train' cannot be"):
        source.read(INDEX, 0, 1, {VIDEO: np.zeros((5, 16, 24, 3), np.uint8)})


@pytest.mark.parametrize("num_threads", [0, 2])
def test_when_nothing_can_be_read_it_ends(opened, num_threads):
    source = opened()
    replace_records(source, lambda i, r: b"")
    with pytest.raises(
        DataError, match="5[1-9] of the last 5[1-9] clips cannot be read; vid"
    ):
        batches(source, num_threads=num_threads)
    # And when that happens after a long time.
    source, counter = opened(), Skips()
    for _ in range(10**4):
        counter.note_read()
    replace_records(source, lambda i, r: b"")
    with pytest.raises(DataError, match="5[1-9] of the last 100 clips cannot be read"):
        batches(source, num_threads=num_threads, skips=counter)
    assert counter.count < 51 + 8  # other threads may be at work


def test_evaluation_leaves_a_damaged_clip_out(prepared, opened, capfd):
    options = SETTINGS | {"batch_size": 3}
    clips = pipeline.fixed_clips(
        prepared["train"], keys=options["keys"], clip_frames=5, clips_per_video=2
    )
    good = list(pipeline.eval_batches(prepared["train"], **options, clips=clips))
    flip_a_bit(opened(), record=1)
    counter = Skips()
    made = pipeline.eval_batches(opened(), **options, clips=clips, skips=counter)
    bad = list(made)
    assert len(bad) == len(good) and counter.count == 1
    for one, other in zip(good, bad, strict=True):
        lost = one[MASK] & ~other[MASK]
        assert (one[VIDEO_ID][lost] == BAD).all() and (one[START][lost] == 0).all()
        for key in one:
            np.testing.assert_array_equal(one[key][~lost], other[key][~lost])
            assert not other[key][lost].any()
    list(made)
    assert counter.count == 2
    assert capfd.readouterr().err.count(f"skipped: video {BAD}") == 1


def test_scores_are_never_about_fewer_clips(opened):
    flip_a_bit(opened(), record=1)
    source = opened()
    settings = types.SimpleNamespace(
        clip_frames=5,
        stride=1,
        batch_size=3,
        left_out=(),
        clips="without_entries",
        max_videos=None,
        num_context=2,
    )
    reads = [read for _, read in scored.batches(source, [(0, 0), (INDEX, 0)], settings)]
    with pytest.raises(DataError, match=rf"^video {BAD} of split .* made again$"):
        reads[0]()
    with pytest.raises(DataError, match=rf"^video {BAD} of split"):
        scored.fixed_clips(source, settings)


def test_the_clips_of_a_batch_that_is_scored(prepared):
    settings = types.SimpleNamespace(clip_frames=5, stride=1, batch_size=3)
    clips = [(0, 3), (2, 1), (4, 0), (1, 2)]  # 2 has no annotation
    one, two = [
        (done, read())
        for done, read in scored.batches(prepared["train"], clips, settings)
    ]
    assert (one[0], two[0]) == (0, 3)
    assert list(one[1]["known"]) == [True, False, True]
    assert list(two[1]["known"]) == [True, False, False] == list(two[1][MASK])
    assert list(one[1][START]) == [3, 1, 0] and one[1][PRESENT][[0, 2]].any()
