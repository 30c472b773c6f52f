"""Results of `evaluate`, read back: are they about the same, and what do they share?"""

import itertools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_vidpred.report.table import BASELINES, columns, mean_scores, metric_of

# Baselines are the same numbers in every result but for the order of additions.
ROUNDING = 1e-4

Result = Mapping[str, Any]


def read_result(path: str) -> Result:
    """A result of `evaluate`.

    Raises:
      ValueError: it cannot be read or is none; the message names the file.
    """
    try:
        result = json.loads(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no result of evaluate (no JSON)") from error
    if not isinstance(result, dict) or not _has_systems(result.get("systems")):
        raise ValueError(f"{path}: is no result of evaluate (no scores of systems)")
    manifest = result.get("manifest")
    if not isinstance(manifest, dict) or not isinstance(
        manifest.get("comparable"), dict
    ):
        raise ValueError(
            f"{path}: does not say how it was measured; an older version has made it:"
            " evaluate again"
        )
    clips = result.setdefault("clips", [])
    for name, scores in result["systems"].items():
        for key, values in scores.get("per_clip", {}).items():
            if len(values) != len(clips):
                raise ValueError(
                    f"{path}: {key} of {name} has {len(values)} values for"
                    f" {len(clips)} clips; the file is damaged"
                )
    return result


def _has_systems(systems):
    return (
        isinstance(systems, dict)
        and len(systems) > 0
        and all(isinstance(s, dict) and "mean" in s for s in systems.values())
    )


def check_alike(path, manifest, other_path, other_manifest):
    """Raises ValueError at the first thing that two results do not share."""
    one, other = (dict(m["comparable"]) for m in (manifest, other_manifest))
    variants, other_variants = one.pop("metrics", {}), other.pop("metrics", {})
    # Hashes last: they differ because something else does, which says more.
    keys = sorted({**one, **other}, key=lambda key: key.endswith("_sha256"))
    pairs = [(key, one.get(key), other.get(key)) for key in keys]
    pairs += [
        (f"the variant of {key}", variants[key], other_variants[key])
        for key in variants
        if key in other_variants
    ]
    for key, value, other_value in pairs:
        if value != other_value:
            raise ValueError(
                f"unlike results: {key} is {_shown(value)} in {path} and"
                f" {_shown(other_value)} in {other_path}"
            )


def _shown(value):
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def common_of(manifests):
    """What results that are alike have in common, of their manifests."""
    metrics = {
        key: variant
        for manifest in manifests
        for key, variant in manifest.get("metrics", {}).items()
    }
    return {**manifests[0], "metrics": metrics}


def labels_of(results: Mapping[str, Result]) -> dict[str, str]:
    """path -> name of the work directory, with as many folders as tell them apart."""
    places = {
        path: pathlib.Path(result["manifest"].get("own", {}).get("workdir", path)).parts
        for path, result in results.items()
    }
    places = {path: parts or (path,) for path, parts in places.items()}
    for depth in range(1, max(map(len, places.values())) + 1):
        labels = {path: "/".join(parts[-depth:]) for path, parts in places.items()}
        if len(set(labels.values())) == len(labels):
            return labels
    return {path: path for path in results}  # several results of one work directory


def baselines_of(
    by_label: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """One row for each baseline that is the same everywhere; what differs, in words."""
    rows, notes = {}, []
    for name in BASELINES:
        found = {
            label: mean_scores(systems)[name]
            for label, systems in by_label.items()
            if name in systems and name != next(iter(systems))
        }
        unlike = _unlike(found)
        if unlike is None:
            merged = {
                key: value for row in found.values() for key, value in row.items()
            }
            rows |= {name: merged} if merged else {}
            continue
        rows |= {f"{name}, {label}": row for label, row in found.items()}
        key, (label, value), (other, other_value) = unlike
        notes.append(
            f"{name} is not the same everywhere: {metric_of(key).heading} is"
            f" {value:.6g} for {label} and {other_value:.6g} for {other}"
        )
    return rows, notes


def _unlike(found):
    """A metric in which two rows differ by more than rounding, or None."""
    for (label, row), (other, other_row) in itertools.combinations(found.items(), 2):
        for key in columns({label: row, other: other_row}):
            values = row.get(key, math.nan), other_row.get(key, math.nan)
            if not all(map(math.isfinite, values)):
                continue
            if not math.isclose(*values, rel_tol=ROUNDING, abs_tol=1e-6):
                return key, (label, values[0]), (other, values[1])
    return None


def versions_of(results: Mapping[str, Result]) -> list[str]:
    """Whether the results were made by different sources of this package."""
    own = [result["manifest"].get("own", {}) for result in results.values()]
    if len({one.get("sources_sha256") for one in own}) < 2:
        return []
    return ["the results were made by different versions of the sources"]
