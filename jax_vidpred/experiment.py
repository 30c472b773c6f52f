"""From a config to a trained system: data, the stages it requires, training, loading.

A work directory holds `experiment.json` (config, where data and required stages lie,
relative to it, and a hash of what is frozen of them), the checkpoints and the
measurements. What a config requires is made first, into `<workdir>/requires`, and used
again when it is there; every stage is itself a whole work directory.
"""

import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jax_vidpred import systems
from jax_vidpred.data import builder, pipeline
from jax_vidpred.data.latents import with_latents
from jax_vidpred.data.schema import LATENT, SPLIT_STARTS, VIDEO, DataError
from jax_vidpred.data.skips import Skips
from jax_vidpred.data.source import VideoSource
from jax_vidpred.data.twin.dataset import available_cores, write_dataset
from jax_vidpred.evaluation.journal import fingerprint
from jax_vidpred.train import checkpoint, cluster
from jax_vidpred.train.loop import train
from jax_vidpred.train.mesh import make_layout, split_cpu
from jax_vidpred.train.periodic import Clock
from jax_vidpred.train.protocol import Stage
from jax_vidpred.train.watch import ProfileWindow, Utilisation

RECORD = "experiment.json"
# A run may be prolonged and watched differently; everything else makes another run.
_UNREADABLE = (OSError, ValueError, RecursionError)  # of JSON from anywhere
_MAY_CHANGE = ("train", "eval", "checkpoint", "mesh")


class ExperimentError(ValueError):
    """A work directory or config that does not fit; the message says how to go on."""


def use_all_cores(config: Mapping[str, Any]) -> None:
    """On a CPU, deals every batch of the config, and of what it requires, to all cores.

    Call it once, before anything else of JAX; later it does nothing.
    """

    def batch_sizes(part):
        parts = max(part["train"]["accumulate"], 1)
        own = {part["data"]["batch_size"] // parts, part["eval"]["batch_size"]} - {0}
        return own.union(*map(batch_sizes, filter(None, part["requires"].values())))

    split_cpu(available_cores(), *batch_sizes(config))


def run(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    requires_dir: str | os.PathLike | None = None,
) -> Stage:
    """Trains what the config describes, and before it whatever it requires.

    The same call again resumes, or returns at once when all is trained.

    Args:
      config: the sections of `configs/*.py`, as plain dicts.
      workdir: of this experiment.
      requires_dir: for data and required stages; `<workdir>/requires` when None. Give
        several experiments the same one to share them.

    Raises:
      ExperimentError, DataError, CheckpointError, TrainingDiverged, ValueError.
    """
    workdir = pathlib.Path(workdir).absolute()
    requires_dir = pathlib.Path(requires_dir or workdir / "requires").absolute()
    config = json.loads(json.dumps(config))  # as it is read back
    _check_same(config, workdir)
    _check_numbers(config)
    with cluster.first_process_first(f"data of {workdir}"):
        sources = prepare_data(config["data"], requires_dir)
    places, stages = _places(config, workdir, requires_dir), {}
    for name, place in places.items():
        _say(f"{workdir.name} requires {name}: {place}")
        stages[name] = run(config["requires"][name], place, requires_dir)
    system = systems.create(config, stages)
    if VIDEO in system.required_keys:
        pipeline.check_keys(sources["train"], system.required_keys)
    frozen = fingerprint(dict(system.frozen))
    _check_frozen(_begun(workdir), frozen, workdir)
    if jax.process_index() == 0:
        _write_record(config, workdir, requires_dir, places, frozen)
    data, evaluation = config["data"], config["eval"]
    held_out = sources.get("validation", sources["train"])
    train_keys = system.train_keys or system.required_keys
    train_source = sources["train"]
    if LATENT in train_keys:
        with cluster.first_process_first(f"latents of {workdir}"):
            train_source = with_latents(
                train_source, system.encode_frames, requires_dir / "latents", frozen
            )
    skips = Skips()
    common = {
        "skips": skips,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    clip = {"clip_frames": data["clip_frames"], "frame_stride": data["clip_stride"]}
    test_clip = {
        "clip_frames": evaluation["clip_frames"],
        "frame_stride": data["clip_stride"],
    }
    clips = pipeline.fixed_clips(
        held_out,
        keys=system.required_keys,
        clips_per_video=evaluation["clips_per_video"],
        max_videos=evaluation["max_videos"],
        **test_clip,
    )
    train(
        system,
        train_batches=lambda first_step: pipeline.train_batches(
            train_source,
            keys=train_keys,
            batch_size=data["batch_size"],
            seed=config["seed"],
            first_step=first_step,
            **common,
            **clip,
        ),
        eval_batches=functools.partial(
            pipeline.eval_batches,
            held_out,
            keys=system.required_keys,
            batch_size=evaluation["batch_size"],
            clips=clips,
            **common,
            **test_clip,
        ),
        num_steps=config["train"]["num_steps"],
        log_every=config["train"]["log_every"],
        eval_every=evaluation["every"],
        checkpoint_every=config["checkpoint"]["every"],
        keep=config["checkpoint"]["keep"],
        best_metric=config["checkpoint"]["best_metric"],
        seed=config["seed"],
        workdir=workdir,
        config_json=json.dumps(config),
        layout=make_layout(**config["mesh"]),
        title=workdir.name,
        notes=_notes(config),
        peak_tflops=config["train"]["peak_tflops"],
        profile=config["train"]["profile"],
        num_samples=evaluation["num_samples"],
        counts=lambda: {
            "damaged_clips": cluster.total(f"damaged of {workdir}", skips.count)
        },
    )
    return load(workdir)


def load(workdir: str | os.PathLike) -> Stage:
    """A trained system with its best parameters.

    Raises:
      ExperimentError: no experiment there, or a stage that it froze is another now.
      CheckpointError: it has no checkpoint that can be read.
    """
    workdir = pathlib.Path(workdir).absolute()
    record = read_record(workdir)
    stages = {
        name: load((workdir.resolve() / place).resolve())
        for name, place in record["requires"].items()
    }
    system = systems.create(record["config"], stages)
    _check_frozen(record, fingerprint(dict(system.frozen)), workdir)
    params, _ = checkpoint.restore_params(workdir)
    return Stage(system, {**system.frozen, **params})


def read_record(workdir: str | os.PathLike) -> dict[str, Any]:
    """What a work directory is: `config`, `requires` (places of stages) and so on.

    Raises:
      ExperimentError: it is none.
    """
    path = pathlib.Path(workdir) / RECORD
    try:
        record = json.loads(path.read_text())
        _complete(record["config"])
        return record
    except (*_UNREADABLE, LookupError, TypeError) as error:
        raise ExperimentError(
            f"{workdir} is no work directory of jax_vidpred ({RECORD}:"
            f" {type(error).__name__}); give the --workdir of a training run"
        ) from error


def prepare_data(
    data: Mapping[str, Any], requires_dir: str | os.PathLike
) -> dict[str, VideoSource]:
    """The sources of a config's `data` section; twin videos are simulated if missing.

    Raises:
      DataError: the folder is missing, or holds nothing usable.
    """
    requires_dir = pathlib.Path(requires_dir)
    sources = builder.prepare(
        data_root(data, requires_dir),
        requires_dir / "prepared",
        height=data["height"],
        width=data["width"],
        grid_stride=data["grid_stride"],
        frame_stride=data["frame_stride"],
    )
    if "train" not in sources:
        raise DataError(
            "the data has no training video (numbers 00000 to 09999, or a folder train,"
            " are the training split); add some"
        )
    return sources


def data_root(data: Mapping[str, Any], requires_dir: pathlib.Path) -> pathlib.Path:
    """Folder of CLEVRER files that a config names; the twin is simulated if missing."""
    if data["root"]:
        root = os.path.expandvars(data["root"])
        if "$" in root:
            raise DataError(
                f"config.data.root={data['root']} names an environment variable that is"
                " not set; set it to a folder of CLEVRER files"
            )
        return pathlib.Path(root).absolute()
    twin = data["twin"]
    root = requires_dir / "twin"
    num_videos = {split: twin[f"num_{split}"] for split in SPLIT_STARTS}
    _say(f"twin data set: {num_videos} videos in {root}")
    write_dataset(root, num_videos, data["height"], data["width"], seed=twin["seed"])
    return root


def _places(config, workdir, requires_dir):
    """Where required stages lie: where this work directory has begun with them."""
    begun = _begun(workdir)["requires"]
    places = {}
    for name, required in config["requires"].items():
        if required:
            place = (workdir.resolve() / begun.get(name, "")).resolve()
            known = name in begun and (place / RECORD).exists()
            places[name] = place if known else requires_dir / name
    return places


def _begun(workdir):
    empty = {"requires": {}, "data": ""}
    return read_record(workdir) if (workdir / RECORD).exists() else empty


def _check_frozen(record, frozen, workdir):
    """Complains where stages are not those any more that the training saw."""
    if record.get("frozen", frozen) != frozen:
        places = " and ".join(record["requires"].values())
        raise ExperimentError(
            f"{workdir} was trained on other parameters than {places} has now; put"
            " those back, or train again in another --workdir"
        )


def _write_record(config, workdir, requires_dir, places, frozen):
    workdir.mkdir(parents=True, exist_ok=True)

    def from_workdir(path):  # either may be reached through links
        return os.path.relpath(path.resolve(), workdir.resolve())

    data = _begun(workdir)["data"]
    if not data or not (workdir.resolve() / data).is_dir():
        data = from_workdir(requires_dir)
    record = {
        "config": config,
        "requires": {name: from_workdir(place) for name, place in places.items()},
        "data": data,
        "frozen": frozen,
    }
    part = workdir / (RECORD + ".part")
    part.write_text(json.dumps(record, indent=1))
    part.replace(workdir / RECORD)


def _check_same(config, workdir):
    if not (workdir / RECORD).exists():
        return
    old, new = _fixed(read_record(workdir)["config"]), _fixed(config)
    for section in sorted(set(old) | set(new)):
        if old.get(section) != new.get(section):
            raise ExperimentError(
                f"{workdir} was made with another config (section {section!r} differs);"
                " use another --workdir, or the old config"
            )


def _fixed(config):
    """What must stay as it was for a run to be the same run."""
    fixed = {name: value for name, value in config.items() if name not in _MAY_CHANGE}
    # The parameters are the same, however they are computed with.
    model = {k: v for k, v in fixed["model"].items() if k not in ("dtype", "remat")}
    required = fixed["requires"].items()
    return fixed | {
        "model": model,
        "requires": {name: one and _fixed(one) for name, one in required},
    }


def _complete(config):
    """Adds what a config of an earlier version of this package does not say."""
    config["train"].setdefault("accumulate", 1)
    for required in filter(None, config["requires"].values()):
        _complete(required)


def _check_numbers(config: Mapping[str, Any], name: str = "config") -> None:
    """Before hours of work: what would only fail in the middle of it."""
    layout = make_layout(**config["mesh"])
    for section in ("data", "eval"):
        size = config[section]["batch_size"]
        layout.check_batch(f"{name}.{section}.batch_size", size)
    parts, size = config["train"]["accumulate"], config["data"]["batch_size"]
    if parts < 1 or size % (parts * layout.mesh.size):
        raise ValueError(
            f"{name}.train.accumulate={parts} cannot cut {name}.data.batch_size={size}"
            f" into parts for {layout.mesh.size} devices; choose a batch size that is a"
            f" multiple of {max(parts, 1) * layout.mesh.size}"
        )
    for section, key in (
        *(("train", "num_steps"), ("train", "log_every"), ("eval", "every")),
        *(("checkpoint", "every"), ("checkpoint", "keep")),
    ):
        if config[section][key] < 1:
            raise ValueError(
                f"{name}.{section}.{key}={config[section][key]}: wanted at least 1"
                " (more than there are steps means once, at the end)"
            )
    ProfileWindow("", Clock(), **config["train"]["profile"])
    Utilisation(0.0, config["train"]["peak_tflops"], layout.mesh)
    for stage, required in config["requires"].items():
        if required:
            _check_numbers(required, f"{name}.requires.{stage}")


def _notes(config: Mapping[str, Any]) -> list[str]:
    """What decides about speed and memory, and is not as usual."""
    model, parts = config["model"], config["train"]["accumulate"]
    notes = [f"accumulate {parts}"] if parts > 1 else []
    notes += [model["dtype"]] if model["dtype"] != "float32" else []
    return notes + (["remat"] if model["remat"] else [])


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line)
