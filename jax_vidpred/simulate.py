"""Command: makes a data set of simulated videos in CLEVRER's official layout.

    python -m jax_vidpred.simulate --out data/twin --num_train 160 --size 64x64

Run the same line again to go on after an interruption, or with larger numbers to add
videos. The result depends on nothing but the seed and the size.
"""

import argparse
import re
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jax_vidpred.data.schema import SPLIT_STARTS, DataError
from jax_vidpred.data.twin.dataset import write_dataset

INTERRUPTED = 130  # exit code of a command that Ctrl-C ended, by custom


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of a text such as 128x96, for argparse."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}; wanted WIDTHxHEIGHT, as 128x128")
    return int(match[1]), int(match[2])


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `size` becomes (width, height)."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.simulate",
        description="Make simulated videos in the official layout of CLEVRER.",
    )
    parser.add_argument("--out", required=True, help="folder of the data set")
    for split in SPLIT_STARTS:
        parser.add_argument(
            f"--num_{split}",
            type=int,
            default=0,
            help=f"videos of the {split} split (0)",
        )
    parser.add_argument(
        "--size",
        type=parse_size,
        default="64x64",
        help="WIDTHxHEIGHT in pixels (64x64)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the whole data set (0)")
    parser.add_argument("--workers", type=int, help="processes (one per core)")
    return parser.parse_args(arguments)


class _RateColumn(ProgressColumn):
    """Videos per second of this run; the ones that were there before do not count."""

    def render(self, task):
        made = task.completed - task.fields["before"]
        rate = f"{made / task.elapsed:.1f}" if made and task.elapsed else "-"
        return Text(f"{rate} videos/s")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parse_arguments(arguments)
    num_videos = {split: getattr(options, f"num_{split}") for split in SPLIT_STARTS}
    width, height = options.size
    console = Console(stderr=True)
    if not any(num_videos.values()):
        print(
            "simulate: no videos asked for; give --num_train N, --num_validation N or"
            " --num_test N",
            file=sys.stderr,
        )
        return 2
    begin = time.perf_counter()
    whole_videos = 0
    try:
        with Progress(
            TextColumn("simulate"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        ) as progress:

            def show(whole, total):
                nonlocal whole_videos
                whole_videos = whole
                if not progress.tasks:
                    progress.add_task("", total=total, completed=whole, before=whole)
                progress.update(progress.task_ids[0], completed=whole)

            made = write_dataset(
                options.out,
                num_videos,
                height,
                width,
                seed=options.seed,
                num_workers=options.workers,
                on_progress=show,
            )
    except DataError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"simulate: stopped; {whole_videos} of"
            f" {sum(num_videos.values())} videos are whole in {options.out}."
            " Run the same line again to go on.",
            file=sys.stderr,
        )
        return INTERRUPTED
    counts = " + ".join(f"{n} {split}" for split, n in num_videos.items() if n)
    print(
        f"{counts} videos of {width}x{height} in {options.out}"
        f" ({made} made now, in {time.perf_counter() - begin:.0f} s). Next:"
        f" python -m jax_vidpred.main --config=configs/vae.py --workdir=runs/vae"
        f" --config.data.root={options.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
