"""The scores of a table by a definition, with 95 % intervals, as they are printed and written. No JAX."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from mer_jax.errors import UserError
from mer_jax.metrics.definition import Definition
from mer_jax.metrics.significance import bootstrap
from mer_jax.score.rows import Rows
from mer_jax.score.tables import Table, listed


def member_counts(
    each: Float[np.ndarray, "rows counts"], member: Sequence[str], groups: Shaped[np.ndarray, "rows"]
) -> tuple[Float[np.ndarray, "members groups counts"], list[str]]:
    """The counts [members, groups, counts], and who the members are."""
    names, of_member = np.unique(np.array(member, np.str_), return_inverse=True)
    there, of_group = np.unique(groups, return_inverse=True)
    total = np.zeros((len(names), len(there), each.shape[1]))
    np.add.at(total, (of_member, of_group), each)
    return total, names.tolist()


def refuse_unequal_members(table: Table, member: Sequence[str], ids: Sequence[str]) -> None:
    """Raises UserError unless all seeds of a file tested the same utterances, and are of one setting."""
    tested: dict[str, set[str]] = {}
    for name, one in zip(member, ids, strict=True):
        tested.setdefault(name, set()).add(one)
    first, *others = tested.items()
    settings = {name.partition(", ")[2] for name in tested if name.startswith("seed ")}
    if len(settings) > 1 or any(found != first[1] for _, found in others):
        what = "are of several settings" if len(settings) > 1 else "did not test the same utterances"
        raise UserError(
            f"{table.path}: its replicas {listed(tested)} {what}, so that they have no common score; choose one with "
            "--replica NAME"
        )


def score(
    rows: Rows, member: Sequence[str], groups: Shaped[np.ndarray, "rows"], samples: int, seed: int
) -> dict[str, Any]:
    """What is told of a definition: every score's mean over the members, its interval, and what it leaves out."""
    used = rows.known.any(1)
    if not used.any():
        raise UserError(f"no row has a target in {listed(rows.columns['targets'])}: there is nothing to score")
    definition = rows.definition
    each = definition.count(rows.targets[used], rows.known[used], rows.predicted[used])
    counts, names = member_counts(each, np.array(member)[used].tolist(), groups[used])
    intervals = bootstrap(counts, samples, seed, scores=lambda c: values_of(definition, c))
    totals = counts.sum(1)
    found = {}
    told = [x[used] for x in (rows.targets, rows.known, rows.predicted)]
    of_member = np.array(member)[used]
    for name, values in values_of(definition, totals).items():
        if name in definition.exact:
            values = [definition.exact[name](*(x[of_member == one] for x in told)) for one in names]
        metric = definition.metrics[name]
        found[name] = {
            "title": metric.title,
            "value": float(np.mean(values)),
            **intervals.get(name, {}),
            "unit": metric.unit,
            "direction": metric.direction,
        }
        if name in definition.excluded:
            what, how_many = definition.excluded[name]
            found[name]["leaves_out"] = {"what": what, "rows": round(float(np.mean(how_many(totals))))}
    return {
        "title": definition.title,
        "source": definition.source,
        "columns": rows.columns,
        "note": rows.note,
        "rows": round(int(used.sum()) / len(names)),
        "without_target": int((~used).sum()),
        "members": len(names),
        "groups": counts.shape[1],
        "scores": found,
    }


def values_of(definition: Definition, counts: Float[np.ndarray, "*lead counts"]) -> dict[str, Any]:
    """Every score of counts with any leading axes."""
    return {name: metric.function(counts) for name, metric in definition.metrics.items()}
