"""Command: training steps of this package and of PyTorch by turns, on one core.

    python tests/oracle/versus_torch.py --config configs/quickstart.py

The same layers, shapes, losses and optimiser on both sides (`torch_flow_warp.py`, whose
numbers `test_torch_speed_maths.py` proves equal); PyTorch eager, in both of its memory
layouts, each step once per round. Prints medians of CPU time, which other programs on
the machine disturb least, and of the clock, and the ratio to the faster layout.
"""

import argparse
import os
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--config", default="configs/quickstart.py")
parser.add_argument("--phases", default="vae,temporal,joint")
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--core", type=int, default=0)
options = parser.parse_args()
# Before either of them starts its threads.
os.sched_setaffinity(0, {options.core})
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, os.getcwd())

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch_flow_warp as twin  # noqa: E402

from jax_vidpred.benchmarking.phases import (  # noqa: E402
    PHASES,
    build_phases,
    read_config,
    training_call,
)

torch.set_num_threads(1)


def torch_call(name, phase, memory_format):
    """A call that takes one training step in PyTorch."""
    config, system = phase.config, phase.system
    params = twin.to_torch(phase.params, memory_format)
    video = phase.batch["video"]
    vae = system.vae if name == "vae" else system.vae.vae
    b, t, h, w, _ = video.shape
    grid = (b * t, vae.latent_channels, h // vae.stride, w // vae.stride)
    options = dict(
        learning_rate=config["optim"]["learning_rate"],
        clip_norm=config["optim"]["clip_norm"],
        ema_decay=config["ema"]["decay"],
    )

    def noise():
        return torch.randn(grid).contiguous(memory_format=memory_format)

    if name == "vae":

        def loss():
            frames = twin.images(video, memory_format)
            total, mean = twin.vae_loss(
                params["net"], frames, noise(), config["losses"]
            )
            with torch.no_grad():
                for key, value in (
                    ("latent_mean", mean.mean((0, 2, 3))),
                    ("latent_variance", mean.var((0, 2, 3), correction=0)),
                ):
                    params[key].lerp_(value, 0.01)
            return total

        return twin.Trainer(params["net"], loss, **options).step
    k = torch.arange(t - 1)
    draws = {"steps": torch.ones(b, t - 1), "memory_format": memory_format}

    def loss():
        coins = torch.rand(b, t - 1) < 0.5
        draws["use_truth"] = (k < system.num_context) | coins
        draws["chosen"] = torch.randperm(t - 1)[: system.losses.decoded_frames]
        draws["noise"] = noise() if system.train_vae else None
        draws["vae_weights"] = system.vae.loss.weights
        return twin.temporal_loss(
            params, phase.batch, draws, config, train_vae=system.train_vae
        )

    trained = {"temporal": params["temporal"]}
    if system.train_vae:
        trained["vae"] = params["vae"]["net"]
    return twin.Trainer(trained, loss, **options).step


def main():
    print(f"jax {jax.__version__}, torch {torch.__version__}, core {options.core}")
    phases = dict(zip(PHASES, build_phases(read_config(options.config)), strict=False))
    for name, phase in phases.items():
        if name not in options.phases.split(","):
            continue
        step, about = training_call(phase)
        calls = {
            "jax": lambda step=step: jax.block_until_ready(step()),
            "torch": torch_call(name, phase, torch.contiguous_format),
            "torch channels_last": torch_call(name, phase, torch.channels_last),
        }
        cpu = {side: [] for side in calls}
        wall = {side: [] for side in calls}
        for turn in range(options.rounds + 2):
            for side, call in calls.items():
                began, began_cpu = time.perf_counter(), time.process_time()
                call()
                if turn >= 2:  # the first ones fill caches
                    wall[side].append((time.perf_counter() - began) * 1e3)
                    cpu[side].append((time.process_time() - began_cpu) * 1e3)
        medians = {side: float(np.median(times)) for side, times in cpu.items()}
        torch_best = min(medians["torch"], medians["torch channels_last"])
        print(
            f"{name}: {about['flop'] / 1e9:.2f} GFLOP, compiled in"
            f" {about['compile_seconds']:.1f} s, jax / torch ="
            f" {medians['jax'] / torch_best:.2f} (CPU time)"
        )
        for side in calls:
            print(
                f"  {side:20} CPU {medians[side]:7.1f} ms (min {min(cpu[side]):7.1f}),"
                f" clock {np.median(wall[side]):7.1f} ms (min {min(wall[side]):7.1f})"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
