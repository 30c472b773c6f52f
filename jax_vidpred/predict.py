"""Command: predicts how videos go on, and shows it on one HTML page.

    python -m jax_vidpred.predict --workdir runs/quickstart --videos clips/ --out out

For each video: NAME.mp4 (the context, then the predicted frames), NAME.gif (side by
side with the truth), NAME.npz (arrays); for all together metrics.json and index.html. A
video that was done with the same settings is not done again.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from jax_vidpred import command, experiment
from jax_vidpred.annotated import Setting, find_annotation
from jax_vidpred.data.schema import DataError
from jax_vidpred.data.video_io import write_whole
from jax_vidpred.evaluation.journal import fingerprint
from jax_vidpred.forecast import Forecast, make_forecast, source_stamp
from jax_vidpred.predictor import VideoPredictor
from jax_vidpred.report.page import write_page
from jax_vidpred.report.plots import gain_plot, loss_curves, read_metrics
from jax_vidpred.report.table import Scores, print_table
from jax_vidpred.train.writers import METRICS_FILE

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
MAX_SHOWN = 30  # videos on the page; each makes it a few hundred KiB larger
# Of the measurements of a training run, what says whether it has converged.
CURVES = (
    *("loss", "psnr", "endpoint_error_flow", "loss_collision"),
    *("kl_factor", "teacher_forcing_ratio"),
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.predict",
        description="Predict how videos go on, and show it on one HTML page.",
    )
    add = parser.add_argument
    add("--workdir", required=True, help="of a training run")
    add("--videos", required=True, nargs="+", help="files, or folders at any depth")
    add("--num_context", type=int, help="frames given (as in training)")
    add("--num_future", type=int, help="frames to predict (as evaluated in training)")
    add("--stride", type=int, help="file frames from one to the next (as in training)")
    add("--start", type=int, default=0, help="file frame that comes first (0)")
    add("--ttt_steps", type=int, default=0, help="of test-time training (0 = none)")
    add("--ttt_mode", default="offline", choices=["offline", "online"])
    add("--num_samples", type=int, default=1, help="futures of a stochastic system (1)")
    add("--labels", help="JSON of edited object states (data/edits.py) that steer")
    add("--out", required=True, help="folder of the results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    return command.run("predict", lambda: _main(options, arguments))


def _main(options: argparse.Namespace, arguments: list[str]) -> int:
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    command.data_folder(options.workdir)
    predictor = VideoPredictor.load(options.workdir)
    setting = _setting(options, predictor)
    labels = pathlib.Path(options.labels) if options.labels else None
    if labels and not labels.is_file():
        raise DataError(f"--labels {labels}: no such file; check the path")
    if labels and setting.ttt:
        raise ValueError("--labels and --ttt_steps do not go together; leave one out")
    if setting.num_samples > 1:
        if labels or setting.ttt:
            raise ValueError(
                "--num_samples goes neither with --labels nor with --ttt_steps; leave"
                " one out"
            )
        if not predictor.system.stochastic:
            raise ValueError(
                f"--num_samples {setting.num_samples}: {predictor.label} predicts one"
                " future; leave it out"
            )
    paths, failures = find_videos(options.videos, out)
    for failure in failures:
        command.say(f"predict: {failure}")
    shared = {**dataclasses.asdict(setting), "model": fingerprint(predictor.params)}
    done, metrics, reused = [], {}, 0
    with command.progress() as show:
        for index, (name, path) in enumerate(paths.items()):
            show("predicting", index, len(paths))
            try:
                made_from = {**shared, **source_stamp(path)}
                annotation = find_annotation(path)
                if annotation:
                    made_from["annotation"] = source_stamp(annotation)
                if labels:
                    made_from["labels"] = source_stamp(labels)
                forecast = Forecast.load(out, name, made_from)
                reused += forecast is not None
                made = forecast or make_forecast(
                    path, name, predictor, setting, made_from, labels
                )
            except (DataError, OSError) as error:
                failures.append(error)
                command.say(f"predict: {error}")
                continue
            if forecast is None:
                made.save(out)  # if that fails, it would fail for all
            metrics[name] = {"source": str(path), "scores": made.scores}
            if len(done) < MAX_SHOWN:
                done.append(made)
        if paths:
            show("predicting", len(paths), len(paths))
    if not metrics:
        if len(failures) > 1:
            command.say(f"predict: none of these {len(failures)} could be predicted")
        return command.FAILED
    about = command.provenance("jax_vidpred.predict", arguments)
    mean = mean_scores([one["scores"] for one in metrics.values()])
    _write_metrics(out, about, setting, metrics, mean)
    count = f"{len(metrics)} video" + "s" * (len(metrics) > 1)
    page = out / "index.html"
    write_page(
        page,
        title=f"{predictor.label}: {count} predicted",
        summary_table=mean,
        videos=[forecast.report() for forecast in done],
        curves=_gains(metrics) | dict(training_curves(pathlib.Path(options.workdir))),
        provenance=_about(options, setting, len(metrics), failures) | about,
    )
    if mean:
        print_table(mean, title=count)
    if reused:
        print(f"{reused} of {count} done before")
    print(f"Page: {page.absolute()}")
    return 0


def _setting(options, predictor) -> Setting:
    def given(value, default):
        return default if value is None else value

    setting = Setting(
        num_context=given(options.num_context, predictor.num_context),
        num_future=given(options.num_future, predictor.num_future),
        stride=given(options.stride, predictor.frame_stride),
        start=options.start,
        ttt={"num_steps": options.ttt_steps, "mode": options.ttt_mode}
        if options.ttt_steps
        else None,
        num_samples=options.num_samples,
    )
    least = {"num_context": predictor.system.min_context, "num_future": 1}
    least |= {"stride": 1, "start": 0, "num_samples": 1}
    for name, minimum in least.items():
        value = getattr(setting, name)
        if value < minimum:
            raise ValueError(f"--{name} {value}; wanted at least {minimum}")
    return setting


def find_videos(
    places: Sequence[str], out: pathlib.Path
) -> tuple[dict[str, pathlib.Path], list[DataError]]:
    """Every video once, with a name of its own, and what is wrong with some places.

    The name is that of the file; where several files share it, the folders above tell
    them apart. What a run before has left in `out` is not found.
    """
    found, errors = [], []
    for place in map(pathlib.Path, places):
        if place.is_dir():
            inside = [
                path
                for path in sorted(place.rglob("*"))
                if path.suffix.lower() in VIDEO_SUFFIXES
                and not path.name.startswith(".")
                and "__MACOSX" not in path.parts
                and not path.resolve().is_relative_to(out.resolve())
            ]
            if not inside:
                wanted = ", ".join(VIDEO_SUFFIXES)
                errors.append(DataError(f"{place}: no video in it; wanted {wanted}"))
            found += inside
        elif place.exists():
            found.append(place)
        else:
            errors.append(DataError(f"{place}: no such file; check the path"))
    unique = list({path.absolute(): path for path in found}.values())
    shared = Counter(path.stem for path in unique)
    names = {}
    for path in unique:
        name = path.stem
        if shared[name] > 1:
            name = "_".join(path.absolute().with_suffix("").parts[1:])
        while name in names:  # a.mp4 beside a.mov
            name += "_" + path.suffix[1:]
        names[name] = path
    return names, errors


def mean_scores(scores: Sequence[Mapping[str, Mapping[str, Any]]]) -> Scores:
    """Mean over frames, then over the videos whose truth is known."""
    collected: dict[str, dict[str, list[float]]] = {}
    for systems in scores:
        for system, row in systems.items():
            for key, values in row.items():
                mean = float(np.mean(values))
                if np.isfinite(mean):  # nothing may move in a video
                    columns = collected.setdefault(system, {})
                    columns.setdefault(key, []).append(mean)
    return {
        system: {key: float(np.mean(values)) for key, values in row.items()}
        for system, row in collected.items()
    }


def training_curves(
    workdir: pathlib.Path, name: str = ""
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Curves of the phases that led to a work directory, in the order of training."""
    record = experiment.read_record(workdir)
    for required, place in record["requires"].items():
        yield from training_curves((workdir / place).resolve(), required)
    records = read_metrics(workdir / METRICS_FILE, CURVES)
    yield f"Training: {name or workdir.name}", loss_curves(records)


def _gains(metrics):
    """Bars of what test-time training gained on each video, where it was on."""
    gains = {}
    for name, one in metrics.items():
        systems = list(one["scores"])
        if systems and systems[0].endswith("+ TTT"):
            adapted, plain = (np.mean(one["scores"][s]["psnr"]) for s in systems[:2])
            gains[name] = float(adapted - plain)
    if not gains:
        return {}
    return {"Test-time training": {"gain of each video": gain_plot(gains)}}


def _write_metrics(out, about, setting, metrics, mean) -> None:
    content = {
        **about,
        "settings": dataclasses.asdict(setting),
        "mean": mean,
        "videos": metrics,
    }
    text = json.dumps(command.without_nan(content), indent=1)
    write_whole(out / "metrics.json", text.encode())


def _about(options, setting, num_videos, failures) -> dict[str, str]:
    ttt = "none"
    if setting.ttt:
        ttt = f"{setting.ttt['num_steps']} steps, {setting.ttt['mode']}"
    about = {
        "work directory": options.workdir,
        "frames": f"{setting.num_context} given, {setting.num_future} predicted, every"
        f" {setting.stride}. of the file from frame {setting.start}",
        "test-time training": ttt,
        "futures of each": f"{setting.num_samples}",
        "videos": f"{num_videos} predicted, {min(num_videos, MAX_SHOWN)} shown",
    }
    if failures:
        about["left out"] = "\n".join(map(str, failures))
    return about


if __name__ == "__main__":
    sys.exit(main())
