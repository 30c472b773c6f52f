"""RIVER as its authors train it (Davtyan et al. 2023), for one data set each.

export JAX_VIDPRED_CLEVRER=/data/clevrer
python -m jax_vidpred.main --config=configs/river_published.py:clevrer128
  --workdir=runs/river_clevrer128

The environment variable of the data set names a folder of videos, of frames, or of
HDF5 files as RIVER's converter makes them.

Where we differ: weight decay spares biases and norms, the first update already moves,
and the learning rate falls to 0, not to 1e-7. The field for BAIR at 256x256 ends with a
layer norm as the others do, not with a batch norm, whose result would depend on how a
batch is split. How the authors train their autoencoders is not published but for
optimiser and length; the losses are ours. Not yet trained here.
"""

from configs import sections, vqgan

# name: (data root, pixels, frames given, frames generated, stride, autoencoder)
VARIANTS = {
    "clevrer128": ("$JAX_VIDPRED_CLEVRER", 128, 2, 14, 5, "river"),
    "bair64": ("$JAX_VIDPRED_BAIR", 64, 1, 15, 1, "f8_small"),
    "bair256": ("$JAX_VIDPRED_BAIR", 256, 1, 15, 1, "f16"),
    "kth": ("$JAX_VIDPRED_KTH", 64, 10, 30, 1, "f8_small"),
}
NO_CLIPPING = 1e9


def get_config(variant: str):
    """Variants: "clevrer128", "bair64", "bair256" and "kth".

    Raises:
      ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; use {sorted(VARIANTS)}")
    _, _, num_context, num_future, _, _ = VARIANTS[variant]
    config = _trained(sections.base(), variant)
    config.system = dict(
        name="river",
        num_context=num_context,
        # 100 points in time are 99 steps.
        sampling=dict(method="rk4_38", num_steps=99, warm_start=0.0, past_horizon=-1),
    )
    if variant == "clevrer128":
        config.system.augment = dict(
            brightness=0.1, contrast=0.1, saturation=0.1, hue=0.25
        )
    config.model = dict(
        features=768,
        num_heads=8,
        depth=4,
        mid_depth=5,
        patch=1,
        dropout=0.05,
        **sections.computed(),
    )
    config.losses = dict(sigma=1e-7)
    config.requires.vqgan = _autoencoder(variant)
    config.data.clip_frames = num_context + num_future
    # A prediction takes 396 evaluations of the field for each frame.
    config.eval.update(
        clip_frames=num_context + num_future, clips_per_video=1, batch_size=4
    )
    return config


def _autoencoder(variant):
    *_, preset = VARIANTS[variant]
    config = _trained(vqgan.get_config("clevrer"), variant)
    config.system.update(codebook="gradient", revive_below=0.0)
    sizes = dict(latent_channels=4, num_codes=8192, features=32)
    if preset != "river":
        channels = 8 if preset == "f16" else 4
        sizes = dict(latent_channels=channels, num_codes=16384, features=128)
    config.model = dict(preset=preset, **sizes, **sections.computed())
    config.losses.commitment = 1.0
    # Single frames, far apart; videos of BAIR have 30.
    config.data.clip_frames, config.data.clip_stride = 2, 16
    config.eval.clip_frames = 2
    return config


def _trained(config, variant):
    """With the optimiser, the length and the data that both stages have."""
    root, size, _, _, stride, preset = VARIANTS[variant]
    config.optim.update(
        learning_rate=1e-4,
        weight_decay=5e-6,
        warmup_steps=5000,
        schedule="polynomial",
        b2=0.999,
        clip_norm=NO_CLIPPING,
    )
    config.ema.decay = None
    config.data = sections.data("clevrer")
    config.data.update(
        root=root,
        height=size,
        width=size,
        frame_stride=stride,
        grid_stride=16 if preset == "f16" else 8,
        clip_stride=stride,
        batch_size=16,
    )
    config.train.update(num_steps=300_000, log_every=100)
    config.eval.every = 20_000
    config.checkpoint.every = 5_000
    return config
