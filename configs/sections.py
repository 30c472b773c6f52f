"""Parts that the experiments share."""

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """Every section, with what all experiments have in common."""
    return ConfigDict(
        {
            "seed": 0,
            "system": {},
            "model": {},
            "requires": {},
            "losses": {},
            "optim": {
                "learning_rate": 1e-3,
                "warmup_steps": 50,
                "clip_norm": 1.0,
                "b2": 0.99,  # with 0.999 a VAE fell apart at step 1524 of 3000
            },
            "ema": {"decay": 0.995},
            "data": {},
            "train": {
                "num_steps": 1000,
                "log_every": 50,
                "accumulate": 1,  # parts that a batch is worked on in, to save memory
                # Steps that TensorBoard's profiler is to show; 0 steps for none.
                "profile": {"start": 0, "steps": 0},
                # Of one device, for the share of it that is used (bf16, dense).
                "peak_tflops": {
                    "NVIDIA A100": 312.0,
                    "NVIDIA H100": 989.0,
                    "NVIDIA H200": 989.0,
                    "TPU v4": 275.0,
                    "TPU v5 lite": 197.0,
                },
            },
            "eval": {
                "every": 1000,
                "batch_size": 8,
                "clip_frames": 18,
                "clips_per_video": 4,  # spread over the video
                "max_videos": 16,
                "num_samples": 4,  # clips that are written as videos
            },
            "checkpoint": {"every": 500, "keep": 2, "best_metric": "psnr"},
            # Devices: groups (-1 = as many as there are), devices of a group that split
            # parameters among them, and by which rules (train/mesh.py).
            "mesh": {"data": -1, "fsdp": 1, "rules": ()},
        }
    )


def data(variant: str) -> ConfigDict:
    """Clips in the shape of the SlotFormer protocol: square frames, stride 2.

    Raises:
      ValueError: an unknown variant.
    """
    num_train = {"": 800, "quickstart": 200, "smoke": 3, "clevrer": 0}
    if variant not in num_train:
        raise ValueError(f"variant {variant!r} is unknown; use {sorted(num_train)}")
    size = 32 if variant == "smoke" else 64
    return ConfigDict(
        {
            # A folder of CLEVRER files; where it is empty, the twin is simulated.
            "root": "$JAX_VIDPRED_CLEVRER" if variant == "clevrer" else "",
            "twin": {
                "num_train": num_train[variant],
                "num_validation": 2 if variant == "smoke" else 40,
                "num_test": 1 if variant == "smoke" else 4,
                "seed": 0,
            },
            "height": size,
            "width": size,
            "frame_stride": 2,  # of flow, visibility and collisions
            "grid_stride": 4,  # pixels per latent cell
            "batch_size": 8,
            "clip_frames": 18,
            "clip_stride": 2,
        }
    )


def computed() -> dict:
    """How a model is computed, whatever its parameters: any checkpoint fits both."""
    return dict(
        dtype="float32",  # or "bfloat16", on accelerators
        remat=False,  # True keeps less for the gradient and computes it again
    )


def shrink(config: ConfigDict, variant: str) -> None:
    """A run of a minute: "smoke" shows that all works, "clevrer" fits few files."""
    if variant == "smoke":
        config.train.update(num_steps=4, log_every=2)
        config.optim.warmup_steps = 1
        config.eval.update(every=4, max_videos=2, batch_size=2)
        config.checkpoint.every = 2
        config.data.batch_size = 2
    if variant == "clevrer":
        config.train.update(num_steps=100, log_every=10)
        config.optim.warmup_steps = 10
