"""Systems against metrics: order, rounding and which value is the best."""

import io
import math

import rich.console

from jax_vidpred.report.table import (
    COLLISION_COUNTS,
    MAX_COLUMNS,
    METRICS,
    cells,
    columns,
    groups,
    heading,
    markdown_table,
    mean_scores,
    metric_of,
    print_table,
    split,
)

SCORES = {
    "flow-warp": {"ssim": 0.91234, "psnr": 31.705, "lpips": 0.08},
    "copy-last": {"psnr": 28.1, "lpips": 0.11, "objects kept": 0.5},
    "VAE ceiling": {"psnr": 36.8, "ssim": 0.97, "lpips": 0.02},
}


def test_columns_have_one_order_and_say_unit_and_direction():
    assert columns(SCORES) == ["psnr", "ssim", "lpips", "objects kept"]
    assert heading("psnr") == "PSNR (dB) ↑"
    assert heading("lpips") == "LPIPS ↓"
    assert heading("my_metric") == "my metric"


def test_the_best_is_marked_and_the_ceiling_is_no_competitor():
    rows = cells(SCORES)
    assert [c.is_best for c in rows["flow-warp"]] == [True, False, True, False]
    assert not any(c.is_best for c in rows["copy-last"] + rows["VAE ceiling"])
    assert rows["copy-last"][1].text == "–"
    assert rows["VAE ceiling"][1].text == "0.9700"


def test_values_that_are_not_finite_are_neither_shown_nor_best():
    rows = cells({"a": {"psnr": math.nan}, "b": {"psnr": 20.0}, "c": {"psnr": 10.0}})
    assert [row[0].text for row in rows.values()] == ["–", "20.00", "10.00"]
    assert [row[0].is_best for row in rows.values()] == [False, True, False]


def test_markdown():
    lines = markdown_table(SCORES | {"a|b\nc": {"psnr": 1.0}}).splitlines()
    assert lines[0].startswith("| system | PSNR (dB) ↑ | SSIM ↑ |")
    assert lines[1].count("---") == 5
    assert lines[2].startswith("| flow-warp | **31.70** |") or "**31.71**" in lines[2]
    assert lines[-1].startswith(r"| a\|b c | 1.00 |")


def test_terminal_table_shows_names_as_they_are():
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=120)
    print_table({"[bold]odd[/bold]": {"psnr": 1.0}}, title="twin", console=console)
    assert "[bold]odd[/bold]" in stream.getvalue()
    assert "1.00" in stream.getvalue() and "twin" in stream.getvalue()


def test_variants_are_shown_as_what_they_vary():
    assert heading("lpips_vgg") == "LPIPS vgg ↓"
    assert heading("fvd_i3d_16f_n512") == "FVD i3d 16f n512 ↓"
    assert metric_of("iou_tracked").group == "objects"
    assert metric_of("physics_new").group == "physics"
    assert heading("physics_new") == "new"
    # The longest known name counts: this is no variant of PSNR.
    assert heading("psnr_moving") == "PSNR, moving pixels (dB) ↑"
    assert heading("psnrs") == "psnrs"
    found = columns({"a": {"mse": 1.0, "lpips_vgg": 1.0, "psnr": 1.0, "lpips": 1.0}})
    assert found == ["psnr", "mse", "lpips_vgg", "lpips"]


def test_means_of_a_result_leave_out_counts_and_turn_null_to_nan():
    counts = dict.fromkeys(COLLISION_COUNTS, 0.5)
    systems = {"a": {"mean": {"psnr": 30, "ssim": None, **counts}}, "b": {}}
    means = mean_scores(systems)
    assert means["a"].keys() == {"psnr", "ssim"}
    assert math.isnan(means["a"]["ssim"]) and means["b"] == {}


EVERYTHING = {
    name: dict.fromkeys([*METRICS, "lpips_alex", "fvd_i3d_16f_n512"], 12.3456)
    for name in ("flow-warp", "flow-warp + TTT", "constant velocity", "VAE ceiling")
} | {"truth": {"psnr": math.nan, "iou_tracked": 0.97, "physics_speed_error": 0.1}}


def test_groups_leave_out_who_has_nothing_in_them():
    tables = groups(EVERYTHING)
    assert list(tables) == ["frames", "motion", "objects", "physics"]
    assert ["truth" in rows for rows in tables.values()] == [False, False, True, True]
    whole = [key for rows in tables.values() for key in columns(rows)]
    assert sorted(whole) == sorted(columns(EVERYTHING))


def test_a_wide_table_becomes_several_and_loses_no_column():
    tables = split(EVERYTHING)
    assert max(len(columns(rows)) for _, rows in tables) <= MAX_COLUMNS
    shown = [key for _, rows in tables for key in columns(rows)]
    assert sorted(shown) == sorted(columns(EVERYTHING))
    assert split(SCORES) == [("", SCORES)]


def test_a_wide_table_is_legible_in_a_terminal_of_100_columns():
    stream = io.StringIO()
    console = rich.console.Console(file=stream, width=100)
    print_table(EVERYTHING, console=console)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert text.count("12.3456") > 4
    assert markdown_table(EVERYTHING).count("\n\n| physics") >= 1


def test_a_ceiling_of_one_of_several_systems_is_no_competitor_either():
    rows = cells(SCORES | {"VAE ceiling, joint": {"psnr": 40.0}})
    assert rows["flow-warp"][0].is_best
    assert not rows["VAE ceiling, joint"][0].is_best
