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
    config.system.teacher_forcing = dict(kind="always", num_steps=1)
    config.optim.learning_rate = 2e-4
    config.optim.scales = dict(vae=0.1)
    config.train.num_steps = 2_000
    if variant == "quickstart":
        config.train.num_steps = 60
    sections.shrink(config, variant)
    return config
