"""RIVER's checkpoints as work directories: tiny ones with the published names."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "features"))
from torch_writer import zip_bytes  # noqa: E402

import jax_vidpred  # noqa: E402
from configs import river_published  # noqa: E402
from jax_vidpred import convert_weights, experiment  # noqa: E402
from jax_vidpred.features import river_weights, vector_field_weights  # noqa: E402
from jax_vidpred.models.river import VectorField  # noqa: E402
from jax_vidpred.models.vq import VQ  # noqa: E402
from jax_vidpred.river_import import import_river  # noqa: E402
from jax_vidpred.systems.river import Sampling  # noqa: E402

SIZE = 16
NORM = "vector_field_regressor.project_out."
FIELD = {"features": 16, "num_heads": 8, "depth": 1, "mid_depth": 2}
VQ_SIZES = {"latent_channels": 4, "num_codes": 12, "features": 4}


def drawn(shapes, seed):
    """As if trained: no zeros; variances of batch norm above zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        scale = 0.1 if leaf.ndim == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        values = np.float32(scale * rng.normal(size=leaf.shape))
        return 1 + values**2 if "variance" in jax.tree_util.keystr(path) else values

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make_networks(preset):
    """A tiny autoencoder and field, and their parameters."""
    net = VQ(preset, **VQ_SIZES)
    field = VectorField(latent_channels=4, **FIELD)
    latent, ones = jnp.zeros((1, 2, 2, 4)), jnp.ones(1)
    shapes = (
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3))),
        jax.eval_shape(
            field.init,
            jax.random.key(0),
            *(latent, latent, latent, ones.astype(jnp.int32), ones),
        ),
    )
    params = [drawn(one["params"], seed) for seed, one in enumerate(shapes)]
    return net, field, *params


NETWORKS = {preset: make_networks(preset) for preset in ("river", "f8_small", "f16")}


def vq_tensors(preset, before=""):
    tensors = river_weights.vq_tensors(NETWORKS[preset][2])
    if preset == "river":  # torch counts, which is nothing to us
        counter = "decoder.residuals.0.1.norm.num_batches_tracked"
        tensors[counter] = np.asarray(3, np.int64)
    return {before + name: array for name, array in tensors.items()}


def field_tensors(preset, before="vector_field_regressor."):
    tensors = vector_field_weights.to_tensors(NETWORKS[preset][3])
    return {before + name: array for name, array in tensors.items()}


def model_tensors(preset):
    return vq_tensors(preset, "ae.backbone.") | field_tensors(preset)


def written(path, tensors, section="model", **besides):
    path.write_bytes(zip_bytes({section: tensors, **besides}))
    return path


def distributed(tensors):
    return {f"module.{name}": array for name, array in tensors.items()}


@pytest.fixture
def run(capsys):
    """Runs the command in this process; returns exit code and text."""

    def run(*arguments):
        code = convert_weights.main([str(one) for one in arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.slow
def test_model_file_becomes_a_work_directory_that_predicts(run, tmp_path):
    # As RIVER's trainer leaves it: of distributed training, with much besides.
    file = written(
        tmp_path / "model.pth",
        distributed(model_tensors("river")),
        optimizer={"state": {0: {"exp_avg": np.zeros(3, np.float32)}}},
        global_step=7,
    )
    workdir = tmp_path / "river"
    code, said = run(file, "--to", workdir, "--size", f"{SIZE}x{SIZE}")
    assert code == 0 and f"predict --workdir {workdir}" in said, said
    net, field, vq_params, field_params = NETWORKS["river"]
    stage = experiment.load(workdir)
    same(stage.params["field"], field_params)
    same(stage.params["vae"]["net"], vq_params)
    predictor = jax_vidpred.load(workdir)
    assert (predictor.num_context, predictor.num_future) == (2, 14)
    assert predictor.frame_stride == 5 and predictor.frame_size == (SIZE, SIZE)
    assert stage.system.sampling == Sampling("rk4_38", 99, 0.0, -1)
    assert stage.system.sigma == 1e-7

    # Latents are neither shifted nor scaled on the way from the one net to the other.
    context = np.random.default_rng(0).random((1, 2, SIZE, SIZE, 3), np.float32)
    latents = jax.jit(stage.system.vae.encode)(stage.params["vae"], context)
    encode = jax.jit(lambda p, x: net.apply({"params": p}, x, method="encode"))
    np.testing.assert_allclose(latents[0], encode(vq_params, context[0]), atol=1e-6)
    frames = predictor.predict(context, 1).video
    assert frames.shape == (1, 1, SIZE, SIZE, 3) and np.isfinite(frames).all()
    # Of the published size of its attention's heads, which no tensor tells.
    assert stage.system.net == field.clone(dropout=0.05)


@pytest.mark.slow
def test_names_without_the_prefix_of_distributed_training(tmp_path):
    file = written(tmp_path / "model.pth", model_tensors("river"))
    stage = import_river(file, None, tmp_path / "run", height=SIZE, width=SIZE)
    same(stage.params["field"], NETWORKS["river"][3])


@pytest.mark.slow
def test_autoencoder_of_latent_diffusion_in_a_file_of_its_own(run, tmp_path):
    file = written(tmp_path / "model.pth", distributed(field_tensors("f8_small")))
    lost = {"loss.logvar": np.zeros((), np.float32)}
    vae = written(tmp_path / "vqvae.ckpt", vq_tensors("f8_small") | lost, "state_dict")
    line = (file, "--vae", vae, "--to", tmp_path / "run", "--trained_on", "kth")
    code, said = run(*line, "--frame_stride", 3)
    assert code == 0, said
    stage = experiment.load(tmp_path / "run")
    same(stage.params["vae"]["net"], NETWORKS["f8_small"][2])
    predictor = jax_vidpred.load(tmp_path / "run")
    assert stage.system.vae.net.preset == "f8_small"
    assert (predictor.num_context, predictor.num_future) == (10, 30)
    assert predictor.frame_size == (64, 64) and predictor.frame_stride == 3
    code, said = run(*line)
    assert code == 2 and "holds something already" in said


@pytest.mark.slow
def test_a_batch_norm_at_the_end_becomes_scale_and_offset(run, tmp_path):
    # BAIR at 256x256: the norm stands one place later than a layer norm does.
    tensors = model_tensors("f16")
    statistics = {"running_mean": np.float32([0.5, -2.0] * 8)}
    statistics["running_var"] = np.float32([3.0, 0.25] * 8)
    for part in ("weight", "bias"):
        statistics[part] = tensors.pop(f"{NORM}2.{part}")
    statistics["num_batches_tracked"] = np.asarray(130_000, np.int64)
    norm = {f"{NORM}3.{part}": array for part, array in statistics.items()}
    file = written(tmp_path / "model.pth", tensors | norm)
    code, said = run(file, "--to", tmp_path / "run")
    assert code == 0, said
    stage = experiment.load(tmp_path / "run")
    assert stage.system.net.last_norm == "frozen"
    assert jax_vidpred.load(tmp_path / "run").frame_size == (256, 256)
    one = np.random.default_rng(0).normal(size=(5, 16))
    scale, bias = (
        stage.params["field"]["out_norm"][part] for part in ("scale", "bias")
    )
    normed = (one - statistics["running_mean"]) / np.sqrt(
        statistics["running_var"] + 1e-5
    )
    wanted = normed * statistics["weight"] + statistics["bias"]
    np.testing.assert_allclose(one * scale + bias, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_imported_config_is_the_published_one(tmp_path):
    for name, preset, published in (
        ("clevrer", "river", "clevrer128"),
        ("kth", "f8_small", "kth"),
        ("bair256", "f16", "bair256"),
    ):
        file = written(tmp_path / f"{name}.pth", model_tensors(preset))
        import_river(file, None, tmp_path / name, trained_on=name)
        made = experiment.read_record(tmp_path / name)["config"]
        wanted = river_published.get_config(published).to_dict()
        for key in ("name", "num_context", "sampling"):
            assert made["system"][key] == wanted["system"][key]
        for key in ("height", "width", "clip_stride", "frame_stride", "grid_stride"):
            assert made["data"][key] == wanted["data"][key]
        assert made["eval"]["clip_frames"] == wanted["eval"]["clip_frames"]
        assert made["losses"] == wanted["losses"] and wanted["ema"]["decay"] is None
        tiny = {**FIELD, "patch": 1, "dropout": 0.05}
        assert made["model"] == wanted["model"] | tiny
        stage = made["requires"]["vqgan"]["model"]
        assert stage == wanted["requires"]["vqgan"]["model"] | VQ_SIZES


@pytest.mark.slow
def test_what_cannot_be_imported_leaves_nothing_behind(run, tmp_path):
    whole, field = model_tensors("river"), field_tensors("river")
    torn = dict(whole)
    torn.pop("vector_field_regressor.mid_blocks.1.norm2.bias")
    other = {k: v for k, v in vq_tensors("f8_small").items() if ".attn." not in k}
    contents = {
        "whole": whole,
        "field": field,
        "half": whole | {NORM + "3.running_var": np.ones(16, np.float32)},
        "torn": torn,
        "odd": whole | {"vector_field_regressor.extra": np.zeros(3, np.float32)},
        "vae": vq_tensors("river"),
        "other": other,
        "nothing": {"my.weight": np.zeros(3, np.float32)},
    }
    files = {k: written(tmp_path / f"{k}.pth", v) for k, v in contents.items()}
    for name, options, message in (
        ("field", (), "a model without its autoencoder; give the vqvae.pth"),
        ("whole", ("--vae", files["vae"]), "holds the autoencoder itself; leave out"),
        ("field", ("--vae", files["nothing"]), "nothing.pth: no autoencoder of RIVER"),
        ("field", ("--vae", files["other"]), "other.pth: an autoencoder that RIVER"),
        ("half", (), "half.pth: project_out.3.weight is missing: another network"),
        ("torn", (), "torn.pth: 1 of 64 parameters are missing (mid_blocks_1/norm_hid"),
        ("odd", (), "extra is not part of this network"),
        ("whole", ("--size", "20x16"), "width=20; wanted that of the frames that"),
        ("whole", ("--frame_stride", 0), "frame_stride=0; wanted at least 1"),
    ):
        code, said = run(files[name], "--to", tmp_path / "new" / "run", *options)
        assert code == 2 and message in said and len(said.splitlines()) == 1, said
        assert not list(tmp_path.glob("new/*"))
    with pytest.raises(ValueError, match="trained_on='mars' is unknown; use one of"):
        import_river(files["whole"], None, tmp_path / "new", trained_on="mars")
