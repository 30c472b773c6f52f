"""The Frechet distance between two normal distributions, in float64 (plain numpy)."""

import numpy as np
from jaxtyping import Float


def moments(
    samples: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d d"]]:
    """Mean and covariance of samples; the covariance is divided by n - 1 (np.cov).

    Raises:
      ValueError: fewer than two samples.
    """
    samples = np.asarray(samples, np.float64)
    if len(samples) < 2:
        raise ValueError(f"a covariance wants 2 samples or more, not {len(samples)}")
    mean = samples.mean(0)
    centred = samples - mean
    return mean, centred.T @ centred / (len(samples) - 1)


def frechet_distance(
    first_mean: Float[np.ndarray, "d"],
    first_covariance: Float[np.ndarray, "d d"],
    second_mean: Float[np.ndarray, "d"],
    second_covariance: Float[np.ndarray, "d d"],
) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)); at least 0, in squared units.

    S1 S2 has the eigenvalues of the symmetric matrix S1^(1/2) S2 S1^(1/2), so the trace
    of its root is the sum of the roots of these. That is exact also where a covariance
    is singular, where an iteration for the root of the product fails.

    Source: Dowson & Landau 1982.
    """
    values, vectors = np.linalg.eigh(np.asarray(first_covariance, np.float64))
    # Rounding leaves eigenvalues that should be 0 a little below it.
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = root @ np.asarray(second_covariance, np.float64) @ root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    shift = np.square(np.asarray(first_mean, np.float64) - second_mean).sum()
    traces = np.trace(first_covariance) + np.trace(second_covariance)
    return max(float(shift + traces - 2 * shared), 0.0)
