"""Imported checkpoints of the PyTorch reference: names, roll-outs, work directories."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jax_vidpred
from jax_vidpred import evaluate, experiment, predict
from jax_vidpred.data import schema
from jax_vidpred.experiment import ExperimentError
from jax_vidpred.features import weights
from jax_vidpred.features.weights import WeightsError
from jax_vidpred.models.reference import ReferenceTemporal
from jax_vidpred.models.vae import VAE
from jax_vidpred.reference_import import import_reference
from jax_vidpred.systems import reference

C, FEATURES, OBJECTS = 4, 8, 2
B, T, FUTURE, SIZE = 2, 4, 3, 16
VAE_SHAPES = {
    "encoder.net.0": (32, 3, 4, 4),
    "encoder.net.2": (64, 32, 4, 4),
    "encoder.net.4": (2 * C, 64, 4, 4),
    "decoder.net.0": (C, 64, 4, 4),
    "decoder.net.2": (64, 32, 4, 4),
    "decoder.net.4": (32, 3, 4, 4),
}
TEMPORAL_SHAPES = {
    "input_proj": (FEATURES, C, 1, 1),
    "conv_lstm.gates": (4 * FEATURES, 2 * FEATURES, 3, 3),
    "flow_head.net.0": (32, FEATURES, 3, 3),
    "flow_head.net.2": (2, 32, 3, 3),
    "occ_head.net.0": (32, FEATURES, 3, 3),
    "occ_head.net.2": (1, 32, 3, 3),
    "residual_head.net.0": (2 * C, C, 3, 3),
    "residual_head.net.2": (C, 2 * C, 3, 3),
    "state_head.net.0": (256, FEATURES),
    "state_head.net.2": (6 * OBJECTS, 256),
    "collision_head.net.0": (64, FEATURES),
    "collision_head.net.2": (1, 64),
}


def drawn(shapes, seed):
    """A state dict with the names, shapes and layout of the reference."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer, shape in shapes.items():
        scale = 1.4 * np.prod(shape[1:]) ** -0.5
        outputs = shape[1] if layer.startswith("decoder.") else shape[0]
        tensors[f"{layer}.weight"] = np.float32(draw.normal(0, scale, shape))
        tensors[f"{layer}.bias"] = np.float32(draw.normal(0, 0.3, outputs))
    return tensors


VAE_TENSORS, TEMPORAL_TENSORS = drawn(VAE_SHAPES, 0), drawn(TEMPORAL_SHAPES, 1)
CONTEXT = np.random.default_rng(2).random((B, T, SIZE, SIZE, 3), np.float32)
VAE_NET = VAE(**reference.vae_model(VAE_TENSORS))
NET = ReferenceTemporal(**reference.temporal_model(TEMPORAL_TENSORS))

# What `tests/oracle/torch_reference.py` computes of the same tensors and frames: first
# numbers of the first video, after its first frame, last step, last predicted frame.
RECORDED = {
    "mean": [-1.532708, -0.752527],
    "logvar": [-0.862837, -0.635656],
    "decoded": [0.486419, 0.481377, 0.643196],
    "flow": [-0.071261, 0.037466],
    "mask": [0.432296],
    "residual": [-0.092896, -0.395795],
    "latent": [-0.461778, -0.329548],
    "states": [0.207120, 0.231450],
    "collision": [-0.162163],
    "video": [0.487483, 0.478590, 0.647879],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that hold one network each."""
    folder = tmp_path_factory.mktemp("files")
    for name, tensors in (("vae", VAE_TENSORS), ("temporal", TEMPORAL_TENSORS)):
        safetensors.numpy.save_file(tensors, folder / f"{name}.safetensors")
    return folder


def imported(folder, workdir, **options):
    options = {"height": SIZE, "width": SIZE} | options
    paths = folder / "temporal.safetensors", folder / "vae.safetensors"
    return import_reference(*paths, workdir, **options)


@pytest.fixture(scope="module")
def workdirs(folder, tmp_path_factory):
    """One for each kind of roll-out."""
    runs = tmp_path_factory.mktemp("runs")
    for rollout in reference.ROLLOUTS:
        imported(folder, runs / rollout, rollout=rollout)
    return runs


@pytest.fixture(scope="module", params=reference.ROLLOUTS)
def rollout(request):
    return request.param


@pytest.fixture(scope="module")
def prediction(workdirs, rollout):
    return jax_vidpred.load(workdirs / rollout).predict(CONTEXT, FUTURE)


PARAMS = jax.tree.map(
    jnp.asarray,
    {
        "vae": reference.vae_params(VAE_TENSORS),
        "temporal": reference.temporal_params(TEMPORAL_TENSORS),
    },
)


@jax.jit
def encode(frames):
    return VAE_NET.apply({"params": PARAMS["vae"]}, frames, method="encode")


@jax.jit
def decode(latents):
    return VAE_NET.apply({"params": PARAMS["vae"]}, latents, method="decode")


@jax.jit
def run(latents):
    return NET.apply({"params": PARAMS["temporal"]}, latents)


def encode_context():
    return jnp.stack([encode(frame).mean for frame in CONTEXT.swapaxes(0, 1)], 1)


def test_values_recorded_from_torch(workdirs):
    posterior = encode(CONTEXT[:, 0])
    steps, states, collision = run(encode_context())
    predicted = jax_vidpred.load(workdirs / "faithful").predict(CONTEXT, FUTURE)
    ours = {
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "decoded": decode(posterior.mean),
        "flow": steps.flow[:, -1],
        "mask": steps.mask[:, -1],
        "residual": steps.residual[:, -1],
        "latent": steps.latent[:, -1],
        "states": states[:, -1],
        "collision": collision[:, -1:],
        "video": predicted.video[:, -1],
    }
    assert set(ours) == set(RECORDED)
    for name, values in RECORDED.items():
        found = np.ravel(ours[name][0])[: len(values)]
        np.testing.assert_allclose(found, values, atol=1e-5, err_msg=name)


def test_a_prediction_is_what_the_model_says_of_what_it_has_seen(prediction, rollout):
    """The same roll-out, all of it seen anew for every frame."""
    seen = encode_context()
    if rollout == "faithful":
        seen = jnp.concatenate([seen, seen[:, -1:]], 1)
    for k in range(FUTURE):
        steps, _, _ = run(seen)
        latent = steps.latent[:, -1]
        frame = decode(latent)
        np.testing.assert_allclose(prediction.video[:, k], frame, atol=1e-5)
        for key, name in (("flow", "flow"), ("visible", "mask")):
            expected = getattr(steps, name)[:, -1]
            found = prediction.aux[key][:, T - 1 + k]
            np.testing.assert_allclose(found, expected, atol=1e-5)
        if rollout == "faithful":
            latent = encode(frame).mean
        seen = jnp.concatenate([seen, latent[:, None]], 1)
    for key, name in (("flow", "flow"), ("visible", "mask")):
        assert prediction.aux[key].shape[1] == T - 1 + FUTURE
        expected = getattr(steps, name)[:, : T - 1]
        np.testing.assert_allclose(prediction.aux[key][:, : T - 1], expected, atol=1e-5)


def test_one_frame_can_be_asked_for(prediction, rollout, workdirs):
    one = jax_vidpred.load(workdirs / rollout).predict(CONTEXT, 1).video
    np.testing.assert_allclose(one, prediction.video[:, :1], atol=1e-6)


# --- names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensors, to_params",
    [
        (VAE_TENSORS, reference.vae_params),
        (TEMPORAL_TENSORS, reference.temporal_params),
    ],
    ids=["vae", "temporal"],
)
def test_export_is_the_inverse_of_import(tensors, to_params):
    params = to_params(tensors)
    exported = reference.export_torch(params)
    assert set(exported) == set(tensors)
    for name, array in tensors.items():
        assert exported[name].shape == array.shape
        assert exported[name].tobytes() == array.tobytes()
    again = to_params(exported)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_networks_are_recognised():
    found = [
        weights.recognise(tensors, reference.NETWORKS).name
        for tensors in (VAE_TENSORS, TEMPORAL_TENSORS)
    ]
    assert found == ["reference_vae", "reference_temporal"]
    assert weights.recognise({"log_vars": np.zeros(5)}, reference.NETWORKS) is None


def without(tensors, name):
    return {key: array for key, array in tensors.items() if key != name}


@pytest.mark.parametrize(
    "to_params, tensors, message",
    [
        (
            reference.vae_params,
            without(VAE_TENSORS, "decoder.net.0.weight"),
            "decoder.net.0.weight is missing",
        ),
        (
            reference.vae_params,
            without(VAE_TENSORS, "encoder.net.2.bias"),
            "1 of 12 parameters are missing .encoder/Conv_1/bias",
        ),
        (
            reference.temporal_params,
            TEMPORAL_TENSORS | {"flow_head.net.4.bias": np.zeros(2)},
            "flow_head.net.4.bias is not part of this network",
        ),
        (
            reference.temporal_params,
            TEMPORAL_TENSORS | {"occ_head.net.0.bias": np.zeros(31)},
            "occ_head.net.0.bias has shape .31,., which does not fit",
        ),
        (
            lambda _: reference.export_torch({"embed": {"kernel": np.zeros(3)}}),
            {},
            "embed/kernel has no place in the reference's networks",
        ),
    ],
)
def test_what_is_no_network_of_the_reference(to_params, tensors, message):
    with pytest.raises(WeightsError, match=message) as error:
        to_params(tensors)
    assert "\n" not in str(error.value)


# --- work directories -----------------------------------------------------------------


def test_test_time_training_changes_the_flow_head_only(workdirs):
    predictor = jax_vidpred.load(workdirs / "corrected")
    system, params = predictor.system, predictor.params
    assert system.adaptable == ("temporal", "flow_head")

    @jax.jit
    def losses(temporal, video):
        def loss(temporal):
            each = system.adaptation_loss({**params, "temporal": temporal}, video)
            return each.sum(), each

        return jax.grad(loss, has_aux=True)(temporal)

    data = system.adaptation_data(params, jnp.asarray(CONTEXT))
    video = {key: value[0] for key, value in data.items()}
    gradient, found = losses(params["temporal"], video)
    warped = decode(run(encode_context())[0].warped[0, :-1])
    expected = np.abs(warped - CONTEXT[0, 1:]).mean((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    moved = {
        name for name in gradient if any(map(np.any, jax.tree.leaves(gradient[name])))
    }
    assert moved == {"flow_head"}
    ttt = {"num_steps": 2, "learning_rate": 1e-2, "min_gain": 0.0}
    adapted = predictor.predict(CONTEXT, FUTURE, ttt)
    assert adapted.video.shape == (B, FUTURE, SIZE, SIZE, 3)
    assert np.isfinite(adapted.video).all()
    assert np.all(adapted.aux["ttt_loss_after"] <= adapted.aux["ttt_loss_before"])


def test_a_work_directory_is_like_any_other(workdirs):
    predictor = jax_vidpred.load(workdirs / "corrected")
    assert predictor.label == "reference"
    assert predictor.frame_size == (SIZE, SIZE)
    assert (predictor.num_context, predictor.num_future) == (20, 12)
    assert predictor.frame_stride == 1
    record = experiment.read_record(workdirs / "corrected")
    assert record["requires"] == {"vae": "requires/vae"}
    assert record["data"] == "requires"
    assert str(workdirs) not in json.dumps(record)  # it can be moved
    assert record["config"]["system"]["rollout"] == "corrected"
    assert not list(workdirs.glob("*.part"))
    vae = experiment.load(workdirs / "corrected" / "requires" / "vae")
    latents = jax.jit(vae.system.encode)(vae.params, CONTEXT)
    np.testing.assert_allclose(latents, encode_context(), atol=1e-6)


@pytest.mark.slow
def test_the_commands_take_it(folder, tmp_path, smoke_workdir):
    workdir, twin = tmp_path / "run", smoke_workdir / "requires/twin"
    imported(folder, workdir, height=32, width=32)
    record = experiment.read_record(workdir)
    record["config"]["data"]["root"] = str(twin)  # a twin of its own takes a minute
    (workdir / experiment.RECORD).write_text(json.dumps(record))
    asked = {"num_context": 4, "num_future": 3, "clips_per_video": 1, "max_videos": 1}
    result = evaluate.run(workdir, **asked, ttt=({"num_steps": 1},)).result
    names = ["reference", "reference + TTT", "constant velocity", "copy-last"]
    assert list(result["systems"]) == [*names, "VAE ceiling", "truth"]
    scores = result["systems"]["reference"]["mean"]
    assert np.isfinite(scores["psnr"]) and "iou_carried" in scores
    line = ["--workdir", workdir, "--out", tmp_path / "out", "--num_context", 4]
    line += ["--num_future", 3, "--videos", twin / "video_train"]
    assert predict.main([str(word) for word in line]) == 0
    assert (tmp_path / "out" / "index.html").exists()


def test_evaluation_step(workdirs):
    stage = experiment.load(workdirs / "corrected")
    video = np.zeros((B, 20 + FUTURE, SIZE, SIZE, 3), np.uint8)
    video[:, :, ::2] = 200
    batch = {schema.VIDEO: video}
    state = jax.eval_shape(stage.system.init, jax.random.key(0), batch)
    state = state.replace(
        step=0,
        params={"temporal": stage.params["temporal"]},
        frozen={"vae": stage.params["vae"]},
    )
    scores = jax.jit(stage.system.eval_step)(state, batch, jax.random.key(0))
    own = jax_vidpred.load(workdirs / "corrected").predict(video[:, :20], FUTURE)
    square = np.square(own.video - video[:, 20:] / np.float32(255))
    expected = -10 * np.log10(square.mean((2, 3, 4))).mean(1)
    np.testing.assert_allclose(scores["psnr"], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="predict and are evaluated, but not trained"):
        stage.system.train_step(state, batch, jax.random.key(0))


def test_the_vae_alone(folder, tmp_path):
    path = folder / "vae.safetensors"
    stage = import_reference(path, None, tmp_path / "vae", height=SIZE, width=24)
    again = jax.jit(stage.system.vae.apply)({"params": stage.params["net"]}, CONTEXT[0])
    np.testing.assert_allclose(again, decode(encode(CONTEXT[0]).mean), atol=1e-6)
    with pytest.raises(ValueError, match="holds a vae, which predicts no future"):
        jax_vidpred.load(tmp_path / "vae")


def test_what_cannot_be_imported_leaves_nothing_behind(folder, tmp_path):
    wide = {**VAE_SHAPES, "decoder.net.0": (C + 1, 64, 4, 4)}
    wide["encoder.net.4"] = (2 * C + 2, 64, 4, 4)
    files = tmp_path / "files"
    files.mkdir()
    contents = {
        "wide_vae": drawn(wide, 0),
        "other": {"log_vars": np.zeros(5, np.float32)},
        "torn": without(TEMPORAL_TENSORS, "state_head.net.2.bias"),
    }
    for name, tensors in contents.items():
        safetensors.numpy.save_file(tensors, files / f"{name}.safetensors")
    temporal, vae = (folder / f"{name}.safetensors" for name in ("temporal", "vae"))
    wide_vae, other, torn = (files / f"{name}.safetensors" for name in contents)
    cases = [
        ((temporal, None), {}, "without its VAE; give the vae_epoch"),
        ((vae, vae), {}, "vae.safetensors: holds a VAE itself; leave out"),
        ((temporal, temporal), {}, "no VAE of the PyTorch reference; wanted its vae_"),
        ((temporal, wide_vae), {}, "of 4 latent channels does not go with a VAE of 5"),
        ((other, vae), {}, "no checkpoint of the PyTorch reference; wanted its temp"),
        ((torn, vae), {}, "torn.safetensors: 1 of 24 parameters are missing"),
        ((temporal, vae), {"height": 20}, "height=20; wanted that of the frames that"),
        ((temporal, vae), {"width": 0}, "width=0; wanted that of the frames that"),
        ((temporal, vae), {"frame_stride": 0}, "frame_stride=0; wanted at least 1"),
        ((temporal, vae), {"rollout": "fast"}, "rollout='fast' is unknown; use one of"),
        ((files / "none.pt", vae), {}, "none.pt: no such file"),
    ]
    for paths, options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            import_reference(*paths, tmp_path / "new" / "run", **options)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_a_folder_that_holds_something_stays_as_it_is(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExperimentError, match="holds something already; choose a new"):
        imported(folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
