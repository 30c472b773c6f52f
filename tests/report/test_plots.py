"""Plots as SVG: read back, the lines have the shape of the data."""

import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from jax_vidpred.report import plots

SVG = "{http://www.w3.org/2000/svg}"
CURVES = {
    "flow-warp": [35.0, 33.0, 32.0, 30.0],
    "copy-last": [34.0, 31.0, 29.0, 27.0],
    "VAE ceiling": [36.0, 36.0, 36.0, 36.0],
}


def parse(svg: bytes):
    return xml.etree.ElementTree.fromstring(svg)


def texts(svg: bytes) -> list[str]:
    return ["".join(node.itertext()) for node in parse(svg).iter(f"{SVG}text")]


def line(svg: bytes, color: str, width: float) -> np.ndarray:
    """[n, 2] corners of the one line of this colour and width; y grows downwards."""
    found = [
        node.get("d")
        for node in parse(svg).iter(f"{SVG}path")
        if f"stroke: {color}" in (style := node.get("style", ""))
        and f"stroke-width: {width:g}" in style
        and "fill: none" in style
    ]
    assert len(found) == 1
    return np.array(re.findall(r"[ML] (\S+) (\S+)", found[0]), float)


def test_curves_have_the_shape_of_the_data():
    svg = plots.psnr_curves(CURVES)
    color, _ = plots.styles(CURVES)["flow-warp"]
    corners = line(svg, color, 2.1)
    values = np.array(CURVES["flow-warp"])
    slope, offset = np.polyfit(values, corners[:, 1], 1)
    assert slope < 0  # more is higher up
    np.testing.assert_allclose(slope * values + offset, corners[:, 1], atol=1e-3)
    assert {*CURVES, "PSNR (dB)", "predicted frame"} <= set(texts(svg))


def test_the_cursor_moves_by_one_frame_of_the_curve():
    svg = plots.psnr_curves(CURVES)
    color, _ = plots.styles(CURVES)["flow-warp"]
    step = float(re.search(rb'data-step="([\d.]+)"', svg)[1])
    np.testing.assert_allclose(np.diff(line(svg, color, 2.1)[:, 0]), step, atol=1e-3)
    (cursor,) = [g for g in parse(svg).iter(f"{SVG}g") if g.get("class") == "cursor"]
    place = re.match(r"M (\S+)", cursor.find(f"{SVG}path").get("d"))[1]
    np.testing.assert_allclose(float(place), line(svg, color, 2.1)[0, 0], atol=1e-3)
    assert cursor.get("data-frame") == "1"


def test_names_at_the_ends_do_not_overlap():
    curves = {f"system {k}": [30.0, 25.0 + 0.01 * k] for k in range(5)}
    places = [
        float(re.search(r' y="([\d.]+)"', tag)[1])
        for tag in re.findall(
            r"<text[^>]*>(?=system)", plots.psnr_curves(curves).decode()
        )
    ]
    assert len(places) == 5
    assert np.diff(sorted(places)).min() > 8  # points; the font has 8.8


def test_same_data_same_bytes_and_no_colour_of_a_page():
    svg = plots.psnr_curves(CURVES)
    assert svg == plots.psnr_curves(CURVES)
    assert b"currentColor" in svg and b"#010203" not in svg
    assert svg.startswith(b"<svg") and b"metadata" not in svg
    ids = re.findall(rb' id="([^"]+)"', svg)
    assert all(b"#" + name in svg for name in ids)


def test_baselines_look_the_same_beside_any_system():
    one = plots.styles(["a", "copy-last", "b"])
    other = plots.styles(["copy-last", "c"])
    assert one["copy-last"] == other["copy-last"]
    assert one["a"] == other["c"] != one["b"]


def test_odd_names_are_text():
    name = "<script>$x$"
    for svg in (
        plots.psnr_curves({name: [1.0, 2.0]}),
        plots.gain_plot({name: 0.1}),
        plots.loss_curves([{"step": 0, f"train/{name}": 1.0}])[name],
    ):
        assert name in texts(svg)
        assert b"<script" not in svg


@pytest.mark.parametrize("curves", [{}, {"a": [np.nan, np.nan]}, {"a": [30.0]}])
def test_hardly_any_data(curves):
    assert "PSNR (dB)" in texts(plots.psnr_curves(curves))
    alone = plots.collision_curve([0.5], num_future=1)
    assert "probability of a collision" in texts(alone)


def test_collisions_are_marked_where_the_axis_reaches():
    def marks(collisions):
        svg = plots.collision_curve(
            np.linspace(0, 1, 10), num_future=4, collisions_true=collisions
        )
        color = plots.CYCLE[1]
        uses = [u for u in parse(svg).iter(f"{SVG}use") if color in u.get("style", "")]
        return sorted(float(u.get("x")) for u in uses), svg

    places, svg = marks([-5, 0, 4, 9])  # the axis goes from -5 to 4
    assert len(places) == 3
    corners = line(svg, plots.CYCLE[0], 2.1)
    np.testing.assert_allclose(places, corners[[0, 5, 9], 0], atol=1e-3)
    assert "true collisions" in texts(svg)
    assert marks(None)[0] == marks([])[0] == []


def test_metrics_file_is_read_leniently(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = {"step": 10, "wall_time": 1.5, "train/loss": 2.0, "note": "text", "on": True}
    lines = [json.dumps(good), "", "[1]", '{"train/loss": 1}', '{"step": 20, "tra']
    path.write_text("\n".join(lines))
    assert plots.read_metrics(path) == [
        {"step": 10, "wall_time": 1.5, "train/loss": 2.0}
    ]
    assert plots.read_metrics(tmp_path / "missing.jsonl") == []


def test_loss_curves_are_grouped_by_term():
    records = [
        {"step": 0, "wall_time": 0.0, "train/loss": 4.0, "train/kl": 1.0},
        {"step": 10, "train/loss": 3.0, "train/kl": float("nan"), "eval/loss": 3.5},
        {"step": 20, "train/loss": 9.0},
        {"step": 20, "train/loss": 2.0, "eval/loss": 2.5},  # again, after a restart
    ]
    result = plots.loss_curves(records)
    assert list(result) == ["loss", "kl"]
    assert {"train", "eval", "training step"} <= set(texts(result["loss"]))
    assert not {"train", "eval"} & set(texts(result["kl"]))  # one line needs no name
    corners = line(result["loss"], plots.CYCLE[0], 1.6)
    assert len(corners) == 3
    np.testing.assert_allclose(np.diff(corners[:, 1]), np.diff(corners[:, 1])[0])


def test_a_wide_range_gets_a_logarithmic_axis():
    records = [{"step": k, "train/loss": 10.0 ** (-k)} for k in range(5)]
    corners = line(plots.loss_curves(records)["loss"], plots.CYCLE[0], 1.6)
    np.testing.assert_allclose(
        np.diff(corners[:, 1]), np.diff(corners[:, 1])[0], atol=1e-3
    )


def test_long_runs_are_averaged_over_spans():
    records = [{"step": k, "train/loss": 1.0 + k % 2} for k in range(4800)]
    corners = line(plots.loss_curves(records)["loss"], plots.CYCLE[0], 1.6)
    assert len(corners) <= 240


def test_gains_are_bars_and_many_gains_a_histogram():
    svg = plots.gain_plot({"a": 0.3, "b": -0.1, "c": 0.1}).decode()
    assert svg.count(f"fill: {plots.CYCLE[0]}") == 2
    assert svg.count(f"fill: {plots.CYCLE[1]}") == 1
    assert "mean +0.10" in svg
    many = plots.gain_plot({str(k): k / 30 - 0.4 for k in range(30)})
    assert "videos" in texts(many)


def test_png_and_unknown_formats():
    assert plots.psnr_curves(CURVES, image_format="png").startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="image_format='gif', expected 'svg' or 'png'"):
        plots.psnr_curves(CURVES, image_format="gif")


def test_series_have_their_colours_in_the_order_in_which_they_come():
    slopes = {"b": 1.0, "a": -1.0, "train": 0.0}
    records = [
        {"step": step, f"{run}/loss": 5 + slope * step}
        for run, slope in slopes.items()
        for step in (1, 2)
    ]
    drawn = plots.loss_curves(records)["loss"]
    for color, run in zip(plots.CYCLE, ("train", "b", "a"), strict=False):
        corners = line(drawn, color, 1.6)
        assert np.sign(corners[0, 1] - corners[-1, 1]) == np.sign(slopes[run])
