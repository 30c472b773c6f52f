"""First stage of RIVER: 64x64 frames to 16x16 codes of 4 numbers.

python -m jax_vidpred.main --config=configs/vqgan.py --workdir=runs/vqgan

2026-11-28, 2 cores of an AVX-512 Xeon: 0.2 s a step when nothing else runs. 36.97 dB,
SSIM 0.973 on held-out twin videos; about 390 of 1024 codes in use (perplexity), none of
them dead after 850 steps (before the places of revived codes were drawn otherwise; not
run again since).
"""

from configs import sections


def get_config(variant: str = ""):
    """Variants: "" (the long run), "quickstart", "smoke", "clevrer" (real files), and
    "adversarial", the long run with a discriminator in its second half.
    """
    is_adversarial = variant == "adversarial"
    variant = "" if is_adversarial else variant
    config = sections.base()
    config.system = dict(
        name="vqgan",
        codebook="average",  # or "gradient"
        code_decay=0.99,
        revive_below=0.03,
        # It plays where losses.adversarial > 0, from step `start` on.
        discriminator=dict(features=64, num_layers=2, start=0),
        perceptual="",
    )
    config.model = dict(
        preset="residual",
        latent_channels=4,
        num_codes=1024,
        stride=4,
        features=64,
        num_blocks=1,
        **sections.computed(),
    )
    config.losses = dict(l1=1.0, perceptual=0.0, commitment=0.02, adversarial=0.0)
    config.optim.learning_rate = 2e-3
    config.data = sections.data(variant)
    # Single frames: far apart in a clip, so that a batch shows many scenes.
    config.data.clip_frames, config.data.clip_stride = 2, 32
    config.eval.clip_frames = 2
    config.train.num_steps = 2000
    if variant == "quickstart":
        config.train.num_steps = 1000
    if variant == "smoke":
        config.model.num_codes = 64
    sections.shrink(config, variant)
    config.system.discriminator.start = config.train.num_steps // 2
    if is_adversarial:
        config.losses.adversarial = 0.8  # of VQGAN
        config.system.discriminator.features = 16  # with 64 it is 80 % of the work
        # The best PSNR is that of the last step without a discriminator.
        config.checkpoint.best_metric = None
    return config
