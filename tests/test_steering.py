"""Labels from files to futures: predict --labels, and what an evaluation may know."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import jax_vidpred
from configs import cvae
from jax_vidpred import evaluate, experiment, predict
from jax_vidpred.data.schema import FLOW, MASK, PRESENT, STATE, VIDEO
from jax_vidpred.evaluation import clips, judge, networks
from jax_vidpred.evaluation.settings import settings_for

pytestmark = pytest.mark.slow
TWIN = "requires/twin/video_validation/video_10000-11000/video_10000.mp4"
NONE = networks.Networks({}, {}, {}, {}, {})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, smoke_workdir):
    """A conditional VAE after four steps, on the data of the smoke run."""
    folder = tmp_path_factory.mktemp("steered") / "cvae"
    config = cvae.get_config("smoke").to_dict()
    experiment.run(config, folder, smoke_workdir / "requires")
    return folder


@pytest.fixture(scope="module")
def predictor(workdir):
    return jax_vidpred.load(workdir)


def run(capsys, *arguments):
    code = predict.main([str(one) for one in arguments])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if line.startswith("predict: ")]


def test_an_edit_changes_the_future_and_the_page_shows_how(
    workdir, smoke_workdir, predictor, tmp_path, capsys
):
    edits, out = tmp_path / "edits.json", tmp_path / "out"
    edits.write_text('[{"object": 0, "move": [0.0, 1.5], "until": 40}]')
    line = ("--workdir", workdir, "--videos", smoke_workdir / TWIN, "--out", out)
    code, complaints = run(capsys, *line, "--labels", edits, "--start", 20)
    assert code == 0 and not complaints
    with np.load(out / "video_10000.npz") as stored:
        told = json.loads(str(stored["about"]))
        steered, plain = stored["prediction"], stored["prediction_unsteered"]
        context = stored["context"]
    assert told["systems"] == ["cvae, steered", "cvae"]
    assert (steered != plain).any()
    page = (out / "index.html").read_text()
    assert ">change<" in page.replace("\n", "") and "Steered: the objects" in page
    # The one beside it knows what was seen of the objects, and no more.
    source = experiment.prepare_data(
        predictor.config["data"], smoke_workdir / "requires"
    )["validation"]
    index = source.video_ids.tolist().index(10000)
    seen = source.empty((STATE, PRESENT), 1, 6)
    source.read(index, 20, 2, {key: array[0] for key, array in seen.items()})
    labels = {key: array[0] for key, array in seen.items()}
    expected = predictor.predict(context, 12, labels=labels).video
    np.testing.assert_allclose(plain / 255, expected, atol=0.51 / 255)
    without = predictor.predict(context, 12).video
    assert np.abs(without - expected).max() > 1e-3
    # Another file of edits is another prediction, the same one is not done again.
    code, _ = run(capsys, *line, "--labels", edits, "--start", 20)
    assert code == 0
    edits.write_text('[{"object": 0, "remove": true}]')
    code, _ = run(capsys, *line, "--labels", edits, "--start", 20)
    with np.load(out / "video_10000.npz") as stored:
        assert (stored["prediction"] != steered).any()


@pytest.mark.parametrize(
    "edits, said",
    [
        ('[{"object": 9, "move": [1, 1]}]', "object 9 is not there"),
        ("nonsense", "cannot be read"),
        (None, "no such file"),
    ],
)
def test_bad_edits_are_one_line(workdir, smoke_workdir, tmp_path, capsys, edits, said):
    path = tmp_path / "edits.json"
    if edits:
        path.write_text(edits)
    code, complaints = run(
        capsys,
        *("--workdir", workdir, "--videos", smoke_workdir / TWIN),
        *("--out", tmp_path / "out", "--labels", path),
    )
    assert code == 2 and said in complaints[0]


def test_a_system_that_is_not_steered_says_so(smoke_workdir, tmp_path, capsys):
    path = tmp_path / "edits.json"
    path.write_text('[{"object": 0, "remove": true}]')
    code, complaints = run(
        capsys,
        *("--workdir", smoke_workdir, "--videos", smoke_workdir / TWIN),
        *("--out", tmp_path / "out", "--labels", path),
    )
    assert code == 2 and "is not steered by object states" in complaints[0]


@pytest.fixture(scope="module")
def two_clips(smoke_workdir, predictor):
    """Settings of an evaluation, and a function that reads its first batch."""
    settings = settings_for(predictor.config, 6, {"batch_size": 2, "num_samples": 2})
    source = experiment.prepare_data(
        predictor.config["data"], smoke_workdir / "requires"
    )["validation"]
    listed = clips.fixed_clips(source, settings)[:2]
    keys = predictor.system.label_keys
    (_, read), *_ = clips.batches(source, listed, settings, keys)
    return settings, read


def test_scores_know_the_context_and_the_budget_the_future(predictor, two_clips):
    settings, read = two_clips
    batch, other = read(), read()
    assert batch["labelled"][batch[MASK]].all()
    # Objects do something else after the context: the scores do not know.
    other[STATE] = other[STATE].copy()
    other[STATE][:, 6:] += 0.7
    parts = [judge.Judge(predictor, settings, NONE)(one) for one in (batch, other)]
    for key in ("psnr", "psnr_best_of_2"):
        np.testing.assert_array_equal(
            parts[0]["scores"]["cvae"][key], parts[1]["scores"]["cvae"][key]
        )
    told = [part["budget"]["true labels"]["psnr"] for part in parts]
    assert np.abs(np.subtract(*told)).max() > 0
    assert set(parts[0]["budget"]) == {judge.AS_IT_IS, "true labels", "no label"}
    np.testing.assert_array_equal(
        parts[0]["budget"]["no label"]["psnr"], parts[1]["budget"]["no label"]["psnr"]
    )
    # Of the context they do.
    other[STATE][:, :6] += 0.7
    changed = judge.Judge(predictor, settings, NONE)(other)["scores"]["cvae"]["psnr"]
    assert np.abs(np.subtract(changed, parts[0]["scores"]["cvae"]["psnr"])).max() > 0
    assert {VIDEO, FLOW} < set(batch)


def test_the_command_counts_what_a_system_costs(workdir, tmp_path):
    options = dict(max_videos=1, num_samples=2, cost=True, show=False)
    result = evaluate.run(workdir, **options).result
    cost = result["cost"]
    assert cost["parameters"] > 1000 and cost["frozen"] == 0
    assert cost["train_step_ms"] > 0 and cost["predict_ms"] > 0
    assert result["settings"]["labels"] == (
        "state, present of the context of 4 of 4 clips"
    )
    assert result["uncertainty"]["samples"] == 2


def test_clips_without_labels_leave_those_of_others_alone(predictor, two_clips):
    settings, read = two_clips
    scores = []
    for labelled in ([True, True], [True, False], [False, False]):
        batch = {**read(), "labelled": np.array(labelled)}
        part = judge.Judge(predictor, settings, NONE)(batch)
        assert part["labelled"] == labelled
        row = part["scores"]["cvae"]
        scores.append(np.stack([np.mean(row["psnr"], 1), row["psnr_best_of_2"]], 1))
        unknown = np.isnan(np.mean(part["budget"]["true labels"]["psnr"], 1))
        np.testing.assert_array_equal(unknown, ~batch["labelled"])
    told, mixed, untold = scores
    np.testing.assert_allclose(mixed, [told[0], untold[1]], rtol=1e-6)
    assert (told != untold).any(1).all()


def test_velocities_are_those_of_the_stride_of_training(predictor):
    state = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    labels = {STATE: state, PRESENT: np.ones((2, 2), bool)}
    stride = 3 * predictor.frame_stride
    after = predictor.labels_at(stride, labels)
    np.testing.assert_array_equal(after[STATE][..., :2], state[..., :2])
    np.testing.assert_array_equal(after[STATE][..., 2:], 3 * state[..., 2:])
    np.testing.assert_array_equal(
        predictor.labels_at(predictor.frame_stride, labels)[STATE], state
    )


def test_stride_and_length_of_the_config_are_those_that_are_set():
    config = cvae.get_config()
    config.data.clip_stride, config.train.num_steps = 4, 77
    made = config.to_dict()
    assert made["system"]["frame_stride"] == 4
    assert made["losses"]["annealing"]["num_steps"] == 77


def test_an_annotation_that_appears_is_used(workdir, smoke_workdir, tmp_path, capsys):
    video = tmp_path / "video_10000.mp4"
    source = smoke_workdir / TWIN
    shutil.copy(source, video)
    line = ("--workdir", workdir, "--videos", video, "--out", tmp_path / "out")
    predictions = []
    beside = str(source).replace("video", "annotation").replace(".mp4", ".json")
    content = json.loads(pathlib.Path(beside).read_text())
    short = {**content, "motion_trajectory": content["motion_trajectory"][:3]}
    short["collision"] = []
    for annotation in (None, content, short):
        if annotation:
            text = json.dumps(annotation)
            video.with_name("annotation_10000.json").write_text(text)
        code, complaints = run(capsys, *line)
        assert code == 0 and not complaints
        with np.load(tmp_path / "out" / "video_10000.npz") as stored:
            predictions.append(stored["prediction"])
    none, known, too_short = predictions
    assert (none != known).any()
    np.testing.assert_array_equal(none, too_short)
