"""A metric as the mean of per-sample values, and the 95 % confidence interval of that mean.

Every number this package reports is a mean over samples (hits, expected hits, or pseudo-values of a smooth
statistic such as average precision), so one estimator of variance and one interval serve them all, and two
models measured on the same samples can be compared pair by pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy import stats

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Measurement:
    """One metric on one set: what each sample contributed, and how samples hang together."""

    values: np.ndarray  # [n] float, what each sample contributes
    clusters: np.ndarray | None = None  # [n] ids; samples of one cluster are not independent
    strata: np.ndarray | None = None  # [n] ids; the metric is the mean over strata of the means inside them
    unit: str = "samples"  # what one sample, or one cluster, is: images, captions, names
    share: bool = True  # whether the metric lies in 0..1 (Wilson) or anywhere (normal interval)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))

    @property
    def n(self) -> int:
        """Independent units: clusters where there are some, samples otherwise."""
        return len(self.values) if self.clusters is None else len(np.unique(self.clusters))

    @property
    def mean(self) -> float | None:
        """Return the metric; None where there is no sample."""
        if not len(self.values):
            return None
        return float(self.values.mean() if self.strata is None else _by_stratum(self.values, self.strata)[0].mean())

    def variance(self) -> float:
        """Return the variance of the metric over samples (or clusters, or inside strata) drawn anew."""
        if self.strata is not None:
            return _stratified_variance(self.values, self.strata)
        deviations = (self.values - self.mean) / len(self.values)
        if self.clusters is None:
            return float(deviations @ deviations)
        _, where = np.unique(self.clusters, return_inverse=True)
        sums = np.bincount(where, deviations)
        return float(sums @ sums) * self.n / max(self.n - 1, 1)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of the metric; None where fewer than two units were seen."""
        if self.n < 2 or self.mean is None:
            return None
        z = Z95 if self.clusters is None else float(stats.t.ppf(0.975, self.n - 1))
        if not self.share:
            half = z * self.variance() ** 0.5
            return self.mean - half, self.mean + half
        return _wilson(self.mean, self._effective_n(self.mean), z)

    @property
    def method(self) -> str:
        """Say how the interval was made."""
        kind = "Wilson" if self.share else "normal"
        if self.strata is not None:
            return f"{kind} at the effective sample size, {self.unit} resampled inside each class"
        if self.clusters is not None:
            return f"{kind} at the effective sample size, clustered by {self.unit}, Student t"
        return f"{kind} at the effective sample size over {self.unit}"

    def _effective_n(self, p: float) -> float:
        """Return the n of a plain proportion p with the same variance."""
        variance = self.variance()
        if variance <= 0 or not 0 < p < 1:  # all alike: nothing is known about the spread, so count units
            return self.n
        n = p * (1 - p) / variance
        return n if self.clusters is None else min(n, len(self.values))  # negative correlation is mostly noise


def _by_stratum(values: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means, sizes and sums of squared deviations of the strata."""
    _, where, counts = np.unique(strata, return_inverse=True, return_counts=True)
    means = np.bincount(where, values) / counts
    return means, counts, np.bincount(where, (values - means[where]) ** 2)


def _stratified_variance(values: np.ndarray, strata: np.ndarray) -> float:
    """Variance of a mean of stratum means; a stratum of one sample borrows the spread of all samples."""
    _, counts, squares = _by_stratum(values, strata)
    inside = np.where(counts > 1, squares / np.maximum(counts - 1, 1), values.var())
    return float((inside / counts).sum()) / len(counts) ** 2


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927), which is right near 0 and 1 where p +- z * se is not."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
