"""Command: how fast everything is, as a table and as JSON.

    python -m jax_vidpred.benchmark --config configs/quickstart.py --out benchmark.json
    python -m jax_vidpred.benchmark --compare benchmark.json --out later.json
    python -m jax_vidpred.benchmark --config configs/joint.py --parts scaling

Times the data pipeline, the renderer, the training step of every phase that the config
names or requires, prediction, test-time training, optical flow and evaluation: median
and quartiles of single calls, compile time apart. Models get random inputs of the
config's shapes and have random parameters, which take as long as trained ones. On a
machine that others use too, read `cpu_ms`; for one core put `taskset --cpu-list 0`
before the line.

`scaling`, only where it is asked for, compiles the training steps for eight devices and
tells what they exchange, and what that means for more of them (`benchmarking.scaling`).
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import rich.table

from jax_vidpred import command, experiment
from jax_vidpred.benchmarking import comparison, projection, scaling
from jax_vidpred.benchmarking.parts import NEED_PREDICTIONS, training_step
from jax_vidpred.benchmarking.parts import PARTS as _PARTS
from jax_vidpred.benchmarking.phases import PHASES, Row, build_phases, read_config
from jax_vidpred.data.twin.dataset import available_cores
from jax_vidpred.data.video_io import write_whole

PARTS = ("data", "renderer", *PHASES, "predict", "ttt", "raft", "evaluation")
SCALING = "scaling"  # takes minutes, and is about other machines than this one
MIN_WIDTH = 110  # of the tables, wherever they are printed


def run(
    config: Mapping[str, Any],
    *,
    parts: Sequence[str] = PARTS,
    repeats: int = 20,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Row]:
    """Measures parts of what a config describes.

    Args:
      config: as plain dicts; phases that it requires are measured too.
      parts: out of `PARTS`; what the config has not (a VAE predicts nothing) is left
        out.
      repeats: measured calls of each; fewer where they take long.
      on_progress: called with the part, parts done, and parts in all.

    Returns:
      For each measurement what `stopwatch.measure` gives, and `compile_seconds` where
      there was something to compile.

    Raises:
      ValueError: a bad config.
    """
    if not parts:
        return {}
    phases = dict(zip(PHASES, build_phases(config), strict=False))
    last = list(phases.values())[-1]
    if not hasattr(last.system, "predict"):
        parts = [part for part in parts if part not in NEED_PREDICTIONS]
    parts = [part for part in parts if part not in PHASES or part in phases]
    rows = {}
    for done, part in enumerate(parts):
        on_progress(part, done, len(parts))
        if part in phases:
            rows |= training_step(part, phases[part], repeats)
        else:
            rows |= _PARTS[part](last, repeats)
    on_progress("done", len(parts), len(parts))
    return rows


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.benchmark",
        description="Measure how fast data, training, prediction and adaptation are.",
    )
    add = parser.add_argument
    add("--config", default="configs/quickstart.py", help="FILE.py or FILE.py:VARIANT")
    add("--parts", default=",".join(PARTS), help=f"of %(default)s,{SCALING}")
    add("--repeats", type=int, default=20, help="measured calls of each, at most")
    add("--compare", metavar="OLD.json", help="an earlier result to put beside")
    add("--out", help="JSON file (else the JSON goes to stdout)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    return command.run("benchmark", lambda: _main(options, arguments))


def _main(options: argparse.Namespace, arguments: list[str]) -> int:
    parts = options.parts.split(",")
    unknown = sorted(set(parts) - {*PARTS, SCALING})
    if unknown:
        known = ",".join((*PARTS, SCALING))
        raise ValueError(f"--parts {','.join(unknown)}; choose from {known}")
    if options.repeats < 1:
        raise ValueError(f"--repeats {options.repeats}; wanted at least 1")
    old = comparison.read_report(options.compare) if options.compare else None
    config = read_config(options.config)
    experiment.use_all_cores(config)
    with command.progress() as show:
        rows = run(
            config,
            parts=[part for part in parts if part != SCALING],
            repeats=options.repeats,
            on_progress=lambda _, done, total: show("Measuring", done, total),
        )
    report = {
        **command.provenance("jax_vidpred.benchmark", arguments),
        "config": options.config,
        "cores": available_cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # Where programs are kept, compile_seconds may be those of reading them.
        "compilation_cache": jax.config.jax_compilation_cache_dir,
        "measurements": rows,
    }
    console = command.console()
    console.width = max(console.width, MIN_WIDTH)
    if rows:
        console.print(table(rows))
    if SCALING in parts:
        report[SCALING] = scaling.measure_scaling(options.config)
        console.print(projection.table(report[SCALING]))
    if old:
        report["compare"] = {
            "old": options.compare,
            **comparison.compare(old, report),
        }
        console.print(comparison.table(report["compare"]))
        for line in comparison.remarks(report["compare"]):
            command.say(line)
    text = json.dumps(command.without_nan(report), indent=1)
    if options.out:
        write_whole(pathlib.Path(options.out), text.encode())
        command.say(f"Written: {options.out}")
    else:
        print(text)
    return 0


def table(rows: Mapping[str, Row]) -> rich.table.Table:
    """The measurements, one a line; +- is half of what lies between the quartiles."""
    shown = rich.table.Table(box=None)
    shown.add_column("median of single calls", no_wrap=True)
    for column in ("compile s", "ms", "+-", "CPU ms", "per second", "GFLOP/s"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        wall, rate = row["wall_ms"], row["gflop_per_second"]
        shown.add_row(
            name,
            f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "",
            f"{wall['median']:.1f}",
            f"{(wall['quartile_3'] - wall['quartile_1']) / wall['median'] / 2:.0%}",
            f"{row['cpu_ms']['median']:.1f}",
            f"{row['examples_per_second']:.1f} {row['unit']}",
            f"{rate:.0f}" if rate else "",
        )
        if "ms_per_video" in row:
            each = row["ms_per_video"]
            told = f"{each['alone']:.1f} alone, {each['batched']:.1f} batched"
            shown.add_row(f"  ms per video: {told}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
