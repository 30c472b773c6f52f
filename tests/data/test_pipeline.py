"""Batches: right frames, one global order for any number of processes, exact resume."""

import itertools
import multiprocessing

import numpy as np
import pytest
from tiny_clevrer import NUM_FRAMES, frame_values

from jax_vidpred.data import pipeline, schema
from jax_vidpred.data.builder import prepare
from jax_vidpred.data.schema import (
    COLLISION,
    FLOW,
    MASK,
    PAIRS,
    PRESENT,
    SEGMENTS,
    START,
    STATE,
    VIDEO,
    VIDEO_ID,
    VISIBLE,
    DataError,
)

EVERYTHING = (VIDEO, FLOW, VISIBLE, SEGMENTS, STATE, PRESENT, COLLISION, PAIRS)
SETTINGS = {"keys": (VIDEO,), "batch_size": 4, "clip_frames": 5}


def first(batches, count: int) -> list[dict]:
    return list(itertools.islice(iter(batches), count))


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def whole_video(source, index: int, keys) -> dict:
    into = source.empty(keys, 1, NUM_FRAMES)
    into = {key: array[0] for key, array in into.items()}
    source.read(index, 0, 1, into)
    return into


def test_shapes_and_types_are_those_of_the_schema(prepared):
    batches = pipeline.train_batches(
        prepared["train"], keys=EVERYTHING, batch_size=3, clip_frames=5
    )
    (batch,) = first(batches, 1)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        VIDEO: ((3, 5, 16, 24, 3), "uint8"),
        FLOW: ((3, 4, 4, 6, 2), "float32"),
        VISIBLE: ((3, 4, 4, 6, 1), "float32"),
        SEGMENTS: ((3, 5, 16, 24), "uint8"),
        STATE: ((3, 5, 6, 4), "float32"),
        PRESENT: ((3, 5, 6), "bool"),
        COLLISION: ((3, 4), "float32"),
        PAIRS: ((3, 4, 6, 6), "bool"),
        MASK: ((3,), "bool"),
        VIDEO_ID: ((3,), "int32"),
        START: ((3,), "int32"),
    }
    assert batch[MASK].all()


def test_only_the_keys_asked_for(prepared):
    batches = pipeline.train_batches(prepared["train"], **SETTINGS)
    (batch,) = first(batches, 1)
    assert set(batch) == {VIDEO, MASK, VIDEO_ID, START}


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_clips_show_the_frames_that_they_name(prepared, stride):
    source = prepared["train"]
    batches = pipeline.train_batches(
        source, keys=(VIDEO, STATE), batch_size=8, clip_frames=4, frame_stride=stride
    )
    for batch in first(batches, 4):
        for row in range(8):
            number, start = batch[VIDEO_ID][row], batch[START][row]
            frames = start + stride * np.arange(4)
            index = list(source.video_ids).index(number)
            for key, rows in whole_video(source, index, (VIDEO, STATE)).items():
                np.testing.assert_array_equal(batch[key][row], rows[frames])
            # The colours, written by the test itself, say which frames these are.
            colour = batch[VIDEO][row].mean(axis=(1, 2))
            assert np.abs(colour - frame_values(number)[frames]).max() < 3


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_steps_belong_to_their_frames(data_root, tmp_path, stride):
    source = prepare(
        data_root, tmp_path, height=16, width=24, grid_stride=4, frame_stride=stride
    )["train"]
    batches = pipeline.train_batches(
        source,
        keys=(FLOW, VISIBLE, COLLISION),
        batch_size=6,
        clip_frames=4,
        frame_stride=stride,
    )
    for batch in first(batches, 4):
        for row in range(6):
            index = list(source.video_ids).index(batch[VIDEO_ID][row])
            start = batch[START][row]
            wanted = whole_video(source, index, (FLOW, VISIBLE))
            steps = start + stride * np.arange(3)
            for key, rows in wanted.items():
                np.testing.assert_array_equal(batch[key][row], rows[steps])
            # Collisions of the tiny videos happen in frames 4, 10, 10 and 21.
            counts = [
                sum(begin <= frame < begin + stride for frame in (4, 10, 10, 21))
                for begin in steps
            ]
            np.testing.assert_array_equal(batch[COLLISION][row], counts)


def test_every_start_comes_up_and_every_video_once_a_round(prepared):
    batches = pipeline.train_batches(prepared["train"], **SETTINGS | {"batch_size": 5})
    seen = first(batches, 300)
    rounds = np.stack([batch[VIDEO_ID] for batch in seen])
    assert all(sorted(numbers) == [0, 1, 2, 5, 1000] for numbers in rounds)
    assert len({tuple(numbers) for numbers in rounds}) > 50  # shuffled anew
    counts = np.bincount(np.concatenate([batch[START] for batch in seen]))
    assert len(counts) == NUM_FRAMES - 5 + 1
    assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()


def test_the_seed_and_only_the_seed_determines_the_batches(prepared):
    def run(**options):
        return first(pipeline.train_batches(prepared["train"], **SETTINGS | options), 3)

    one = run(seed=1)
    assert all(map(equal, one, run(seed=1)))
    assert all(map(equal, one, run(seed=1, num_threads=0, prefetch_batches=0)))
    other = run(seed=2)
    for key in (VIDEO_ID, START):
        assert any(
            not np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True)
        )


@pytest.mark.parametrize("first_step", [0, 3, 10**9])
def test_processes_read_blocks_of_one_global_batch(prepared, first_step):
    def run(process_index, process_count):
        return first(
            pipeline.train_batches(
                prepared["train"],
                **SETTINGS,
                seed=7,
                first_step=first_step,
                process_index=process_index,
                process_count=process_count,
            ),
            5,
        )

    whole = run(0, 1)
    for processes in (2, 4):
        parts = [run(index, processes) for index in range(processes)]
        for step, batch in enumerate(whole):
            joined = {
                key: np.concatenate([part[step][key] for part in parts])
                for key in batch
            }
            assert equal(joined, batch)


def test_a_batch_that_processes_cannot_share(prepared):
    with pytest.raises(DataError, match="batch_size=4 cannot be shared by 3 processes"):
        pipeline.train_batches(prepared["train"], **SETTINGS, process_count=3)


def test_from_any_step_on_come_the_batches_that_would_have_come(prepared):
    whole = first(pipeline.train_batches(prepared["train"], **SETTINGS, seed=3), 7)
    for step in (1, 4):
        rest = pipeline.train_batches(
            prepared["train"], **SETTINGS, seed=3, first_step=step
        )
        assert all(map(equal, whole[step:], first(rest, 7 - step)))


def test_keys_of_annotations_come_from_annotated_videos_only(prepared):
    batches = pipeline.train_batches(prepared["train"], **SETTINGS | {"keys": (STATE,)})
    numbers = np.concatenate([batch[VIDEO_ID] for batch in first(batches, 10)])
    assert set(numbers) == {0, 1, 5, 1000}  # 2 has no annotation


def test_keys_that_cannot_be_given(prepared):
    pipeline.check_keys(prepared["test"], (VIDEO, MASK))
    with pytest.raises(DataError, match="'test' has no annotated video, but flow"):
        pipeline.check_keys(prepared["test"], (VIDEO, FLOW, STATE))
    with pytest.raises(DataError, match="key 'depth' is unknown"):
        pipeline.check_keys(prepared["train"], (VIDEO, "depth"))
    with pytest.raises(DataError, match="no annotated video"):
        pipeline.train_batches(prepared["test"], **SETTINGS | {"keys": (SEGMENTS,)})


def test_clips_that_cannot_be_given(prepared):
    with pytest.raises(DataError, match="has 22 frames; 8 frames at frame_stride=4 w"):
        pipeline.train_batches(
            prepared["train"],
            keys=(VIDEO,),
            batch_size=2,
            clip_frames=8,
            frame_stride=4,
        )
    with pytest.raises(DataError, match="flow were prepared with frame_stride=1"):
        pipeline.train_batches(
            prepared["train"], keys=(FLOW,), batch_size=2, clip_frames=4, frame_stride=2
        )


def test_evaluation_reads_each_clip_once_and_masks_the_rest(prepared):
    source = prepared["train"]
    options = {"keys": (VIDEO, STATE), "clip_frames": 5}
    clips = pipeline.fixed_clips(source, **options, clips_per_video=3)
    assert len(clips) == 12  # 4 annotated videos
    batches = pipeline.eval_batches(source, **options, batch_size=8, clips=clips[:11])
    one, two = batches
    assert one[MASK].all() and list(two[MASK]) == [True] * 3 + [False] * 5
    for key in (VIDEO, STATE, VIDEO_ID, START):
        assert one[key].shape == two[key].shape and not two[key][3:].any()
    given = [
        (number, start)
        for batch in (one, two)
        for number, start, real in zip(
            batch[VIDEO_ID], batch[START], batch[MASK], strict=True
        )
        if real
    ]
    assert given == [(source.video_ids[i], start) for i, start in clips[:11]]
    index, start = clips[10]
    states = whole_video(source, index, (STATE,))[STATE]
    np.testing.assert_array_equal(two[STATE][2], states[start : start + 5])
    assert all(map(equal, batches, (one, two)))  # again from the beginning


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_is_shared_evenly(prepared, processes):
    source = prepared["train"]
    clips = pipeline.fixed_clips(source, keys=(VIDEO,), clip_frames=5)
    options = SETTINGS | {"clips": clips}
    whole = list(pipeline.eval_batches(source, **options))
    parts = [
        list(
            pipeline.eval_batches(
                source, **options, process_index=index, process_count=processes
            )
        )
        for index in range(processes)
    ]
    assert {len(part) for part in parts} == {2}  # 5 clips in batches of 4
    for step, batch in enumerate(whole):
        joined = {
            key: np.concatenate([part[step][key] for part in parts]) for key in batch
        }
        assert equal(joined, batch)


def test_fixed_clips_are_spread_and_fit(prepared):
    source = prepared["train"]

    def clips(**options):
        return pipeline.fixed_clips(source, keys=(VIDEO,), clip_frames=5, **options)

    assert clips() == tuple((i, 0) for i in range(5))
    assert [c for c in clips(clips_per_video=3) if c[0] == 1] == [
        (1, 0),
        (1, 8),
        (1, 17),
    ]
    assert clips(max_videos=2) == ((0, 0), (2, 0))
    assert clips(max_videos=9) == clips()
    assert clips(frame_stride=5, clips_per_video=9)[:3] == ((0, 0), (0, 1), (1, 0))


def test_evaluation_refuses_clips_that_are_not_there(prepared):
    def run(clips, keys=(VIDEO,)):
        options = SETTINGS | {"keys": keys, "clips": clips}
        return pipeline.eval_batches(prepared["train"], **options)

    with pytest.raises(DataError, match="no clips"):
        run([])
    with pytest.raises(DataError, match=r"clip \(index 0, start 18\)"):
        run([(0, 18)])
    with pytest.raises(DataError, match=r"clip \(index 2, start 0\).* state"):
        run([(2, 0)], (STATE,))  # has no annotation


def _numbers_of_a_batch(source):
    return first(pipeline.train_batches(source, **SETTINGS), 1)[0][VIDEO_ID]


def test_sources_can_be_sent_to_other_processes(prepared):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (numbers,) = pool.map(_numbers_of_a_batch, [prepared["train"]])
    np.testing.assert_array_equal(numbers, _numbers_of_a_batch(prepared["train"]))


def test_the_vocabulary_is_complete():
    # LABEL is there where data have labels, LATENT where a first stage encoded them; a
    # step adds ROW.
    sometimes = {schema.LABEL, schema.LATENT, schema.ROW}
    given = {*pipeline.ALWAYS, *EVERYTHING, *sometimes}
    spelt = {
        value
        for name, value in vars(schema).items()
        if name.isupper() and isinstance(value, str)
    }
    assert given == spelt
