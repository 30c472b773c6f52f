"""The reference's networks, roll-out and files against the same in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs pip install torch (extra 'oracle')")

import torch_reference as twin  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import jax_vidpred  # noqa: E402
from jax_vidpred.features.weights import WeightsError  # noqa: E402
from jax_vidpred.models.reference import ReferenceTemporal  # noqa: E402
from jax_vidpred.models.vae import VAE  # noqa: E402
from jax_vidpred.reference_import import import_reference  # noqa: E402
from jax_vidpred.systems import reference  # noqa: E402

B, T, FUTURE, H, W = 2, 4, 5, 32, 48
SIZES = [{"c_z": 32, "c_lstm": 64, "n_max": 6}, {"c_z": 5, "c_lstm": 12, "n_max": 3}]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=SIZES, ids=["published", "small"])
def nets(request):
    """Both networks with weights so large that nothing stays near its start."""
    draw = np.random.default_rng(0)
    vae = twin.VAE(request.param["c_z"])
    temporal = twin.Temporal(**request.param)
    for net in (vae, temporal):
        for tensor in net.state_dict().values():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 10
            noise = draw.normal(0, 1.4 * fan_in**-0.5, tensor.shape)
            tensor.copy_(torch.from_numpy(noise))
    return vae.requires_grad_(False), temporal.requires_grad_(False)


@pytest.fixture(scope="module")
def context():
    """Smooth frames that change."""
    draw = np.random.default_rng(1).uniform(0, 1, (B, T, 3, 5, 7))
    frames = torch.from_numpy(draw.astype(np.float32)).flatten(0, 1)
    large = torch.nn.functional.interpolate(frames, (H, W), mode="bilinear")
    return large.unflatten(0, (B, T))


def as_tensors(net):
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def last(tensor):
    """Channels last."""
    return torch.movedim(tensor, -3, -1).numpy()


def assert_same(ours, theirs, atol=1e-5):
    assert ours.shape == theirs.shape
    assert np.std(theirs) > 0.02  # it says something
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


def test_vae(nets, context):
    tensors = as_tensors(nets[0])
    vae = VAE(**reference.vae_model(tensors))
    frames = context.flatten(0, 1)

    @jax.jit
    def both(params, frames):
        posterior = vae.apply({"params": params}, frames, method="encode")
        again = vae.apply({"params": params}, posterior.mean, method="decode")
        return posterior.mean, posterior.logvar, again

    mean, logvar = nets[0].encode(frames)
    expected = mean, logvar, nets[0].decode(mean)
    found = both(reference.vae_params(tensors), last(frames))
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, last(theirs))


def test_every_head_of_every_step(nets):
    tensors = as_tensors(nets[1])
    model = reference.temporal_model(tensors)
    draw = np.random.default_rng(2).normal(size=(B, T, model["latent_channels"], 4, 6))
    latents = torch.from_numpy(draw.astype(np.float32))
    expected = twin.teacher_forced(nets[1], latents)
    variables = {"params": reference.temporal_params(tensors)}
    steps, states, collision = jax.jit(ReferenceTemporal(**model).apply)(
        variables, jnp.asarray(last(latents))
    )
    for name in ("latent", "warped", "flow", "mask", "residual", "hidden"):
        theirs = last(torch.stack([step[name] for step in expected], 1))
        assert_same(getattr(steps, name), theirs)
    assert np.abs(steps.flow).max() > 0.8  # nearly as far as it can
    for ours, name in ((states, "states"), (collision, "collision")):
        assert_same(ours, torch.stack([step[name] for step in expected], 1).numpy())


@pytest.fixture(scope="module")
def files(nets, tmp_path_factory):
    """The reference's files: after its first, its second and its joint phase."""
    folder = tmp_path_factory.mktemp("files")
    vae, temporal = nets
    trained = twin.Temporal()
    optimizer = torch.optim.Adam(trained.parameters())
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    common = {"optimizer": optimizer.state_dict(), "epoch": 3}
    weights = {"log_vars": torch.zeros(5)}
    contents = {
        "vae": {"model": vae.state_dict()},
        "temporal": {"temporal": temporal.state_dict()},
        "joint": {
            "temporal": temporal.state_dict(),
            "vae": vae.state_dict(),
            "unc_weights": weights,
        },
    }
    for name, content in contents.items():
        torch.save(content | common, folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize("joint", [False, True])
def test_files_and_the_whole_faithful_roll_out(nets, files, context, tmp_path, joint):
    paths = ("joint.pt", None) if joint else ("temporal.pt", files / "vae.pt")
    import_reference(
        files / paths[0],
        paths[1],
        tmp_path / "run",
        height=H,
        width=W,
        rollout="faithful",
    )
    ours = jax_vidpred.load(tmp_path / "run").predict(last(context), FUTURE)
    frames, steps = twin.predict(*nets, context, FUTURE)
    assert_same(ours.video, last(frames))
    for key, name in (("flow", "flow"), ("visible", "mask")):
        theirs = last(torch.stack([step[name] for step in steps], 1))
        assert ours.aux[key].shape[1] == T - 1 + FUTURE
        assert_same(ours.aux[key][:, T - 1 :], theirs)


def test_files_that_do_not_fit(files, tmp_path):
    cases = [
        (("temporal.pt", None), "a temporal model without its VAE; give the vae_epoch"),
        (("joint.pt", "vae.pt"), "joint.pt: holds a VAE itself; leave out .*vae.pt"),
        (("temporal.pt", "temporal.pt"), "temporal.pt: no VAE of the PyTorch refere"),
    ]
    for (path, vae_path), message in cases:
        vae_path = vae_path and files / vae_path
        with pytest.raises(WeightsError, match=message) as error:
            import_reference(files / path, vae_path, tmp_path / "run")
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_loss_and_gradient_of_test_time_training(nets, files, context, tmp_path):
    stage = import_reference(
        files / "temporal.pt", files / "vae.pt", tmp_path / "run", height=H, width=W
    )
    head = nets[1].flow_head
    theirs = twin.adaptation_loss(nets[0], nets[1].requires_grad_(True), context)
    theirs.backward()
    gradients = {
        f"flow_head.{name}": tensor.grad.numpy()
        for name, tensor in head.named_parameters()
    }
    # What the reference also hands to its optimiser gets nothing.
    assert nets[1].occ_head.net[0].weight.grad is None
    assert nets[1].residual_head.net[0].weight.grad is None
    nets[1].zero_grad(set_to_none=True)
    nets[1].requires_grad_(False)

    fixed = jax.tree.map(jnp.asarray, dict(stage.params))

    @jax.value_and_grad
    def loss(head):
        params = {**fixed, "temporal": {**fixed["temporal"], "flow_head": head}}
        data = stage.system.adaptation_data(params, jnp.asarray(last(context)))
        videos = [{key: value[i] for key, value in data.items()} for i in range(B)]
        each = [stage.system.adaptation_loss(params, video) for video in videos]
        return jnp.stack(each).mean()

    value, ours = jax.jit(loss)(fixed["temporal"]["flow_head"])
    assert float(value) == pytest.approx(theirs.item(), rel=1e-5)
    ours = reference.export_torch({"flow_head": ours})
    assert set(ours) == set(gradients)
    for name, expected in gradients.items():
        scale = np.abs(expected).max()
        assert scale > 1e-5
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("which", [0, 1])
def test_export_is_a_state_dict_for_torch(nets, which, tmp_path):
    tensors = as_tensors(nets[which])
    to_params = (reference.vae_params, reference.temporal_params)[which]
    exported = reference.export_torch(to_params(tensors))
    assert {k: v.shape for k, v in exported.items()} == {
        k: v.shape for k, v in tensors.items()
    }
    for name, array in exported.items():
        assert array.tobytes() == tensors[name].tobytes()
    save_file(exported, tmp_path / "weights.safetensors")
    net = (
        twin.VAE(nets[0].decoder.net[0].in_channels)
        if which == 0
        else twin.Temporal(nets[1].input_proj.in_channels, nets[1].width, nets[1].n_max)
    )
    net.load_state_dict(load_file(tmp_path / "weights.safetensors"))
