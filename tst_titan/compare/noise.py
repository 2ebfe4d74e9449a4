"""How far the numbers of one run can be trusted: the noise of a logged training loss, and of the held-out text.

A logged loss is the loss of one batch, so neighbouring values scatter around the curve. A held-out loss is a mean over
windows that every run scores, so that runs are compared window by window. What is estimated here is the scatter of
batches or of windows and nothing else: another seed or another data order moves the whole curve, which only several
seeds show (``tst_titan.compare.seeds``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

LARGE = 10**6
"""Degrees of freedom of a normal distribution."""
_QUADRATIC = 3  # coefficients of the local trend
_LARGEST_CORRELATION = 0.95


@dataclass(frozen=True)
class MeanWithError:
    """Mean of the last values of a noisy series, or over held-out windows.

    Attributes:
        mean: of the last ``n`` values, in their unit.
        n: number of values averaged.
        stderr: standard error of the mean; None where there are too few values to estimate it.
        dof: degrees of freedom of the scatter behind ``stderr``.
        correlation: lag-1 autocorrelation of the scatter, in [0, 0.95].
        windows: the values themselves, shape (n,), where they are losses of held-out windows, else None.
    """

    mean: float
    n: int
    stderr: float | None
    dof: int
    correlation: float
    windows: np.ndarray | None = field(default=None, compare=False, repr=False)

    def quantile(self, confidence: float) -> float:
        """Student's t quantile for a two-sided interval of this confidence."""
        return t_quantile(confidence, self.dof)


def exact(value: float) -> MeanWithError:
    """A number without an error, e.g. one of the paper's."""
    return MeanWithError(value, 1, None, 0, 0.0)


def t_quantile(confidence: float, dof: float) -> float:
    """Half-width of a two-sided interval in standard errors, with ``dof`` >= 1 degrees of freedom."""
    return float(stats.t.ppf(0.5 + confidence / 2, max(dof, 1)))


def mean_with_error(values: np.ndarray, k: int) -> MeanWithError:
    """Mean of the last ``k`` values and its standard error, corrected for trend and autocorrelation.

    The scatter is measured around a parabola fitted to the last ``max(5 k, 20)`` values (all, if there are
    fewer): a falling trend is not noise. With sigma the scatter and rho its lag-1 autocorrelation (an AR(1)
    process; negative estimates count as 0, which errs on the wide side), the standard error is
    sigma * sqrt((1 + rho) / (1 - rho) / k).

    Args:
        values: shape (n,), in order; only the last part is used.
        k: values averaged; fewer if there are fewer.
    """
    values = np.asarray(values, dtype=float)
    n = min(k, values.size)
    mean = float(values[-n:].mean())
    part = values[-max(5 * k, 20) :]
    dof = part.size - _QUADRATIC
    if dof < 2:
        return MeanWithError(mean, n, None, max(dof, 0), 0.0)
    x = np.linspace(-1.0, 1.0, part.size)
    scatter = part - np.polynomial.Polynomial.fit(x, part, 2)(x)
    total = float(scatter @ scatter)
    if total <= (1e-12 * max(1.0, abs(mean))) ** 2 * part.size:
        return MeanWithError(mean, n, 0.0, dof, 0.0)
    lag_1 = float(scatter[:-1] @ scatter[1:]) / total
    # The fit takes out slow scatter. First-order bias with k fitted coefficients: -(k + (k + 2) rho) / n
    # (Marriott and Pope 1954 for k = 1; for k = 3 the test simulates it); put it back.
    lag_1 += (_QUADRATIC + (_QUADRATIC + 2) * lag_1) / part.size
    correlation = min(max(lag_1, 0.0), _LARGEST_CORRELATION)
    sigma = (total / dof) ** 0.5
    stderr = sigma * ((1 + correlation) / (1 - correlation) / n) ** 0.5
    return MeanWithError(mean, n, stderr, dof, correlation)


def mean_of_windows(losses: np.ndarray) -> MeanWithError:
    """Mean over held-out windows, which count as independent; losses or differences, shape (windows,)."""
    n = losses.size
    stderr = float(stats.sem(losses)) if n > 1 else None
    return MeanWithError(float(losses.mean()), n, stderr, n - 1, 0.0, losses)


def apart(first: MeanWithError, second: MeanWithError) -> MeanWithError:
    """First minus second, window by window."""
    if first.windows is None or second.windows is None:
        raise ValueError("two means without windows cannot be paired")
    return mean_of_windows(first.windows - second.windows)


def redraw(
    means: Sequence[MeanWithError], target: MeanWithError, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Means and a target moved within their errors.

    Means over windows move together, as far as what makes a window hard is common to them: their redraws have the
    covariance of the windows over their number, and Student's t as distribution. All others move independently and
    normally.

    Returns:
        float64 of shape (samples, len(means)) and (samples,).
    """
    together = [*means, target]
    values = np.array([mean.mean for mean in together])
    if all(mean.windows is not None for mean in together) and target.n > 1:
        windows = np.stack([mean.windows for mean in together], axis=1)  # type: ignore[misc]
        n = target.n
        moves = rng.standard_normal((samples, n)) @ (windows - windows.mean(axis=0)) / np.sqrt(n * (n - 1))
        drawn = values + moves * np.sqrt((n - 1) / rng.chisquare(n - 1, (samples, 1)))
        return drawn[:, :-1], drawn[:, -1]
    errors = np.array([mean.stderr or 0.0 for mean in together])
    drawn = values[:-1] + errors[:-1] * rng.standard_normal((samples, len(means)))
    return drawn, target.mean + errors[-1] * rng.standard_normal(samples)


def block_bootstrap(residuals: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Residuals redrawn in blocks, which keep their short-range correlation.

    Circular moving blocks of ceil(n ** (1/3)) values.

    Args:
        residuals: shape (n,).
        samples: number of redraws.

    Returns:
        float64 of shape (samples, n).
    """
    n = residuals.size
    block = max(1, int(np.ceil(n ** (1 / 3))))
    starts = rng.integers(0, n, size=(samples, -(-n // block)))
    index = (starts[:, :, None] + np.arange(block)) % n
    return residuals[index.reshape(samples, -1)[:, :n]]
