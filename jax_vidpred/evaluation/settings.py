"""What an evaluation is asked for: a protocol by name, or each number by itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax_vidpred.metrics.frame import DEFAULT_SSIM, SSIM_PRESETS
from jax_vidpred.metrics.protocol import PROTOCOLS, RANDOM, RULES, SPREAD

CUSTOM = "custom"  # no protocol: the system's own numbers, or those that are given
# What a protocol decides; nobody else may.
_FIXED = ("num_context", "num_future", "stride", "clips", "ssim")
_POSITIVE = ("num_future", "stride", "clips_per_video", "max_videos", "num_samples")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked of the system.

    Attributes:
      protocol: a key of `metrics.protocol.PROTOCOLS`, or CUSTOM.
      height, width: of the frames on which is scored, in pixels.
      num_context, num_future: frames; 0 and the length of a clip for a VAE.
      stride: raw frames from one frame of a clip to the next.
      clips: rule that picks the clips of a video, one of `metrics.protocol.RULES`.
      clips_per_video: for the rules "spread" and "random".
      max_videos: videos, spread evenly over the split; None = all.
      left_out: ids of videos that do not take part.
      ssim: preset of `metrics.frame.SSIM_PRESETS`.
      ttt: arguments of `systems.ttt.adapt`, once for each way that is tried.
      num_samples: futures that a stochastic system draws of each clip.
      seed: of random clips and of what a system draws.
      batch_size: clips that go through the system together; changes no number of a
        system that does not draw.
    """

    protocol: str
    height: int
    width: int
    num_context: int
    num_future: int
    stride: int
    clips: str
    clips_per_video: int
    max_videos: int | None
    left_out: tuple[int, ...]
    ssim: str
    ttt: tuple[Mapping[str, Any], ...]
    num_samples: int
    seed: int
    batch_size: int

    @property
    def clip_frames(self) -> int:
        return self.num_context + self.num_future


def settings_for(
    config: Mapping[str, Any],
    num_context: int | None,
    asked: Mapping[str, Any],
    min_context: int = 2,
) -> Settings:
    """The settings of an evaluation.

    Args:
      config: of the trained system.
      num_context: that it was trained with; None for a system that does not predict.
      asked: of `Settings`; None or absent is as the protocol says, or as in training.
      min_context: frames that the system wants at least.

    Raises:
      ValueError: an unknown protocol or rule, a number that the protocol fixes, or one
        that cannot be used.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    predicts, name = num_context is not None, given.get("protocol", CUSTOM)
    data, evaluation = config["data"], config["eval"]
    first = num_context or 0
    defaults = {
        "protocol": CUSTOM,
        "height": data["height"],
        "width": data["width"],
        "num_context": first,
        "num_future": evaluation["clip_frames"] - first,
        "stride": data["clip_stride"] if predicts else data["frame_stride"],
        "clips": SPREAD,
        "clips_per_video": evaluation["clips_per_video"],
        "max_videos": None,
        "left_out": (),
        "ssim": DEFAULT_SSIM,
        "ttt": (),
        "num_samples": 8,
        "seed": 0,
        "batch_size": evaluation["batch_size"],
    }
    if not predicts and (
        {"num_context", "num_samples"} & set(given) or given.get("ttt")
    ):
        raise ValueError(
            "--num_context, --ttt_steps and --num_samples are for systems that predict;"
            " the work directory holds a VAE: leave them out"
        )
    if name != CUSTOM:
        defaults |= _of_protocol(name, predicts, given)
    settings = Settings(**{**defaults, **given})
    if predicts and settings.num_context < min_context:
        raise ValueError(
            f"--num_context {settings.num_context}; wanted at least {min_context}: one"
            " frame shows no motion"
        )
    for name in _POSITIVE:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}; wanted at least 1")
    if settings.num_samples < 2:
        raise ValueError(
            f"--num_samples {settings.num_samples}; wanted at least 2: one shows no"
            " spread"
        )
    if settings.clips not in RULES:
        raise ValueError(f"clips={settings.clips!r}; wanted one of {list(RULES)}")
    if settings.ssim not in SSIM_PRESETS:
        raise ValueError(f"ssim={settings.ssim!r}; wanted one of {list(SSIM_PRESETS)}")
    if settings.clips not in (SPREAD, RANDOM) and "clips_per_video" in given:
        raise ValueError(
            f"--clips_per_video with the clips {settings.clips!r}, which has one clip a"
            " video; leave it out"
        )
    return settings


def _of_protocol(name: str, predicts: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    if name not in PROTOCOLS:
        raise ValueError(f"--protocol {name}; wanted one of {', '.join(PROTOCOLS)}")
    if not predicts:
        raise ValueError(
            f"--protocol {name} is for systems that predict; the work directory holds a"
            " VAE: leave it out"
        )
    for key in _FIXED:
        if key in given:
            raise ValueError(
                f"--{key} {given[key]} with --protocol {name}, which fixes it; leave"
                " one of them out"
            )
    return dataclasses.asdict(PROTOCOLS[name])
