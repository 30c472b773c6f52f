"""Command: turns published weight files into files that this package loads at once.

    python -m jax_vidpred.convert_weights raft-small.pth --to weights/

Says which network the file is of, checks that it is the published one, and writes
NETWORK.safetensors with a card beside it. Nothing in the file is run and no torch is
needed. A checkpoint of the PyTorch reference or of RIVER becomes a work directory, for
`predict` and `evaluate`:

    python -m jax_vidpred.convert_weights model.pth --to runs/river_clevrer
"""

import argparse
import datetime
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

# Before JAX starts: its C++ log lines would bury ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from jax_vidpred import command
from jax_vidpred.data.video_io import write_whole
from jax_vidpred.features import (
    i3d,
    lpips,
    raft_weights,
    river_weights,
    vit_weights,
    weights,
)
from jax_vidpred.features.weights import Network, Published, WeightsError
from jax_vidpred.reference_import import import_reference
from jax_vidpred.river_import import SETUPS, import_river, is_river
from jax_vidpred.simulate import parse_size
from jax_vidpred.systems import reference

NETWORKS = (
    *raft_weights.NETWORKS,
    *vit_weights.NETWORKS,
    *lpips.NETWORKS,
    *i3d.NETWORKS,
    *river_weights.NETWORKS,
)
SUFFIX = ".safetensors"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.convert_weights",
        description="Turn a published weight file into one that this package loads.",
        epilog="Known networks: " + ", ".join(one.name for one in NETWORKS),
    )
    add = parser.add_argument
    add("file", help="of torch (any age), TorchScript or safetensors")
    add(
        "--to",
        required=True,
        help=f"a file ending in {SUFFIX}, or a folder; of the reference and of RIVER a"
        " new folder",
    )
    add("--vae", help="of the reference and of RIVER: the autoencoder, if not in file")
    add(
        "--size",
        type=parse_size,
        help="WIDTHxHEIGHT of the frames that the model was trained on (reference"
        " 240x160, RIVER as published)",
    )
    add("--frame_stride", type=int, help="of those frames (1, or as published)")
    add(
        "--trained_on",
        choices=SETUPS,
        help="of RIVER: as the file says; where BAIR and KTH look alike, bair",
    )
    add(
        "--trust",
        action="store_true",
        help="convert although the checksum is not that of a published file",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parse_arguments(arguments)
    return command.run("convert_weights", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    source = pathlib.Path(options.file)
    sections = weights.read_sections(source)
    if any(weights.recognise(one, reference.NETWORKS) for one in sections.values()):
        return _import_reference(options)
    if any(map(is_river, sections.values())) and not _names_file(options.to):
        return _import_river(options)
    tensors = weights.one_network(source, sections)
    network = weights.recognise(tensors, NETWORKS)
    if network is None:
        first = ", ".join(list(tensors)[:3])
        raise WeightsError(
            f"{source}: none of the known networks ({len(tensors)} tensors, the first"
            f" are {first}); --help lists the known ones"
        )
    digest = weights.sha256(source)
    published = _published(network, source, digest, options.trust)
    try:
        params = network.to_params(tensors)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    target = pathlib.Path(options.to)
    if not _names_file(target):
        target = target / f"{network.name}{SUFFIX}"
    licence = published.licence if published else "unknown"
    header = {"source": source.name, "sha256": digest, "licence": licence}
    write_whole(target, weights.to_safetensors(network, params, **header))
    card = target.with_suffix(".md")
    write_whole(card, _card(network, header, published, params).encode())
    count = sum(array.size for array in weights.flatten(params).values())
    print(f"{network.title}, {count:,} parameters: {target} (card: {card})")
    return 0


def _import_reference(options: argparse.Namespace) -> int:
    """A checkpoint of the PyTorch reference becomes a work directory."""
    width, height = options.size or (240, 160)
    stage = import_reference(
        options.file,
        options.vae,
        options.to,
        height=height,
        width=width,
        frame_stride=1 if options.frame_stride is None else options.frame_stride,
    )
    following = f"evaluate --workdir {options.to} --data CLEVRER"
    if hasattr(stage.system, "predict"):
        following = f"predict --workdir {options.to} --videos FILES --out out"
    print(
        f"A work directory of the PyTorch reference: {options.to}. Next: python -m"
        f" jax_vidpred.{following}"
    )
    return 0


def _import_river(options: argparse.Namespace) -> int:
    """A checkpoint of RIVER becomes a work directory."""
    width, height = options.size or (None, None)
    import_river(
        options.file,
        options.vae,
        options.to,
        trained_on=options.trained_on,
        height=height,
        width=width,
        frame_stride=options.frame_stride,
    )
    print(
        f"A work directory of RIVER: {options.to}. Next: python -m jax_vidpred.predict"
        f" --workdir {options.to} --videos FILES --out out"
    )
    return 0


def _names_file(to: str | os.PathLike) -> bool:
    return pathlib.Path(to).suffix == SUFFIX


def _published(
    network: Network, source: pathlib.Path, digest: str, trust: bool
) -> Published | None:
    """The published file that this one is; None where that cannot be said."""
    known = [one for one in network.published if one.sha256]
    for one in known:
        if digest.startswith(one.sha256):
            return one
    for one in network.published:
        if not one.sha256 and one.file == source.name:
            return one
    if known and not trust:
        wanted = " or ".join(f"{one.file} ({one.sha256[:8]})" for one in known)
        raise WeightsError(
            f"{source}: sha256 {digest[:8]}... is not that of a published file of"
            f" {network.title}: {wanted}; pass --trust if you know where it comes from"
        )
    return None


def _card(
    network: Network,
    header: Mapping[str, str],
    published: Published | None,
    params: Mapping[str, Any],
) -> str:
    """What the file is, for people, in Markdown."""
    if published:
        origin = f"the published {published.file} ({published.where})"
        if not published.sha256:
            origin = f"by its name {origin}, whose checksum is not known here"
    else:
        origin = "not compared with a published file: no checksum of one is known"
        if any(one.sha256 for one in network.published):
            origin = "not one of the published files: converted with --trust"
    shapes = [
        f"| {path} | {'x'.join(map(str, array.shape)) or 'scalar'} |"
        for path, array in sorted(weights.flatten(params).items())
    ]
    lines = [
        f"# {network.name}: {network.title}",
        "",
        f"- source: {header['source']}, {origin}",
        f"- sha256 of the source: {header['sha256']}",
        f"- licence: {header['licence']}",
        f"- converted: {datetime.date.today()} by jax_vidpred.convert_weights",
        "",
        "| parameter | shape |",
        "| --- | --- |",
        *shapes,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
