"""Command: frozen networks of this package and of PyTorch by turns, on one core.

    python tests/oracle/frozen_versus_torch.py

The same random weights on both sides: RAFT beside torchvision, DINOv2 beside
transformers (forward, and the gradient of the input, as a perceptual loss needs it).
Prints CPU times, which other programs on the machine disturb least, and their ratio.
"""

import argparse
import os
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--core", type=int, default=0)
options = parser.parse_args()
# Before either of them starts its threads.
os.sched_setaffinity(0, {options.core})
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, os.getcwd())

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
# See `tests/features/conftest.py`.
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor boxes, Tensor scores, float iou) -> Tensor")

from torchvision.models import optical_flow  # noqa: E402
from transformers import Dinov2Config, Dinov2Model  # noqa: E402

from jax_vidpred.features import vit  # noqa: E402
from jax_vidpred.features.raft import RAFT  # noqa: E402
from jax_vidpred.features.raft_weights import NETWORKS as RAFTS  # noqa: E402
from jax_vidpred.features.vit_weights import to_params  # noqa: E402

RNG = np.random.default_rng(0)


def random_images(*shape):
    return RNG.uniform(-1, 1, (*shape, 3)).astype(np.float32)


def to_torch(images):
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous()


def state_of(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def raft(variant, *shape):
    """Calls that estimate the flow of a batch of pairs, 12 updates."""
    theirs = getattr(optical_flow, f"raft_{variant}")(weights=None).eval()
    network = next(one for one in RAFTS if one.name == f"raft_{variant}")
    params = network.to_params(state_of(theirs))
    first, second = random_images(*shape), random_images(*shape)
    pair = to_torch(first), to_torch(second)
    compiled = jax.jit(lambda p, a, b: RAFT(variant).apply({"params": p}, a, b))

    def in_torch():
        with torch.no_grad():
            theirs(*pair, num_flow_updates=12)

    return lambda: compiled(params, first, second).block_until_ready(), in_torch


def dinov2(with_gradient, *shape):
    """Calls of DINOv2 S/14: its last two blocks, or their gradient in the input."""
    sizes = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6)
    theirs = Dinov2Model(Dinov2Config(image_size=518, **sizes)).eval()
    net = vit.vision_transformer("dinov2_vits14")
    params = jax.tree.map(jax.numpy.asarray, to_params(net, state_of(theirs)))
    images = random_images(*shape)

    def total(p, x):
        return sum(
            (one**2).sum() for one in net.apply({"params": p}, x, (-2, -1)).layers
        )

    compiled = jax.jit(jax.grad(total, argnums=1) if with_gradient else total)

    def in_torch():
        x = to_torch(images).requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            hidden = theirs(x, output_hidden_states=True).hidden_states[-2:]
            result = sum((theirs.layernorm(one) ** 2).sum() for one in hidden)
        if with_gradient:
            result.backward()

    for parameter in theirs.parameters():
        parameter.requires_grad_(False)
    return lambda: compiled(params, images).block_until_ready(), in_torch


CASES = {
    "RAFT small, 128x128": (raft, "small", 1, 128, 128),
    "RAFT small, 160x240": (raft, "small", 1, 160, 240),
    "RAFT small, 8 pairs of 128x128": (raft, "small", 8, 128, 128),
    "RAFT large, 128x128": (raft, "large", 1, 128, 128),
    "DINOv2 S/14, 8 of 126x126": (dinov2, False, 8, 126, 126),
    "its input gradient": (dinov2, True, 8, 126, 126),
}


def main():
    print(f"jax {jax.__version__}, torch {torch.__version__}, core {options.core}")
    for name, (make, *arguments) in CASES.items():
        calls = dict(zip(("jax", "torch"), make(*arguments), strict=True))
        times = {side: [] for side in calls}
        for turn in range(options.rounds + 2):
            for side, call in calls.items():
                began = time.process_time()
                call()
                if turn >= 2:  # the first ones compile and fill caches
                    times[side].append((time.process_time() - began) * 1e3)
        medians = {side: float(np.median(times[side])) for side in times}
        print(
            f"{name:32} jax {medians['jax']:7.0f} ms, torch {medians['torch']:7.0f} ms:"
            f" {medians['jax'] / medians['torch']:.2f} (of minima"
            f" {min(times['jax']) / min(times['torch']):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
