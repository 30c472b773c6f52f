"""Phase 1: the frame VAE, 64x64 frames to a 16x16x8 latent.

python -m jax_vidpred.main --config=configs/vae.py --workdir=runs/vae

2026-11-21, 2 cores of an AVX-512 Xeon: 4 min; 40.0 dB on held-out twin videos, 39.3 dB
on real ones that it never saw.
"""

from configs import sections


def get_config(variant: str = ""):
    """Variants: "" (the long run), "quickstart", "smoke", "clevrer" (real files)."""
    config = sections.base()
    # A frozen network, as "dinov2_vits14" or "lpips_vgg", for losses.perceptual > 0.
    config.system = dict(name="vae", perceptual="")
    config.model = dict(
        preset="residual",
        latent_channels=8,
        stride=4,
        features=64,
        num_blocks=1,
        **sections.computed(),
    )
    config.losses = dict(
        l1=1.0, kl=1e-5, perceptual=0.0, annealing=dict(kind="none", num_steps=1)
    )
    config.optim.learning_rate = 2e-3
    config.ema.decay = 0.995
    config.data = sections.data(variant)
    # Single frames: far apart in a clip, so that a batch shows many scenes.
    config.data.clip_frames, config.data.clip_stride = 2, 32
    config.data.batch_size = 8
    config.eval.clip_frames = 2
    config.train.num_steps = 3000
    if variant == "quickstart":
        config.train.num_steps = 1500
    sections.shrink(config, variant)
    return config
