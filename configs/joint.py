"""Phase 3: VAE and temporal model together, the VAE at a tenth of the learning rate.

python -m jax_vidpred.main --config=configs/joint.py --workdir=runs/joint
"""

from configs import sections, temporal


def get_config(variant: str = ""):
    """Variants: "" (the long run), "quickstart", "smoke", "clevrer" (real files)."""
    config = temporal.get_config(variant)
    config.requires = dict(temporal=temporal.get_config(variant))
    config.system.train_vae = True
    config.system.vae_loss_weight = 1.0
    # The earlier phase ended on its own predictions: so does this one go on.
    config.system.teacher_forcing = dict(kind="linear", num_steps=1, final=0.0)
    config.optim.learning_rate = 1e-4
    config.optim.warmup_steps = 10
    config.optim.scales = dict(vae=0.1)
    config.train.num_steps = 300
    if variant == "quickstart":
        config.optim.learning_rate = 3e-5  # few steps, all of them noisy
        config.train.num_steps = 30
    sections.shrink(config, variant)
    return config
