"""Phase 2: the flow-warp model on latents of a frozen VAE, 6 frames -> 12 frames.

python -m jax_vidpred.main --config=configs/temporal.py --workdir=runs/temporal
"""

from configs import sections, vae


def get_config(variant: str = ""):
    """Variants: "" (the long run), "quickstart", "smoke", "clevrer" (real files)."""
    config = sections.base()
    config.system = dict(
        name="flow_warp",
        num_context=6,
        num_future=12,
        min_future=12,
        teacher_forcing=dict(kind="linear", num_steps=300, final=0.0),
        balance="fixed",
        train_vae=False,
        vae_loss_weight=0.0,
    )
    config.model = dict(features=48, num_blocks=1, head_features=32, reach=2, unroll=17)
    config.losses = dict(
        weights=dict(
            latent=1.0,
            flow=1.0,
            visible=0.1,
            warped=0.0,
            decoded=1.0,
            residual=0.0,
            collision=0.1,
            state=0.05,
        ),
        focal=dict(alpha=0.75, gamma=2.0),
        collision_tolerance=1,
        decoded_frames=2,
    )
    config.requires.vae = vae.get_config(variant)
    config.optim.learning_rate = 2e-3
    config.data = sections.data(variant)
    config.train.num_steps = 10_000
    if variant == "quickstart":
        config.train.num_steps = 600
    sections.shrink(config, variant)
    return config
