"""What an evaluation is asked for: by name, or number by number."""

import pytest

from jax_vidpred.evaluation.settings import settings_for

CONFIG = {
    "data": {"height": 32, "width": 48, "clip_stride": 2, "frame_stride": 2},
    "eval": {"clip_frames": 18, "clips_per_video": 4, "batch_size": 8},
}


def asked(num_context=6, **options):
    return settings_for(CONFIG, num_context, options)


def test_as_in_training_where_nothing_is_asked():
    settings = asked(protocol=None, num_future=None)
    assert (settings.height, settings.width, settings.stride) == (32, 48, 2)
    assert (settings.num_context, settings.num_future) == (6, 12)
    assert settings.protocol == "custom" and settings.clips == "spread"
    assert asked(num_future=42).clip_frames == 48


def test_a_protocol_decides():
    settings = asked(protocol="river", max_videos=5)
    assert (settings.height, settings.width, settings.stride) == (128, 128, 5)
    assert (settings.num_context, settings.num_future) == (2, 14)
    assert (settings.clips, settings.clips_per_video) == ("random", 1)
    assert settings.max_videos == 5 and settings.protocol == "river"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "slotfromer"}, "slotfromer; wanted one of slotformer, river"),
        ({"protocol": "river", "stride": 2}, "--stride 2 with --protocol river"),
        ({"num_context": 1}, "--num_context 1; wanted at least 2"),
        ({"num_future": 0}, "--num_future 0; wanted at least 1"),
        ({"clips": "all"}, "clips='all'; wanted one of"),
        (
            {"protocol": "slotformer", "clips_per_video": 2},
            "--clips_per_video with the clips 'without_entries'",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        asked(**options)
    assert "\n" not in str(error.value)


def test_a_vae_has_no_context_and_no_protocol():
    settings = asked(None)
    assert (settings.num_context, settings.num_future) == (0, 18)
    with pytest.raises(ValueError, match="the work directory holds a VAE"):
        asked(None, protocol="river")
