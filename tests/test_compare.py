"""The command that sets results beside each other: rows, differences, refusals."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from jax_vidpred import compare
from jax_vidpred.report.table import COLLISION_COUNTS

CLIPS = 24
RNG = np.random.default_rng(0)
HARDNESS = RNG.normal(30, 4, CLIPS)  # of each clip: more than systems differ


def system(offset, noise=0.1, seed=1):
    """Scores of a system that is better by `offset` dB, clip by clip."""
    psnr = HARDNESS + offset + np.random.default_rng(seed).normal(0, noise, CLIPS)
    return {
        "mean": {"psnr": float(psnr.mean()), "mse": 0.001, "lpips_vgg": None},
        "per_frame": {},
        "per_clip": {"psnr": psnr.tolist(), "mse": [0.001] * CLIPS},
    }


def make_result(workdir, offset=0.0, **comparable):
    """A result with the keys that `compare` reads."""
    return {
        "command": f"evaluate --workdir {workdir}",
        "manifest": {
            "comparable": {
                "protocol": "twin-slotformer",
                "split": "validation",
                "clips_sha256": "0123",
                "num_context": 6,
                "num_future": 42,
                "stride": 2,
                "metrics": {"ssim": "wang-gauss"},
                **comparable,
            },
            "own": {"workdir": workdir, "checkpoint": "ab"},
        },
        "clips": [[10000 + k, 0] for k in range(CLIPS)],
        "systems": {
            "flow-warp": system(offset, seed=int(10 * offset)),
            "copy-last": system(-5.0, seed=99),
            "truth": {"mean": {"iou_tracked": 0.97}},
        },
    }


@pytest.fixture
def write(tmp_path):
    def write(name, result):
        path = tmp_path / name
        path.write_text(json.dumps(result))
        return str(path)

    return write


@pytest.fixture
def pair(write):
    return [
        write("a.json", make_result("runs/a")),
        write("b.json", make_result("runs/b", 0.5)),
    ]


def refusal(capsys, paths):
    """The one line that the command says instead of comparing."""
    assert compare.main(list(paths)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_rows_are_named_by_work_directory_and_baselines_appear_once(pair):
    found = compare.run(pair)
    assert list(found["scores"]) == ["a", "b", "copy-last", "truth"]
    assert found["notes"] == []
    assert found["against"] == "a"
    assert found["results"]["b"]["own"]["workdir"] == "runs/b"


def test_a_difference_smaller_than_the_spread_of_clips_is_found(pair):
    one = compare.run(pair)["differences"]["b"]["psnr"]
    assert one["difference"] == pytest.approx(0.5, abs=0.1)
    assert 0.3 < one["low"] < one["difference"] < one["high"] < 0.7
    assert (one["verdict"], one["clips"]) == ("better", CLIPS)
    back = compare.run(pair[::-1])["differences"]["a"]["psnr"]
    assert back["difference"] == pytest.approx(-one["difference"])
    assert back["verdict"] == "worse"


def test_what_chance_explains_is_not_marked(write):
    results = [make_result("a"), make_result("b")]
    results[1]["systems"]["flow-warp"] = system(0.01, noise=1.0, seed=5)
    paths = [write(f"{k}.json", result) for k, result in enumerate(results)]
    found = compare.run(paths)["differences"]["b"]
    assert found["psnr"]["low"] < 0 < found["psnr"]["high"]
    assert found["psnr"]["verdict"] == found["mse"]["verdict"] == ""


def test_less_of_an_error_is_better(write):
    results = [make_result("a"), make_result("b")]
    mse = (0.0009 + 1e-6 * np.arange(CLIPS)).tolist()
    results[1]["systems"]["flow-warp"]["per_clip"]["mse"] = mse
    paths = [write(f"{k}.json", result) for k, result in enumerate(results)]
    assert compare.run(paths)["differences"]["b"]["mse"]["verdict"] == "better"


def test_clips_without_a_value_are_left_out(write):
    results = [make_result("a"), make_result("b", 0.5)]
    results[1]["systems"]["flow-warp"]["per_clip"]["psnr"][0] = None
    paths = [write(f"{k}.json", result) for k, result in enumerate(results)]
    one = compare.run(paths)["differences"]["b"]["psnr"]
    assert one["clips"] == CLIPS - 1
    assert one["difference"] == pytest.approx(0.5, abs=0.1)


def test_f1_is_that_of_all_clips_together():
    """One clip with many events weighs more than one with few."""
    first = dict(zip(COLLISION_COUNTS, ([0, 9], [1, 10], [1, 10]), strict=True))
    second = dict(zip(COLLISION_COUNTS, ([1, 9], [1, 10], [1, 10]), strict=True))
    found = compare.differences({"per_clip": first}, {"per_clip": second})
    assert list(found) == ["collision_f1"]
    assert found["collision_f1"]["difference"] == pytest.approx(20 / 22 - 18 / 22)


def test_one_result_is_compared_with_itself_before_training_on_the_test(write):
    result = make_result("runs/a")
    adapted = system(0.2)
    result["systems"] = {
        "flow-warp": result["systems"]["flow-warp"],
        "flow-warp + TTT": adapted,
    }
    found = compare.run([write("a.json", result)])
    assert list(found["scores"]) == ["a", "a + TTT"]
    assert found["differences"]["a + TTT"]["psnr"]["verdict"] == "better"


def test_names_take_as_many_folders_as_tell_them_apart(write):
    paths = [
        write(f"{k}.json", make_result(workdir, k))
        for k, workdir in enumerate(["x/seed0/joint", "x/seed1/joint"])
    ]
    assert list(compare.run(paths)["scores"])[:2] == ["seed0/joint", "seed1/joint"]
    same = [write(f"{k}.json", make_result("runs/a", k)) for k in range(2)]
    assert list(compare.run(same)["scores"])[:2] == same


def test_baselines_that_differ_are_all_shown_and_named(write):
    results = [make_result("a"), make_result("b", 0.5)]
    means = results[1]["systems"]["copy-last"]["mean"]
    means["psnr"] *= 1 + 1e-6  # rounding
    paths = [write(f"{k}.json", result) for k, result in enumerate(results)]
    assert compare.run(paths)["notes"] == []
    means["psnr"] += 0.1
    paths = [write(f"{k}.json", result) for k, result in enumerate(results)]
    found = compare.run(paths)
    assert {"copy-last, a", "copy-last, b"} < set(found["scores"])
    (note,) = found["notes"]
    assert "copy-last" in note and "PSNR" in note and "for a and" in note


def test_unlike_results_are_refused_by_key_values_and_files(write, capsys):
    a = write("a.json", make_result("a"))
    b = write("b.json", make_result("b", num_future=12, clips_sha256="4567"))
    line = refusal(capsys, [a, b])
    assert f"num_future is 42 in {a} and 12 in {b}" in line
    c = write("c.json", make_result("c", clips_sha256="4567"))
    assert 'clips_sha256 is "0123"' in refusal(capsys, [a, c])
    lacking = make_result("d")
    del lacking["manifest"]["comparable"]["stride"]
    assert "stride is 2" in refusal(capsys, [a, write("d.json", lacking)])


def test_only_metrics_that_both_have_must_be_of_one_variant(write, capsys):
    a = write("a.json", make_result("a"))
    other = make_result("b", metrics={"ssim": "wang-gauss", "lpips_vgg": "sha 1"})
    b = write("b.json", other)
    assert compare.main([a, b]) == 0
    capsys.readouterr()
    unlike = make_result("c", metrics={"lpips_vgg": "sha 2"})
    c = write("c.json", unlike)  # like the first, unlike the second
    line = refusal(capsys, [a, b, c])
    assert f'the variant of lpips_vgg is "sha 1" in {b} and "sha 2" in {c}' in line


def test_what_is_no_result_is_named(write, capsys, tmp_path, pair):
    old = make_result("a")
    del old["manifest"]
    damaged = make_result("a")
    damaged["systems"]["flow-warp"]["per_clip"]["psnr"].pop()
    (tmp_path / "text.json").write_text("no JSON")
    for path, reason in [
        (str(tmp_path / "nothing.json"), "cannot be read"),
        (str(tmp_path), "cannot be read"),
        (str(tmp_path / "text.json"), "is no result of evaluate"),
        (write("list.json", []), "is no result of evaluate"),
        (write("empty.json", {"systems": {}}), "is no result of evaluate"),
        (write("old.json", old), "older version"),
        (write("damaged.json", damaged), "23 values for 24 clips"),
        (pair[0], "given twice"),
    ]:
        assert f"{path}: " in (line := refusal(capsys, [pair[0], path]))
        assert reason in line
    assert "holds one system" in refusal(capsys, pair[:1])


def test_markdown_and_terminal(pair, capsys):
    assert compare.main(pair) == 0
    text = capsys.readouterr().out
    assert "b against a" in text and "better" in text and "6 -> 42 frames" in text
    assert max(map(len, text.splitlines())) <= 100
    assert compare.main([*pair, "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "| **PSNR (dB) ↑** | **+0.4" in text
    assert "\n| system | PSNR (dB) ↑ |" in text


def test_the_file_holds_all_numbers_and_no_nan(pair, tmp_path, capsys):
    out = tmp_path / "new" / "comparison.json"
    assert compare.main([*pair, "--out", str(out)]) == 0

    def fail(constant):
        raise AssertionError(f"{constant} in the file")

    found = json.loads(out.read_text(), parse_constant=fail)
    assert found["differences"]["b"]["psnr"]["verdict"] == "better"
    assert found["scores"]["a"]["lpips_vgg"] is None
    assert found["level"] == 0.95


@pytest.mark.slow
def test_as_a_command(pair):
    command = [sys.executable, "-m", "jax_vidpred.compare", *pair]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "b against a" in run.stdout


def test_the_given_results_stay_as_they_are():
    one, other = system(0.0), system(0.5)
    before = copy.deepcopy((one, other))
    compare.differences(one, other)
    assert (one, other) == before


def test_collisions_are_counted_in_fewer_clips_where_some_are_not_annotated(write):
    results = [make_result("a"), make_result("b", 0.5)]
    for matched, result in enumerate(results):
        rest = [None] * (CLIPS - 4)  # are not annotated
        counts = ([matched] * 4 + rest, [1] * 4 + rest, [1] * 4 + rest)
        per_clip = result["systems"]["flow-warp"]["per_clip"]
        per_clip |= dict(zip(COLLISION_COUNTS, counts, strict=True))
    paths = [write(f"{k}.json", result) for k, result in enumerate(results)]
    one = compare.run(paths)["differences"]["b"]["collision_f1"]
    assert (one["difference"], one["clips"], one["verdict"]) == (1.0, 4, "better")


def test_page_has_scores_costs_frames_and_trainings(write, tmp_path, capsys):
    paths = []
    for name, beta in (("a", 0.0), ("b", 1.0)):
        workdir = tmp_path / name
        workdir.mkdir()
        rows = [
            {"step": k, "train/loss": 0.1 + beta, "train/kl_factor": beta * k}
            for k in (1, 2)
        ]
        text = "\n".join(json.dumps(row) for row in rows)
        (workdir / "metrics.jsonl").write_text(text)
        result = make_result(str(workdir), offset=beta)
        result["systems"]["flow-warp"]["per_frame"] = {"psnr": [30.0, 29.0 + beta]}
        result["cost"] = {
            "parameters": 2_500_000,
            "frozen": 0,
            "train_step_ms": 12.0,
            "batch_size": 8,
            "clip_frames": 16,
            "predict_ms": 3.0,
        }
        paths.append(write(f"{name}.json", result))
    page = tmp_path / "page.html"
    assert compare.main([*paths, "--page", str(page)]) == 0
    assert "2.50" in capsys.readouterr().out  # millions of parameters
    text = page.read_text()
    for wanted in ("What each takes", "Training, side by side", "kl factor", "2.50"):
        assert wanted in text
    assert "b reaches" in text  # not a baseline
