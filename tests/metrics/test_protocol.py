"""Which clips a protocol picks."""

import numpy as np
import pytest

from jax_vidpred.metrics import protocol


def test_the_named_protocols_are_those_of_the_papers():
    slotformer = protocol.PROTOCOLS["slotformer"]
    assert (slotformer.height, slotformer.width, slotformer.stride) == (64, 64, 2)
    assert (slotformer.num_context, slotformer.num_future) == (6, 42)
    assert slotformer.clips == "without_entries"
    river = protocol.PROTOCOLS["river"]
    assert (river.num_context + river.num_future - 1) * river.stride + 1 == 76
    assert {name for name in protocol.PROTOCOLS if not name.startswith("twin-")} == {
        name.removeprefix("twin-")
        for name in protocol.PROTOCOLS
        if name.startswith("twin-")
    }


def test_spread_clips_begin_at_the_first_frame_and_end_with_the_last():
    assert protocol.starts_of("spread", 128, 35, clips_per_video=1) == [0]
    assert protocol.starts_of("spread", 128, 35, clips_per_video=4) == [0, 31, 62, 93]
    assert protocol.starts_of("spread", 36, 35, clips_per_video=4) == [0, 1]
    assert protocol.starts_of("spread", 34, 35) == []


def test_random_clips_are_those_of_the_seed():
    def draw(*seed):
        return protocol.starts_of("random", 128, 76, clips_per_video=5, seed=seed)

    assert draw(0, 10000) == draw(0, 10000)
    assert draw(0, 10000) != draw(1, 10000) != draw(1, 10001)
    assert len(set(draw(0, 7))) == 5 and draw(0, 7) == sorted(draw(0, 7))
    every = protocol.starts_of("random", 128, 76, clips_per_video=99)
    assert every == list(range(53))


def entering(num_frames, *entries):
    """present [t, n] of objects that come into view at these frames."""
    return np.arange(num_frames)[:, None] >= np.array(entries)


def options(num_context=6, stride=2):
    return {"num_context": num_context, "stride": stride}


def test_nothing_enters_after_the_third_last_context_frame():
    """SlotFormer: no entry at t with s + 6 < t <= s + 94."""
    first = protocol.start_without_entries
    assert first(entering(128, 0, 6), 95, **options()) == 0
    assert first(entering(128, 0, 7), 95, **options()) == 1
    assert first(entering(128, 39), 95, **options()) == 33
    assert first(entering(128, 40), 95, **options()) is None
    assert first(entering(128, 95), 95, **options()) == 0
    assert first(entering(128, 94), 95, **options()) is None
    # What leaves and comes back has entered; order of the objects does not matter.
    present = entering(128, 0, 0)
    present[20:60, 1] = False
    assert first(present, 95, **options()) is None
    assert first(present[:, ::-1], 20, **options()) == 0


def test_a_video_shorter_than_a_clip_has_none():
    assert protocol.start_without_entries(entering(90, 0), 95, **options()) is None


def test_the_hash_is_of_exactly_these_clips():
    clips = [(10000, 0), (10001, 4)]
    assert protocol.clips_hash(clips) == protocol.clips_hash(np.array(clips))
    assert protocol.clips_hash(clips) != protocol.clips_hash(clips[::-1])
    # echo -n '[[10000, 0], [10001, 4]]' | sha256sum
    assert protocol.clips_hash(clips).startswith("c9d7cb48dcef24fc")


@pytest.mark.parametrize("rule", protocol.RULES)
def test_every_rule_is_one_of_the_protocols(rule):
    assert any(one.clips == rule for one in protocol.PROTOCOLS.values())
