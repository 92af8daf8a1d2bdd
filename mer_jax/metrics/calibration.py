"""How far probabilities can be believed, and temperature scaling. No JAX."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mer_jax.metrics.significance import MIN_DIFFERENCE

CALIBRATION = {"ece": "ECE", "nll": "NLL", "brier": "Brier"}  # what `calibration` gives, and its title
EPSILON = 1e-12  # stands for a probability of 0, whose logarithm is needed: 27.6 nats
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MIN_ROWS = 50  # rows that a temperature is fitted on, at least: it then costs 1/(2 rows) = 0.01 nats on average
CROSS_FITS = 10
UTTERANCES = "utterances"  # what is calibrated, unless a task says otherwise


def calibration(
    probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"], bins: int = 15
) -> dict[str, float]:
    """How far the probabilities can be believed; 0 is perfect.

    ece: expected calibration error (Guo et al. 2017, arXiv 1706.04599): over `bins` bins ((i - 1)/bins, i/bins] of the
    top probability, |accuracy - mean top probability| weighted by the bin's share of the rows. nll: mean -log p(label)
    in nats; a probability of 0 counts as 1e-12. brier: sum over classes of (p - [class = label])^2, mean over rows
    (Brier 1950): 0 to 2."""
    p, row = probabilities.astype(np.float64), np.arange(len(labels))
    top = p.max(1)
    bin_of = _bins(top, bins)
    gap = np.bincount(bin_of, (p.argmax(1) == labels) - top, minlength=bins)
    target = np.eye(p.shape[1])[labels]
    return {
        "ece": float(np.abs(gap).sum() / len(labels)),
        "nll": float(-np.log(np.maximum(p[row, labels], EPSILON)).mean()),
        "brier": float(((p - target) ** 2).sum(1).mean()),
    }


def _bins(top: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)


def reliability(
    probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"], bins: int = 15
) -> list[tuple[float, float, int]]:
    """Of each of the bins of `calibration` that has rows: mean top probability, share of right predictions, rows."""
    top, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = _bins(top, bins)
    count, sure, good = (np.bincount(bin_of, w, minlength=bins) for w in (np.ones(len(top)), top, right))
    return [(float(s / n), float(g / n), int(n)) for n, s, g in zip(count, sure, good, strict=True) if n]


def soft_label_metrics(
    probabilities: Float[np.ndarray, "rows classes"], soft: Float[np.ndarray, "rows classes"]
) -> dict[str, int | float]:
    """How the probabilities p fit the raters' distributions q (`data.corpus.soft_label`), over the rows that have one.

    utterances: how many these are. nll: mean -sum q log p in nats. jensen_shannon: mean JS(q, p) in nats, at most ln 2.
    agreement: mean share of the raters who chose the predicted class; agreement_at_most: of the class that most chose.
    """
    known = soft.any(1)
    p, q = probabilities[known].astype(np.float64), soft[known].astype(np.float64)
    middle = (p + q) / 2

    def kl(x: np.ndarray) -> np.ndarray:
        return (x * (_log(x) - _log(middle))).sum(1)

    return {
        "utterances": int(known.sum()),
        "nll": float(-(q * _log(p)).sum(1).mean()),
        "jensen_shannon": float((kl(p) + kl(q)).mean() / 2),
        "agreement": float(q[np.arange(len(q)), p.argmax(1)].mean()),
        "agreement_at_most": float(q.max(1).mean()),
    }


def temperature_scale(
    probabilities: Float[np.ndarray, "rows classes"], temperature: float
) -> Float[np.ndarray, "rows classes"]:
    """softmax(log p / T), float64: T > 1 makes a model less sure, T < 1 surer; no prediction changes."""
    return _softmax(_log(probabilities) / temperature)


def fit_temperature(probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"]) -> float:
    """Temperature scaling (Guo et al. 2017): the T in [0.05, 20] of least NLL of softmax(log p / T); 1 if none matters.

    The NLL is convex in 1/T, so that its slope has one zero: mean over rows of E[log p] under the tempered p, less
    log p(label).
    """
    from scipy import optimize  # here and not above: half a second that every training's start would pay

    log_p = _log(probabilities)
    of_label = log_p[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        return float(((_softmax(log_p * inverse) * log_p).sum(1) - of_label).mean())

    low, high = slope(1 / MAX_TEMPERATURE), slope(1 / MIN_TEMPERATURE)
    if max(abs(low), abs(high)) < MIN_DIFFERENCE:
        return 1.0
    if low >= 0:
        return MAX_TEMPERATURE
    if high <= 0:
        return MIN_TEMPERATURE
    return float(1 / optimize.brentq(slope, 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, xtol=1e-12))


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The temperature that probabilities are divided by, and why. temperature: 1 where scaling is left out; reason:
    why it is, otherwise nothing. rows: how many it was fitted on, or could have been. gain: the NLL that it saves on
    rows that it was not fitted on, in nats, and `error`, its standard error; None where they were not measured. what:
    the rows in words."""

    temperature: float
    rows: int
    reason: str = ""
    gain: float | None = None
    error: float | None = None
    what: str = UTTERANCES

    def to_json(self) -> dict[str, Any]:
        """What metrics.json says beside the temperature."""
        measured = {"gain": self.gain, "error": self.error} if self.gain is not None else {}
        of = {} if self.what == UTTERANCES else {"of": self.what}
        return {"used": not self.reason, "reason": self.reason, "rows": self.rows, **of, **measured}


def choose_temperature(
    probabilities: Float[np.ndarray, "rows classes"],
    labels: Int[np.ndarray, "rows"],
    dialogues: np.ndarray | None = None,
    knowing: Bool[np.ndarray, "rows"] | None = None,
    what: str = UTTERANCES,
) -> Scaling:
    """Temperature scaling where it can be trusted to help, otherwise T = 1. The rule:

    - Rows that are `knowing` do not count: on what training has seen a model is surer, and rightly so, than it is on
      new utterances. (These are rows whose dialogue trains, too, or on whose labels the features were trained.)
    - There are `MIN_ROWS` others. One parameter that is fitted to n rows by maximum likelihood costs 1/(2 n) nats on
      new ones (Akaike 1974, a new look at the statistical model identification): nothing of 600, much of 2.
    - The NLL has its minimum at a T between the bounds. Where all rows are right it has none, and sure is never enough.
    - Cross-fitted, it saves more NLL than its standard error over dialogues (the rule of Breiman et al. 1984,
      Classification and regression trees, 3.4.3): T is fitted without a tenth of the dialogues and tried on these.
      Without dialogues, or with one only, rows take their place. The NLL decides, since it is proper (Gneiting and
      Raftery 2007); the ECE of few rows is mostly noise."""
    use = np.ones(len(labels), bool) if knowing is None else ~knowing
    p, y, rows = probabilities[use], labels[use], int(use.sum())
    if rows < MIN_ROWS:
        seen = f" (and {len(labels) - rows} of which training knows something)" if rows < len(labels) else ""
        return Scaling(1.0, rows, f"{rows} {what} to fit it on{seen} are too few: it takes {MIN_ROWS}", what=what)
    temperature = fit_temperature(p, y)
    if temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        return Scaling(1.0, rows, f"no temperature is best of the {rows} {what} to fit it on", what=what)
    names = np.arange(rows) if dialogues is None else np.unique(dialogues[use], return_inverse=True)[1]
    if len(np.unique(names)) < 2:
        names = np.arange(rows)
    groups = int(names.max()) + 1
    saved = np.zeros(rows)
    for part in range(min(CROSS_FITS, groups)):
        tried = names % CROSS_FITS == part
        scaled = temperature_scale(p[tried], fit_temperature(p[~tried], y[~tried]))
        at = np.arange(len(scaled)), y[tried]
        saved[tried] = _log(scaled)[at] - _log(p[tried])[at]
    gain = float(saved.mean())
    of_groups = np.bincount(names, saved - gain)
    error = float(np.sqrt(np.square(of_groups).sum() * groups / (groups - 1)) / rows)
    if gain <= error:
        reason = f"cross-fitted it saves {gain:.4f} ± {error:.4f} nats, which is no more than chance"
        return Scaling(1.0, rows, reason, gain, error, what)
    return Scaling(temperature, rows, "", gain, error, what)


def scaling_in_words(found: Mapping[str, Any], part: str) -> str:
    """Which probabilities a run gives, by metrics.json's `calibration` of a replica; part: on which it was fitted."""
    temperature, scaling = found["temperature"], found.get("scaling")
    if scaling is None:
        return (
            f"scaled by the temperature {temperature:.2f}, fitted on the {part} part by a version that did not try "
            "whether that helps"
        )
    if not scaling["used"]:
        return f"as the model gives them: temperature scaling is left out, since {scaling['reason']}"
    what = scaling.get("of", UTTERANCES)
    return f"scaled by the temperature {temperature:.2f}, fitted on {scaling['rows']:,} {what} of the {part} part"


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), EPSILON))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
