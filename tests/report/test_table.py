"""Systems against metrics: order, rounding and which value is the best."""

import io
import math

import rich.console

from jax_vidpred.report.table import (
    cells,
    columns,
    heading,
    markdown_table,
    print_table,
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
