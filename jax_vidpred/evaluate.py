"""Command: scores of a trained system beside the baselines, as a table and as JSON.

    python -m jax_vidpred.evaluate --workdir runs/quickstart

Every number of the JSON file is there per clip and per frame as well, with the list of
clips that it stands for. A collision that the system announces counts as found within
+-5 raw frames of a true one; from which probability on it is an announcement is chosen
on clips of the training split, never on the clips that are scored.

What is scored is kept in `evaluation.json.partial` until all is; the same line goes on
from there.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import sys
from typing import Any

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from jax_vidpred import command, experiment
from jax_vidpred.data import builder
from jax_vidpred.data.schema import SPLIT_STARTS, DataError
from jax_vidpred.data.video_io import write_whole
from jax_vidpred.journal import Journal, fingerprint
from jax_vidpred.judge import (
    CLIPS,
    TOLERANCE,
    Judge,
    ReconstructionJudge,
    Report,
    Settings,
    score_source,
    training_events,
)
from jax_vidpred.metrics import collision, suite
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.report.table import print_table


def run(
    workdir: str | os.PathLike,
    *,
    split: str = "validation",
    data: str | os.PathLike | None = None,
    on_progress: Report = lambda *_: None,
    partial: str | os.PathLike | None = None,
    **asked: Any,
) -> dict[str, Any]:
    """Everything that the JSON file holds, except for how it was made.

    Args:
      workdir: of a training run.
      split: which videos.
      data: another folder of CLEVRER files than the one that was trained on.
      on_progress: called with what is being done, clips done, and clips in all.
      partial: file that keeps what is scored until all is, to go on from there.
      **asked: of `Settings`; what is None or left out is as in training.

    Raises:
      ExperimentError, CheckpointError, DataError, ValueError: it cannot be done.
    """
    folder = command.data_folder(workdir)
    config = experiment.read_record(workdir)["config"]
    stage = experiment.load(workdir)
    predicts = hasattr(stage.system, "predict")
    settings = _settings(config, stage.system if predicts else None, asked)
    section = {**config["data"], "frame_stride": settings.stride}
    # Only where it is needed: what is missing of it would be simulated.
    own = functools.cache(lambda: experiment.prepare_data(section, folder))
    if data is None:
        scored = own()
    else:
        scored = builder.prepare(
            data,
            folder / "prepared",
            height=section["height"],
            width=section["width"],
            grid_stride=section["grid_stride"],
            frame_stride=section["frame_stride"],
        )
    if split not in scored:
        raise DataError(
            f"{data or 'the data of the work directory'} has no split {split!r}; it has"
            f" {', '.join(scored)}: give --split or --data"
        )
    source = scored[split]
    videos = source.video_ids, source.num_frames, source.annotated
    made_from = {
        "settings": dataclasses.asdict(settings),
        "data": [split, str(data), fingerprint(videos)],
        "model": fingerprint(dict(stage.params)),
    }
    journal = Journal(partial, made_from)
    if not predicts:
        judge = ReconstructionJudge(stage)
        result, _ = score_source(source, judge, settings, journal, on_progress)
    else:
        predictor = VideoPredictor(stage, config)
        judge = Judge(predictor, settings)
        result, events = score_source(source, judge, settings, journal, on_progress)
        if any(events.values()):
            chosen_on = training_events(
                predictor, own()["train"], settings, journal, on_progress
            )
            first = (settings.num_context - 1) * settings.stride
            begins = {"whole_clip": 0, "horizon": first}
            result["collisions"] = {
                "tolerance": TOLERANCE,
                "threshold_chosen_on": f"{len(chosen_on)} clips of the training split",
                "raw_frames_from": begins,
                "systems": {
                    name: collision.part_scores(
                        clips, chosen_on, begins=begins, tolerance=TOLERANCE
                    )
                    for name, clips in events.items()
                },
            }
            for name, parts in result["collisions"]["systems"].items():
                mean = result["systems"][name]["mean"]
                mean["collision_f1"] = parts["whole_clip"]["f1"]
    gains = _gains(result)
    return {
        "settings": {
            "workdir": str(workdir),
            "split": split,
            "data": str(data) if data else "of the work directory",
            **dataclasses.asdict(settings),
            "ssim": suite.SSIM_PRESET,
        },
        **({"test_time_training": gains} if gains else {}),
        **result,
    }


def _settings(config, system, asked) -> Settings:
    evaluation, data = config["eval"], config["data"]
    num_context = system.num_context if system else 0
    defaults = {
        "num_context": num_context,
        "num_future": evaluation["clip_frames"] - num_context,
        "stride": data["clip_stride"] if system else data["frame_stride"],
        "clips": "spread",
        "clips_per_video": evaluation["clips_per_video"],
        "max_videos": None,
        "ttt": None,
        "batch_size": evaluation["batch_size"],
    }
    given = {name: value for name, value in asked.items() if value is not None}
    settings = Settings(**{**defaults, **given})
    if system and settings.num_context < 2:
        raise ValueError(
            f"--num_context {settings.num_context}; wanted at least 2: one frame shows"
            " no motion"
        )
    for name in ("num_future", "stride", "clips_per_video", "max_videos", "batch_size"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}; wanted at least 1")
    return settings


def _gains(result: dict[str, Any]) -> dict[str, float]:
    """What test-time training gains in PSNR, over clips; empty where it was not on."""
    for scores in result["systems"].values():
        if "ttt_gain" in scores["per_clip"]:
            gain = np.array(scores["per_clip"]["ttt_gain"])
            return {
                "mean": float(gain.mean()),
                "share_improved": float((gain > 0).mean()),
                "worst": float(gain.min()),
                "best": float(gain.max()),
                "share_kept": float(scores["mean"].pop("ttt_kept")),
            }
    return {}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.evaluate",
        description="Score a trained system beside the baselines.",
    )
    add = parser.add_argument
    add("--workdir", required=True, help="of a training run")
    add("--split", default="validation", choices=list(SPLIT_STARTS))
    add("--data", help="another folder of CLEVRER files to score on")
    add("--num_context", type=int, help="frames given (as in training)")
    add("--num_future", type=int, help="frames to predict (as evaluated in training)")
    add("--stride", type=int, help="raw frames from one to the next (as in training)")
    add("--clips", choices=CLIPS, help="without_entries: where no object enters late")
    add("--clips_per_video", type=int, help="spread over each video (as in training)")
    add("--max_videos", type=int, help="spread over the split (all)")
    add("--ttt_steps", type=int, default=0, help="of test-time training (0 = none)")
    add("--ttt_mode", default="offline", choices=["offline", "online"])
    add("--ttt_learning_rate", type=float, default=1e-4)
    add("--out", help="JSON file (WORKDIR/evaluation.json)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    return command.run("evaluate", lambda: _main(options, arguments))


def _main(options: argparse.Namespace, arguments: list[str]) -> int:
    ttt = None
    if options.ttt_steps:
        ttt = {
            "num_steps": options.ttt_steps,
            "mode": options.ttt_mode,
            "learning_rate": options.ttt_learning_rate,
        }
    out = pathlib.Path(options.out or pathlib.Path(options.workdir) / "evaluation.json")
    partial = out.with_name(f"{out.name}.partial")
    with command.progress() as show:
        result = run(
            options.workdir,
            split=options.split,
            data=options.data,
            on_progress=show,
            partial=partial,
            num_context=options.num_context,
            num_future=options.num_future,
            stride=options.stride,
            clips=options.clips,
            clips_per_video=options.clips_per_video,
            max_videos=options.max_videos,
            ttt=ttt,
        )
    made = command.provenance("jax_vidpred.evaluate", arguments)
    write_whole(
        out, json.dumps(command.without_nan({**made, **result}), indent=1).encode()
    )
    partial.unlink(missing_ok=True)
    _print(result, out)
    return 0


def _print(result: dict[str, Any], out: pathlib.Path) -> None:
    settings = result["settings"]
    frames = f"{settings['num_future']} frames"
    if settings["num_context"]:
        frames = f"{settings['num_context']} -> {frames}"
    print_table(
        {name: scores["mean"] for name, scores in result["systems"].items()},
        title=f"{settings['split']}: {len(result['clips'])} clips, {frames}, stride"
        f" {settings['stride']}",
    )
    collisions = result.get("collisions", {})
    for name, parts in collisions.get("systems", {}).items():
        for part, found in parts.items():
            words = f"{name}, collisions of the {part.replace('_', ' ')}: "
            if found["true"]:
                words += (
                    f"F1 {found['f1']:.2f}, precision {found['precision']:.2f}, recall"
                    f" {found['recall']:.2f} of {found['true']} within"
                    f" +-{TOLERANCE} frames; average precision"
                    f" {found['average_precision']:.2f}"
                )
            print(words if found["true"] else words + "there are none")
    gains = result.get("test_time_training")
    if gains:
        print(
            f"test-time training: {gains['mean']:+.2f} dB on average, better on"
            f" {gains['share_improved']:.0%} of the clips, worst {gains['worst']:+.2f}"
            f" dB, best {gains['best']:+.2f} dB"
        )
    print(f"Written: {out}")


if __name__ == "__main__":
    sys.exit(main())
