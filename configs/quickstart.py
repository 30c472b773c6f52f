"""All three phases in a few minutes on a laptop: data, VAE, temporal model, joint.

python -m jax_vidpred.main --config=configs/quickstart.py --workdir=runs/quickstart

2026-11-21, 2 cores of an AVX-512 Xeon: 7 to 12 min (VAE 1500 steps, temporal 400, joint
30). On 160 clips of held-out twin videos 33.38 dB over 12 frames (copy-last 29.59,
constant velocity 32.99).
"""

from configs import joint


def get_config():
    """The joint phase; what it requires is made first."""
    return joint.get_config("quickstart")
