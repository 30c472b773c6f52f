"""Command: scores of a trained system beside the baselines: table, JSON, HTML page.

    python -m jax_vidpred.evaluate --workdir runs/quickstart
    python -m jax_vidpred.evaluate --workdir runs/temporal --protocol twin-slotformer

Frames, objects, collisions and physics are scored against the truth, each beside what
costs nothing and what cannot be reached. The result says exactly what was measured
(`manifest`): `python -m jax_vidpred.compare` puts several beside each other.

A probability from which on a collision counts as announced is chosen on clips of the
training split, never on those that are scored.

What is scored is kept beside the result until all is; the same line goes on from there.
With --shard 0/4 to 3/4 four processes share the work; the last one writes the result.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from jax_vidpred import command, experiment
from jax_vidpred.benchmarking.costs import measure_costs
from jax_vidpred.data.schema import SPLIT_STARTS, DataError
from jax_vidpred.data.source import VideoSource
from jax_vidpred.data.twin.dataset import available_cores
from jax_vidpred.data.video_io import write_whole
from jax_vidpred.evaluation import clips as clip_lists
from jax_vidpred.evaluation import result as results
from jax_vidpred.evaluation.journal import fingerprint
from jax_vidpred.evaluation.judge import Judge, ReconstructionJudge
from jax_vidpred.evaluation.manifest import manifest, sources_hash
from jax_vidpred.evaluation.networks import Networks, load_networks
from jax_vidpred.evaluation.perceptual import FVD_FRAMES
from jax_vidpred.evaluation.settings import Settings, settings_for
from jax_vidpred.evaluation.showcase import shown_clips
from jax_vidpred.evaluation.work import Report, Shard, work_through
from jax_vidpred.metrics.frame import SSIM_PRESETS
from jax_vidpred.metrics.protocol import PROTOCOLS, RULES, WITHOUT_ENTRIES
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.report.evaluation_page import ShownClip, write_evaluation_page
from jax_vidpred.report.summary import markdown_report, print_report

THRESHOLD_CLIPS = 100  # of the training split, about, that a threshold is chosen on
MAX_THREADS = 4  # batches at once, each in memory


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
      result: everything that the JSON file holds, except for how it was made.
      clips: a few predictions to look at.
    """

    result: dict[str, Any]
    clips: Sequence[ShownClip]


def run(
    workdir: str | os.PathLike,
    *,
    split: str = "validation",
    data: str | os.PathLike | None = None,
    on_progress: Report = lambda *_: None,
    shard: Shard = Shard(),  # noqa: B008, it cannot be changed
    partial: pathlib.Path | None = None,
    show: bool = True,
    cost: bool = False,
    **asked: Any,
) -> Evaluation | None:
    """Scores a trained system.

    Args:
      workdir: of a training run.
      split: which videos.
      data: another folder of CLEVRER files than the one that was trained on.
      on_progress: called with what is being done, parts done, and parts in all.
      shard: which share of the work is done here.
      partial: file that keeps what is scored until all is, to go on from there.
      show: whether clips are predicted once more, to be looked at.
      cost: whether a training step and a prediction are timed besides.
      **asked: of `Settings`; what is None or left out is as in training.

    Returns:
      what was measured; None where other processes have not done their share.

    Raises:
      ExperimentError, CheckpointError, DataError, WeightsError, ValueError: it cannot
        be done.
    """
    folder = command.data_folder(workdir)
    config = experiment.read_record(workdir)["config"]
    stage = experiment.load(workdir)
    predicts = hasattr(stage.system, "predict")
    if not predicts and not hasattr(stage.system, "decode"):
        name = config["system"]["name"]
        raise ValueError(
            f"{workdir} holds a {name} without a predictor, which neither predicts nor"
            " reconstructs videos: its evaluations while training say how good it is"
        )
    num_context = stage.system.num_context if predicts else None
    min_context = stage.system.min_context if predicts else 0
    settings = settings_for(config, num_context, asked, min_context)
    section = config["data"]
    named = None if data is None else os.fspath(data)
    clip_lists.check_data(settings, section, named)
    source = clip_lists.source_of(settings, section, folder, data=named, split=split)
    clips = clip_lists.fixed_clips(source, settings)
    listed = [(int(source.video_ids[index]), start) for index, start in clips]
    networks = load_networks()
    parameters = fingerprint(dict(stage.params))
    if predicts:
        predictor = VideoPredictor(stage, config)
        judge = Judge(predictor, settings, networks)
    else:
        judge = ReconstructionJudge(stage, settings, networks)
    label_keys = getattr(stage.system, "label_keys", ())
    parts = _parts(_SCORED, judge, source, settings, label_keys)
    training: VideoSource | None = None
    without_threshold = ""
    if predicts and source.annotated[[index for index, _ in clips]].any():
        try:
            training = clip_lists.source_of(
                settings,
                section,
                folder,
                data=None,
                split="train",
                max_videos=THRESHOLD_CLIPS,
            )
            fewer = _for_thresholds(settings)
            parts |= _parts(_TRAINING, judge.events, training, fewer, label_keys)
        except DataError as error:
            without_threshold = f"needs training clips: {error}"
    done = work_through(
        f"scoring {split}",
        parts,
        shard=shard,
        path=partial,
        made_from={
            "settings": dataclasses.asdict(settings),
            "data": [source.fingerprint, training and training.fingerprint, listed],
            "model": parameters,
            "networks": dict(networks.variants),
            "sources": sources_hash(),
        },
        on_progress=on_progress,
        # Where time is measured, one thing at a time.
        num_threads=1 if len(settings.ttt) > 1 else min(available_cores(), MAX_THREADS),
    )
    if done is None:
        return None
    scored = [part for name, part in done.items() if name.startswith(_SCORED)]
    labels = "none"
    if label_keys:
        count = sum(sum(part["labelled"]) for part in scored)
        keys = ", ".join(label_keys)
        labels = f"{keys} of the context of {count} of {len(listed)} clips"
    result = {
        "manifest": manifest(
            settings,
            split=split,
            clips=listed,
            frames_sha256=results.joint_hash(scored, "frames"),
            annotations_sha256=results.joint_hash(scored, "annotations"),
            networks=dict(networks.variants),
            workdir=str(workdir),
            parameters=parameters,
        ),
        "settings": {
            "data": str(data or section["root"] or "the twin of the work directory"),
            "labels": labels,
            **dataclasses.asdict(settings),
        },
        "clips": [list(clip) for clip in listed],
        "systems": results.summaries(results.rows_of(scored, "scores")),
    }
    if not predicts:
        absent = networks.absent.items()
        result["not_computed"] = {k: v for k, v in absent if k.startswith("lpips")}
        return Evaluation(result, [])
    chosen_on = [part for name, part in done.items() if not name.startswith(_SCORED)]
    _add_sections(result, scored, chosen_on, predictor.label, settings, networks)
    if cost:
        result["cost"] = measure_costs(predictor, num_context, settings.num_future)
    if without_threshold:
        result["not_computed"]["collision_f1"] = without_threshold
    if not show:
        return Evaluation(result, [])
    psnr = np.array(result["systems"][predictor.label]["per_clip"]["psnr"])
    return Evaluation(result, shown_clips(predictor, source, clips, settings, psnr))


_SAMPLES = ("psnr_best_of", "psnr_mean_of", "crps", "spread")
_SCORED, _TRAINING = "batch ", "training batch "  # begin the names of parts


def _parts(
    kind: str,
    judge: Callable[[clip_lists.Batch], Any],
    source: VideoSource,
    settings: Settings,
    label_keys: Sequence[str],
) -> dict[str, Callable[[], Any]]:
    """What a judge says of each batch of the clips, by a name that begins with kind."""

    def judged(read):
        return judge(read())

    clips = clip_lists.fixed_clips(source, settings)
    return {
        f"{kind}{first}": functools.partial(judged, read)
        for first, read in clip_lists.batches(source, clips, settings, label_keys)
    }


def _for_thresholds(settings: Settings) -> Settings:
    """The same for about THRESHOLD_CLIPS clips."""
    each = 1 if settings.clips == WITHOUT_ENTRIES else settings.clips_per_video
    return dataclasses.replace(settings, max_videos=-(-THRESHOLD_CLIPS // each))


def _add_sections(
    result: dict[str, Any],
    scored: Sequence[Mapping[str, Any]],
    training: Sequence[Mapping[str, Any]],
    label: str,
    settings: Settings,
    networks: Networks,
) -> None:
    """Adds to the result what is no mean over clips."""
    systems = result["systems"]
    known = np.concatenate([part["known"] for part in scored]).astype(bool)
    if known.any():
        result["collisions"] = results.collisions_section(
            results.events_of([part["events"] for part in scored]),
            results.events_of(training),
            settings,
            systems,
            known,
        )
    budget = results.summaries(results.rows_of(scored, "budget"))
    if budget:
        result["budget"] = {"systems": budget}
    if settings.ttt:
        result["test_time_training"] = results.ttt_section(
            systems, scored, label, settings
        )
    drawn = {k: v for k, v in systems[label]["mean"].items() if k.startswith(_SAMPLES)}
    if drawn:
        result["uncertainty"] = {"samples": settings.num_samples, **drawn}
    features = results.rows_of(scored, "features")
    missing = results.fvd_section(features, systems)
    if networks.videos and not features:
        missing["fvd"] = f"needs clips of {FVD_FRAMES} frames"
    result["not_computed"] = {**networks.absent, **missing}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.evaluate",
        description="Score a trained system beside the baselines.",
    )
    add = parser.add_argument
    add("--workdir", required=True, help="of a training run")
    add("--protocol", choices=list(PROTOCOLS), help="decides about clips and frames")
    add("--split", default="validation", choices=list(SPLIT_STARTS))
    add("--data", help="another folder of CLEVRER files to score on")
    add("--num_context", type=int, help="frames given (as in training)")
    add("--num_future", type=int, help="frames to predict (as evaluated in training)")
    add("--stride", type=int, help="raw frames from one to the next (as in training)")
    add("--clips", choices=RULES, help="without_entries: where no object enters late")
    add("--clips_per_video", type=int, help="spread over each video (as in training)")
    add("--ssim", choices=list(SSIM_PRESETS), help="whose SSIM (wang-gauss)")
    add("--max_videos", type=int, help="spread over the split (all)")
    add(
        "--ttt_steps",
        default="",
        help="of test-time training, such as 10; several, such as 1,3,10,30, give the"
        " curve of gain and cost",
    )
    add("--ttt_mode", default="offline", choices=["offline", "online"])
    add("--ttt_learning_rate", type=float, default=1e-4)
    add("--num_samples", type=int, help="futures that a stochastic system draws (8)")
    add("--cost", action="store_true", help="time a training step and a prediction")
    add("--shard", default="0/1", help="0/4 is the first of four processes")
    add("--out", help="JSON file (WORKDIR/evaluation.json); .html and .md beside it")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    return command.run("evaluate", lambda: _main(options, arguments))


def _ttt(options: argparse.Namespace) -> tuple[dict[str, Any], ...]:
    steps = [part.strip() for part in options.ttt_steps.split(",") if part.strip()]
    if not all(map(str.isdecimal, steps)):
        raise ValueError(
            f"--ttt_steps {options.ttt_steps}; wanted a number such as 10, or several"
            " such as 1,3,10,30"
        )
    return tuple(
        {
            "num_steps": number,
            "mode": options.ttt_mode,
            "learning_rate": options.ttt_learning_rate,
        }
        for number in sorted({*map(int, steps)} - {0})
    )


def _main(options: argparse.Namespace, arguments: list[str]) -> int:
    out = pathlib.Path(options.out or pathlib.Path(options.workdir) / "evaluation.json")
    if out.suffix != ".json":
        raise ValueError(f"--out {out}; wanted a name that ends in .json")
    partial = out.with_name(f"{out.name}.partial")
    shard = Shard.parse(options.shard)
    names = ("protocol", "num_context", "num_future", "stride", "clips")
    names += ("clips_per_video", "max_videos", "num_samples", "ssim")
    if options.cost:  # a training step is dealt to all cores, as training does
        config = experiment.read_record(options.workdir)["config"]
        experiment.use_all_cores(config)
    with command.progress() as show:
        evaluation = run(
            options.workdir,
            split=options.split,
            data=options.data,
            on_progress=show,
            shard=shard,
            partial=partial,
            cost=options.cost,
            ttt=_ttt(options),
            **{name: getattr(options, name) for name in names},
        )
    if evaluation is None:
        print(f"Share {options.shard} is done; whichever process is last writes {out}")
        return 0
    made = command.provenance("jax_vidpred.evaluate", arguments)
    result = command.without_nan({**made, **evaluation.result})
    write_whole(out, json.dumps(result, indent=1).encode())
    write_whole(out.with_suffix(".md"), markdown_report(result).encode())
    page = out.with_suffix(".html")
    write_evaluation_page(page, result, evaluation.clips)
    for journal in shard.journals(partial):
        journal.unlink(missing_ok=True)
    print_report(result)
    print(f"Written: {out}, {out.with_suffix('.md').name} and {page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
