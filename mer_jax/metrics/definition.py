"""What makes a set of scores: a named convention of the field, with its source. No JAX."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mer_jax.metrics.metric import Metric

Values = Float[np.ndarray, "rows dims"]
Known = Bool[np.ndarray, "rows dims"]


@dataclasses.dataclass(frozen=True)
class Definition:
    """How numbers or labels are scored.

    title: for a person. source: who defines it so, a paper or a program. count(targets, known, predicted): what the
    scores need of every row, Float64[rows, counts], so that the counts of a part are the sum over its rows. metrics:
    the scores, the main one first, as functions of counts [..., counts]. excluded: by score, the title of what it
    leaves out, and a function from counts to how many rows that are. exact: of scores that counts give only nearly, a
    function of (targets, known, predicted) that gives them as they are; intervals are of the counted ones."""

    title: str
    source: str
    count: Callable[[Values, Known, Values], Float[np.ndarray, "rows counts"]]
    metrics: Mapping[str, Metric]
    excluded: Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = dataclasses.field(default_factory=dict)
    exact: Mapping[str, Callable[[Values, Known, Values], float]] = dataclasses.field(default_factory=dict)


def count_groups(
    each: Float[np.ndarray, "rows counts"], groups: Shaped[np.ndarray, "rows"]
) -> tuple[list[str], Float[np.ndarray, "groups counts"]]:
    """The names of the groups, sorted, and the counts of each."""
    names, number = np.unique(groups, return_inverse=True)
    total = np.zeros((len(names), each.shape[1]))
    np.add.at(total, number, each)
    return [str(name) for name in names], total
