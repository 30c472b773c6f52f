"""The page of an evaluation: every section where there is something for it."""

import copy
import math
import re
import shutil

import numpy as np
import pytest
from test_page import MALICIOUS, Outline, browse, make_report

from jax_vidpred.data.schema import DataError
from jax_vidpred.report import evaluation_plots
from jax_vidpred.report.evaluation_page import (
    ShownClip,
    build_evaluation_page,
    headline,
    summary,
    write_evaluation_page,
)

CLIPS, FRAMES = 5, 4
SECTIONS = (
    *("Results", "Over predicted frames", "Clips", "Collisions", "Physics"),
    *("Error budget", "Test-time training", "Uncertainty", "Not computed"),
    "How this was measured",
)


def system(**means):
    """Scores that are the same in every frame and clip."""
    return {
        "mean": means,
        "per_frame": {k: [v] * FRAMES for k, v in means.items() if "f1" not in k},
        "per_clip": {key: [value] * CLIPS for key, value in means.items()},
    }


def part(f1):
    found = {"f1": f1, "precision": f1, "recall": f1}
    return {
        **found,
        "average_precision": 0.61,
        "timing_error": None,
        "true": 12,
        "by_tolerance": {"10": found, "0": {**found, "f1": f1 / 2}, "5": found},
    }


@pytest.fixture
def result():
    """With something for every section; names that would break the page."""
    flow_warp = system(
        psnr=30.0,
        ssim=0.9,
        lpips_vgg=0.2,
        iou_tracked=0.7,
        physics_position_error=0.3,
        physics_vanished=0.1,
    )
    flow_warp["mean"]["lifetime_tracked"] = 3.25
    flow_warp["per_clip"]["psnr"][1] = None
    adapted = copy.deepcopy(flow_warp)
    adapted["mean"]["psnr"] = 30.5
    detectors = {"head": {"horizon": part(0.5)}, "kinematics": {"horizon": part(0.4)}}
    return {
        "command": f"evaluate --workdir '{MALICIOUS}'",
        "manifest": {
            "comparable": {
                "protocol": "twin-slotformer",
                "split": MALICIOUS,
                "num_context": 6,
                "num_future": FRAMES,
                "metrics": {"ssim": "wang-gauss"},
            },
            "own": {"workdir": "runs/temporal", "seeds": [0]},
        },
        "settings": {"batch_size": 8, "max_videos": None},
        "clips": [[10000 + k, 0] for k in range(CLIPS)],
        "systems": {
            "flow-warp": flow_warp,
            "flow-warp + TTT": adapted,
            "copy-last": system(psnr=25.0, ssim=0.8, physics_position_error=0.9),
            MALICIOUS: system(psnr=1.0),
            "truth": system(iou_tracked=0.97, physics_position_error=0.05),
        },
        "not_computed": {"lpips_alex": f"needs {MALICIOUS}"},
        "collisions": {
            "tolerance": 5,
            "systems": {
                "flow-warp": detectors,
                MALICIOUS: {"head": {"horizon": part(math.nan)}},
                "truth": {"kinematics": {"horizon": part(0.8)}},
            },
            "calibration": {MALICIOUS: {"ece": 0.125}},
        },
        "budget": {
            "systems": {
                name: {"mean": {"psnr": psnr}}
                for name, psnr in (
                    ("as it is", 30),
                    ("true flow", 33),
                    ("untold", None),
                )
            }
        },
        "uncertainty": {"samples": 5, "crps": {"mean": 0.01}},
        "test_time_training": {
            **{"mean": 0.5, "share_improved": 0.8, "worst": -0.1, "best": 0.9},
            "per_clip": [0.1, 0.9, None, -0.1, 0.5],
            "curve": [
                {"steps": k, "mean": k / 10, "seconds_per_clip": 1 + k} for k in (0, 5)
            ],
        },
    }


def clips():
    return [
        ShownClip(f"worst: {MALICIOUS}", make_report("x")),
        ShownClip("best", make_report("y")),
    ]


def test_every_section_is_there_in_order(result):
    text = build_evaluation_page(result, clips())
    assert tuple(re.findall(r"<h2>(.*?)</h2>", text)) == SECTIONS
    outline = Outline(text)
    assert outline.tags.count("article") == outline.tags.count("video") == 2
    # PSNR, SSIM, LPIPS, IoU, PSNR of clips; two of each video; position error; budget;
    # gains, gain over steps, cost.
    assert outline.tags.count("svg") == 5 + 2 * 2 + 1 + 1 + 3
    assert outline.text.count("untold") == 1  # in the table, but without a bar
    for words in (
        "+3.00",
        "0.40",
        " 0.125.",
        "best (y)",
        "12",
        "position error",
        "twin-slotformer",
        "crps",
    ):
        assert words in outline.text, words


def test_a_result_with_nothing_but_scores_has_only_these():
    result = {"systems": {"VAE": {"mean": {"psnr": 40.0}}}}
    text = build_evaluation_page(result, [])
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Results"]
    assert "VAE reaches 40.0 dB PSNR" in text


@pytest.mark.parametrize("section", ["collisions", "budget", "test_time_training"])
def test_what_is_empty_or_missing_is_left_out(result, section):
    for absent in ({}, None):
        text = build_evaluation_page(result | {section: absent}, [])
        assert len(re.findall("<h2>", text)) == len(SECTIONS) - 2  # no clips either
    del result[section]
    build_evaluation_page(result, [])


def test_results_of_older_versions_are_shown(result):
    """They had neither manifest nor detectors nor tolerances."""
    found = {"f1": 0.25, "precision": 0.2, "recall": 0.3, "true": 3}
    old = {
        "settings": {"workdir": "runs/old", "split": "train", "num_context": 0},
        "clips": result["clips"],
        "clips_sha256": "0123",
        "systems": {"flow-warp": system(psnr=30.0)},
        "collisions": {
            "tolerance": 5,
            "systems": {"flow-warp": {"whole_clip": found, "horizon": found}},
        },
        "test_time_training": {"mean": 0.1},
    }
    text = Outline(build_evaluation_page(old, [])).text
    assert "flow-warp, head" in text and "±5 frames" in text and "0.25" in text
    assert "old, train" in text and "0123" in text


def test_names_are_text_and_nothing_is_fetched(result):
    text = build_evaluation_page(result, clips())
    outline = Outline(text)
    assert outline.tags.count("script") == 1
    assert outline.text.count(MALICIOUS) >= 6
    sources = [
        value
        for key, value in outline.attributes
        if key in ("src", "href", "xlink:href", "poster", "action", "srcset")
    ]
    assert all(value.startswith(("data:", "#")) for value in sources)
    assert not re.search(r"@import|url\((?!#)", text)


def test_the_headline_says_what_was_measured_and_against_what(result):
    result["manifest"]["comparable"]["split"] = "validation"
    assert headline(result) == (
        "From 6 frames the next 4 were predicted on 5 clips of the validation split."
        " flow-warp + TTT reaches 30.5 dB PSNR, 5.5 dB better than copying the last"
        " frame (25.0 dB)."
    )
    for scores in result["systems"].values():
        scores["mean"]["psnr"] = None
    assert headline(result).endswith("PSNR was not measured.")


def test_the_summary_sets_events_against_their_ceiling(result):
    text = summary(result)
    assert "IoU of 0.5 for 3.2 of 4 frames" in text
    assert "±5 raw frames: head 0.50, kinematics 0.40 (0.80 on the true video)" in text
    assert "+0.50 dB" in text


def test_tolerances_are_in_order_and_collisions_say_what_is_not_known(result):
    text = Outline(build_evaluation_page(result, [])).text
    places = [text.index(f"±{tolerance} frames") for tolerance in (0, 5, 10)]
    assert places == sorted(places)
    row = text[text.index(f"{MALICIOUS}, head") :]
    assert row.removeprefix(f"{MALICIOUS}, head").startswith("–––0.61––12")


def test_a_place_that_cannot_be_written_is_one_clear_error(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        write_evaluation_page(tmp_path / "file" / "page.html", result, [])


def test_drawings_are_the_same_each_time_and_bear_values_that_are_missing():
    values = {"a": [1.0, math.nan, 3.0], MALICIOUS: [math.nan], "copy-last": []}
    dots = evaluation_plots.clip_dots(values, xlabel="PSNR (dB)")
    assert dots == evaluation_plots.clip_dots(values, xlabel="PSNR (dB)")
    assert b"<script>" not in dots
    known = {**values, "a": [3.0, 1.0]}
    assert dots == evaluation_plots.clip_dots(known, xlabel="PSNR (dB)")
    bars = evaluation_plots.bars({"up": 1.5, "down": -0.25}, xlabel="gain")
    assert b"+1.50" in bars and b"-0.25" in bars
    steps = evaluation_plots.points([5, 0], [1, 0], xlabel="steps", ylabel="gain")
    assert steps == evaluation_plots.points(
        [0, 5], [0, 1], xlabel="steps", ylabel="gain"
    )


def test_many_clips_do_not_make_a_large_drawing():
    few, many = (
        evaluation_plots.clip_dots(
            {"a": np.linspace(20, 40, count)}, xlabel="PSNR (dB)"
        )
        for count in (300, 5000)
    )
    assert len(many) < 1.2 * len(few)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium in PATH")
def test_in_a_browser(result, tmp_path):
    write_evaluation_page(tmp_path / "page.html", result, clips())
    document, complaints = browse(tmp_path / "page.html", tmp_path / "profile")
    assert complaints == []
    outline = Outline(document)
    assert outline.tags.count("script") == 1
    assert re.search(r"predicted \d of 4|context \d of 6", outline.text)
    assert outline.text.count("Pause") == 2
