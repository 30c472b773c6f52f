"""Pictures that stand side by side: what they show, where, and what is left out."""

import dataclasses

import numpy as np
import pytest

from jax_vidpred.report import panels as panels_module
from jax_vidpred.report.panels import (
    VideoReport,
    error_to_color,
    flow_to_color,
    flow_wheel,
    panel_video,
    panels,
)


def make_report(**changes) -> VideoReport:
    """5 context frames and 3 predicted ones of 20x28; every frame has its own grey."""
    gray = np.arange(100, 108, dtype=np.uint8)[:, None, None, None]
    video = np.broadcast_to(gray, (8, 20, 28, 3)).copy()
    fields = {
        "name": "video_10000.mp4",
        "context": video[:5],
        "truth": video[5:],
        "predictions": {"flow-warp": video[5:] + np.uint8(40)},
        "flow": np.zeros((7, 5, 7, 2), np.float32),
        "visible": np.ones((7, 5, 7, 1), np.float32),
    }
    return VideoReport(**fields | changes)


def test_flow_colours_of_the_four_directions():
    flow = np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    expected = np.array(
        [
            (255, 255, 255),  # at rest
            (255, 0, 0),  # right: the start of the wheel
            (255, 0.9 * 255, 0),  # down: 13.5 of 15 steps from red to yellow
            (0, (1 - 2 / 11) * 255, 255),  # left: 2 of 11 steps from cyan to blue
            (4.5 / 13 * 255, 0, 255),  # up: 4.5 of 13 steps from blue to magenta
        ]
    )
    np.testing.assert_allclose(flow_to_color(flow), expected, atol=1.01)


def test_flow_colours_agree_with_the_published_wheel_of_55_colours():
    # Baker et al. 2007, appendix: the table spelled out, looked up between two entries.
    wheel = np.zeros((55, 3))
    start = 0
    for steps, full, ramp, sign in (
        (15, 0, 1, 1),
        (6, 1, 0, -1),
        (4, 1, 2, 1),
        (11, 2, 1, -1),
        (13, 2, 0, 1),
        (6, 0, 2, -1),
    ):
        rise = np.arange(steps) / steps
        wheel[start : start + steps, full] = 1
        wheel[start : start + steps, ramp] = rise if sign > 0 else 1 - rise
        start += steps
    flow = np.random.default_rng(0).normal(size=(200, 2))
    length = np.hypot(*flow.T)
    place = (np.arctan2(-flow[:, 1], -flow[:, 0]) / np.pi + 1) / 2 * 54
    low = np.floor(place).astype(int)
    part = (place - low)[:, None]
    hue = (1 - part) * wheel[low] + part * wheel[(low + 1) % 55]
    expected = 255 * (1 - (length / length.max())[:, None] * (1 - hue))
    np.testing.assert_allclose(flow_to_color(flow), expected, atol=1.01)


def test_flow_colours_by_length():
    flow = np.array([[0.5, 0], [1, 0], [3, 0], [np.nan, 0]])
    np.testing.assert_allclose(
        flow_to_color(flow, 1.0),
        [(255, 127, 127), (255, 0, 0), (191, 0, 0), (0, 0, 0)],
        atol=1.01,
    )
    assert (flow_to_color(np.zeros((4, 4, 2))) == 255).all()


def test_the_wheel_is_white_outside_and_in_the_middle_and_red_on_the_right():
    wheel = flow_wheel(65)
    assert (wheel[0, 0] == 255).all() and (wheel[32, 32] == 255).all()
    np.testing.assert_allclose(wheel[32, -2], (255, 0, 0), atol=12)


def test_error_map_is_black_where_equal_and_saturates():
    truth = np.full((1, 5, 3), 50, np.uint8)
    steps = np.array([0, 20, 40, 77, 200], np.uint8)[None, :, None]
    shown = error_to_color(truth + steps, truth)
    brightness = shown.astype(int).sum(-1)[0]
    assert brightness[0] < 10
    assert (np.diff(brightness)[:3] > 0).all()
    # 77 of 255 is beyond the range of 30 %.
    assert brightness[3] == brightness[4]


def test_spread_is_the_deviation_of_what_was_drawn_and_only_of_that():
    report = make_report()
    first = next(iter(report.predictions.values()))
    futures = {"river": first, "future 2": first.copy(), "before": first + np.uint8(60)}
    # One pixel differs by 153 = 0.6 of the range: a deviation of 0.3, the brightest.
    futures["future 2"][1, 2, 3] = futures["river"][1, 2, 3] - 153 + 10
    futures["river"][1, 2, 3] += 10
    drawn = make_report(predictions=futures, num_samples=2)
    titles = [panel.title for panel in panels(drawn)]
    assert titles.index("spread") == titles.index("before") + 1
    spread = panels(drawn)[titles.index("spread")].frames
    brightest, black = spread[1, 2, 3].astype(int), spread[0, 0, 0].astype(int)
    assert brightest.sum() > 600 and black.sum() < 10
    assert (spread.reshape(-1, 3) != black).any(-1).sum() == 1
    assert "spread" not in [panel.title for panel in panels(report)]


def test_panels_hold_what_they_were_given():
    report = make_report()
    shown = {panel.kind: panel for panel in panels(report)}
    assert list(shown) == [
        "last seen",
        "truth",
        "predicted",
        "error",
        "flow",
        "visible",
    ]
    assert shown["last seen"].frames[:, 0, 0, 0].tolist() == [
        *range(100, 105),
        *[104] * 3,
    ]
    assert shown["truth"].frames[:, 0, 0, 0].tolist() == [*range(100, 108)]
    assert shown["predicted"].frames[5:, 0, 0, 0].tolist() == [145, 146, 147]
    assert shown["predicted"].predicted_from == 5
    assert [len(shown[k].frames) for k in ("error", "flow", "visible")] == [3, 7, 7]


def test_what_is_not_known_is_left_out():
    report = make_report(truth=None, flow=None, visible=None)
    assert [panel.kind for panel in panels(report)] == ["last seen", "predicted"]


def test_flow_panel_shows_where_things_go():
    # Backward flow of -1: the content was one pixel further left, it moves right.
    flow = np.zeros((3, 5, 7, 2), np.float32)
    flow[..., 2, 3, :] = (-1, 0)
    (panel,) = [p for p in panels(make_report(flow=flow)) if p.kind == "flow"]
    np.testing.assert_allclose(panel.frames[0, 2, 3], (255, 0, 0), atol=1)
    assert (panel.frames[0, 0, 0] == 255).all()


def test_panel_video_marks_predicted_frames_and_only_those():
    video = panel_video(make_report(), height=40)
    assert video.dtype == np.uint8 and len(video) == 8
    assert video.shape[1] % 2 == 0 and video.shape[2] % 2 == 0
    orange = (video == panels_module._PREDICTED).all(-1).sum((1, 2))
    # The border, 3 wide, of one panel of 40x56, and some pixels of the counter.
    border = 2 * 3 * (40 + 56) + 4 * 9
    assert (orange[:5] == 0).all()
    assert (orange[5:] >= border).all() and (orange[5:] < border + 400).all()


def test_panel_video_shows_each_frame_at_its_time():
    report = make_report(flow=None, visible=None)
    video = panel_video(report, height=40)
    for t in range(8):
        colors, counts = np.unique(video[t].reshape(-1, 3), axis=0, return_counts=True)
        large = {tuple(c) for c, n in zip(colors, counts, strict=True) if n >= 40 * 56}
        assert (100 + t,) * 3 in large  # the true frame
        if t >= 5:
            assert (140 + t,) * 3 in large and (104,) * 3 in large


def test_panel_video_takes_any_name():
    name = "name\nwith " + "W" * 300 + " \u0000 \U0001f600"
    report = make_report()
    odd = dataclasses.replace(
        report, name=name, predictions={name: report.predictions["flow-warp"]}
    )
    assert panel_video(odd, height=20).shape == panel_video(report, height=20).shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": {}}, "no predictions, expected at least one"),
        ({"truth": np.zeros((2, 20, 28, 3), np.uint8)}, r"truth is uint8 \[2, 20"),
        ({"truth": np.zeros((3, 20, 28, 3))}, "truth is float64"),
        ({"context": np.zeros((5, 20, 30, 3), np.uint8)}, "expected uint8"),
        ({"flow": np.zeros((9, 5, 7, 2))}, "flow has 9 frames, expected 1 to 8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_report(**changes)
