"""All three phases in a few minutes on a laptop: data, VAE, temporal model, joint.

python -m jax_vidpred.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

from configs import joint


def get_config():
    """The joint phase; what it requires is made first."""
    return joint.get_config("quickstart")
