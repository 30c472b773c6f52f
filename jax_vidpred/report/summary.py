"""A result of `evaluate` for the terminal and as Markdown: tables and a few lines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.table
from rich.text import Text

from jax_vidpred.report.table import (
    markdown_rows,
    markdown_table,
    mean_scores,
    number,
    number_text,
    print_table,
)

Result = Mapping[str, Any]
# What the terminal shows, and families of it; files and page have everything.
_HEADLINES = {
    *("psnr", "psnr_moving", "ssim", "ttt_gain", "flow_error", "tof", "motion_ratio"),
    *("iou_tracked", "box_recall_tracked", "lifetime_tracked", "collision_f1"),
    *("physics_position_error", "physics_impulse_error", "physics_vanished"),
}
_FAMILIES = ("lpips_", "fvd_", "vbench_", "psnr_best_of_", "crps")
_SHORT = {"head": "head", "kinematics": "tracks"}  # detectors of collisions
Table = tuple[Sequence[str], list[list[str]]]  # head, rows; the first column is text


def title_of(comparable: Mapping[str, Any], num_clips: int | None = None) -> str:
    """What was measured, in a line, of the manifest's part that makes comparable."""
    protocol = comparable.get("protocol", "custom")
    words = [] if protocol == "custom" else [protocol]
    words += [comparable["split"]] if "split" in comparable else []
    words += [f"{num_clips} clips"] if num_clips else []
    if comparable.get("num_future"):
        context = comparable.get("num_context")
        frames = f"{comparable['num_future']} frames"
        frames = f"{context} -> {frames}" if context else frames
        if "height" in comparable:
            frames += f" of {comparable['height']}x{comparable['width']}"
        words.append(frames)
    words += [f"stride {comparable['stride']}"] if "stride" in comparable else []
    return ", ".join(words)


def _title(result):
    return title_of(result["manifest"]["comparable"], len(result["clips"]))


def tables_of(result: Result) -> Iterator[Table]:
    """Tables that are not systems against metrics."""
    collisions = result.get("collisions", {})
    rows = []
    for name, detectors in collisions.get("systems", {}).items():
        for detector, parts in detectors.items():
            found = parts["horizon"]
            numbers = [found[key] for key in ("f1", "precision", "recall")]
            numbers += [found["average_precision"], found.get("typed", {}).get("f1")]
            texts = [*map(number_text, numbers), str(found["true"])]
            rows.append([f"{name}, {_SHORT[detector]}", *texts])
    if rows:
        head = [f"collisions, +-{collisions['tolerance']} frames", "F1", "prec."]
        yield [*head, "recall", "AP", "pair F1", "of"], rows
    budget = result.get("budget", {}).get("systems", {})
    rows = []
    for name, scores in budget.items():
        plain = next(iter(budget.values()))["mean"]
        rows.append([name])
        for key in ("psnr", "psnr_moving"):
            value = scores["mean"].get(key)
            gain = number(value) - number(plain.get(key))
            is_known = math.isfinite(gain) and gain != 0
            change = f"{gain:+.2f}" if is_known else ""
            rows[-1] += [number_text(value), change]
    if rows:
        metrics = ("PSNR (dB)", "change", "PSNR, moving pixels (dB)", "change")
        yield ["error budget, told", *metrics], rows
    if "cost" in result:
        yield cost_table({next(iter(result["systems"])): result["cost"]})
    curve = result.get("test_time_training", {}).get("curve", [])
    if curve:
        yield (
            ["TTT steps", "gain (dB)", "better on", "s per clip"],
            [
                [
                    f"{point['steps']}",
                    f"{point['mean']:+.3f}",
                    f"{point['share_improved']:.0%}",
                    f"{point['seconds_per_clip']:.2f}",
                ]
                for point in curve
            ],
        )


def cost_table(costs: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each system whose costs are known, by its name."""
    head = ["cost", "trained (M)", "frozen (M)", "step (ms)", "clips", "predict (ms)"]
    return head, [
        [
            name,
            f"{cost['parameters'] / 1e6:.2f}",
            f"{cost['frozen'] / 1e6:.2f}",
            f"{cost['train_step_ms']:.0f}",
            f"{cost['batch_size']} x {cost['clip_frames']}",
            f"{cost['predict_ms']:.0f}",
        ]
        for name, cost in costs.items()
    ]


def lines_of(result: Result) -> Iterator[str]:
    """What is no table."""
    gains = result.get("test_time_training")
    if gains:
        yield (
            f"test-time training: {gains['mean']:+.2f} dB on average, better on"
            f" {gains['share_improved']:.0%} of the clips, worst {gains['worst']:+.2f}"
            f" dB, best {gains['best']:+.2f} dB"
        )
    for metric, reason in result.get("not_computed", {}).items():
        yield f"not computed: {metric} {reason}"


def print_report(result: Result, console: rich.console.Console | None = None) -> None:
    """Prints the headlines to the terminal."""
    console = console or rich.console.Console()
    scores = {
        name: {
            key: value
            for key, value in row.items()
            if key in _HEADLINES or key.startswith(_FAMILIES)
        }
        for name, row in mean_scores(result["systems"]).items()
    }
    print_table(scores, title=_title(result), console=console)
    for head, rows in tables_of(result):
        table = rich.table.Table()
        for k, name in enumerate(head):
            table.add_column(name, justify="right" if k else "left", no_wrap=not k)
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    for line in lines_of(result):
        console.print(Text(line), soft_wrap=True)


def markdown_report(result: Result) -> str:
    """Everything as Markdown, with what identifies the result."""
    same, own = (result["manifest"][key] for key in ("comparable", "own"))
    parts = [
        f"# {_title(result)}\n",
        markdown_table(mean_scores(result["systems"])),
        *(markdown_rows(head, rows) for head, rows in tables_of(result)),
        *(f"- {line}" for line in lines_of(result)),
        "",
        f"Clips {same['clips_sha256'][:16]}, frames {same['frames_sha256'][:16]},"
        f" parameters {own['parameters']}, sources {own['sources_sha256']}."
        f" `{result['command']}`, {result['date']}, {result['device']}.",
    ]
    return "\n".join(parts) + "\n"
