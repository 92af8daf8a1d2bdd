"""The main score by speaker, by session, and by every column of the corpus that tells people apart, such as gender; and
how far two groups lie apart. Small groups are not named. No JAX."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.markup import escape

from mer_jax.data.corpus import Corpus
from mer_jax.metrics.definition import count_groups
from mer_jax.metrics.residuals import mean_of
from mer_jax.metrics.significance import bootstrap, bootstrap_gap
from mer_jax.tasks import Several, Task

SMALL = 20  # utterances that a group must have to be named
MOST = 10  # groups that are named of a grouping, the largest
ENDS = ("lowest", "highest")


def groupings(corpus: Corpus) -> dict[str, np.ndarray]:
    """Of every utterance of the corpus the group by the name of each grouping, "" where it is not known: `speaker`,
    `session` where there are several, and the corpus's own."""
    names = ["speaker", *["session"] * (len(np.unique(corpus.group("session"))) > 1), *corpus.groups]
    return {name: corpus.group(name) for name in names}


def score_groups(
    task: Task,
    groups: Mapping[str, np.ndarray],
    dialogues: np.ndarray,
    targets: Mapping[str, np.ndarray],
    decisions: Sequence[np.ndarray],
) -> dict[str, dict[str, Any]]:
    """What metrics.json says as `groups` of a point, by grouping. groups: as `groupings` gives them, of these
    utterances; decisions: of each seed. A grouping of which nothing is known is left out.

    groups: of each that is named, the largest first, how many utterances and dialogues it has, the `value` of the main
    score, the mean over the seeds, and where it has several dialogues its 95 % interval. others: the same of all other
    groups together, and how many these are; without a score where together they are small. unknown: utterances of no
    known group. gap: of the two groups that lie furthest apart. Of several targets the main score's counts, and
    utterances that lack it count nowhere."""
    if isinstance(task, Several):
        i = main_part(task)
        part, (targets, has) = task.parts[i], task.own_rows(targets, i)
        groups, dialogues = {name: of[has] for name, of in groups.items()}, dialogues[has]
        decisions = [part.decisions(one[has][:, task.slices[i]]) for one in decisions]
        task = part.led_by(task.main_metric.removeprefix(task.start(i)))
    return {
        name: _grouping(task, of, dialogues, targets, decisions)
        for name, of in groups.items()
        if np.any(of != "") and decisions
    }


def main_part(task: Several) -> int:
    """The number of the target that the main score is of."""
    starts = [i for i in range(1, len(task.parts)) if task.main_metric.startswith(task.start(i))]
    return starts[0] if starts and task.main_metric not in task.parts[0].metrics else 0


def _grouping(
    task: Task,
    of: np.ndarray,
    dialogues: np.ndarray,
    targets: Mapping[str, np.ndarray],
    decisions: Sequence[np.ndarray],
) -> dict[str, Any]:
    named = named_groups(of, dialogues)

    def counts(rows: np.ndarray) -> np.ndarray:
        return _counts(task, rows, dialogues, targets, decisions)

    rest = (of != "") & ~np.isin(of, named)
    others: dict[str, Any] = {"groups": len(np.unique(of[of != ""])) - len(named), "utterances": int(rest.sum())}
    if others["utterances"] >= SMALL:
        others |= _scored(task, counts(rest))
    found: dict[str, Any] = {
        "groups": {
            name: {"utterances": int((of == name).sum()), **_scored(task, counts(of == name))} for name in named
        },
        "others": others,
        "unknown": int((of == "").sum()),
    }
    if len(named) > 1:
        found["gap"] = _gap(task, found["groups"], lambda name: counts(of == name))
    return found


def named_groups(of: np.ndarray, dialogues: np.ndarray) -> list[str]:
    """The groups that are named, the largest first; none where only one could be. They have SMALL utterances of two
    dialogues; where every group is one dialogue, as in corpora of acted sentences, SMALL utterances are enough."""
    names, sizes = np.unique(of[of != ""], return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    large = [str(names[i]) for i in order if sizes[i] >= SMALL]
    several = [name for name in large if len(np.unique(dialogues[of == name])) > 1]
    named = (several if len(several) > 1 else large)[:MOST]
    return named if len(named) > 1 else []


def mean_by_group(of: np.ndarray, dialogues: np.ndarray, values: np.ndarray) -> dict[str, dict[str, Any]]:
    """Of every group that is named the mean of some values [seeds, utterances], NaN where one is not known, over the
    seeds: `value`, and its interval as in `score_groups`."""
    found = {}
    for name in named_groups(of, dialogues):
        rows = (of == name) & ~np.isnan(values).any(0)
        if not rows.any():
            continue
        sums = [count_groups(np.stack([np.ones(rows.sum()), one[rows]], 1), dialogues[rows])[1] for one in values]
        counts = np.stack(sums)
        interval = bootstrap(counts, scores=lambda counts: {"mean": mean_of(counts)})
        found[name] = {"value": float(mean_of(counts.sum(1)).mean()), **interval.get("mean", {})}
    return found


def _counts(
    task: Task,
    rows: np.ndarray,
    dialogues: np.ndarray,
    targets: Mapping[str, np.ndarray],
    decisions: Sequence[np.ndarray],
) -> np.ndarray:
    """What the task counts of some utterances, [seeds, all dialogues, …]."""
    names = np.unique(dialogues)
    here = np.isin(names, dialogues[rows])
    own = {name: values[rows] for name, values in targets.items()}
    members = [task.count_by_dialogue(own, of_seed[rows], dialogues[rows]) for of_seed in decisions]
    counts = np.zeros((len(members), len(names), *members[0].shape[1:]))
    counts[:, here] = np.stack(members)
    return counts


def _main(task: Task) -> Any:
    """The main score alone, as `bootstrap` takes scores."""
    return lambda counts: {"main": task.metrics[task.main_metric].function(counts)}


def _scored(task: Task, counts: np.ndarray) -> dict[str, Any]:
    """`value`, and `low` and `high`, by resampling the dialogues that the group has."""
    own = counts[:, np.any(counts, axis=(0, *range(2, counts.ndim)))]
    value = float(np.mean(_main(task)(own.sum(1))["main"]))
    return {"dialogues": own.shape[1], "value": value, **bootstrap(own, scores=_main(task)).get("main", {})}


def _gap(task: Task, scored: Mapping[str, Mapping[str, Any]], counts_of: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """The groups with the highest and the lowest score, their `difference`, its interval by `bootstrap_gap`, and how
    many dialogues both have."""
    highest = max(scored, key=lambda name: scored[name]["value"])
    lowest = min(list(scored)[::-1], key=lambda name: scored[name]["value"])
    a, b = counts_of(highest), counts_of(lowest)
    has_a, has_b = (np.any(one, axis=(0, *range(2, one.ndim))) for one in (a, b))
    return {
        "highest": highest,
        "lowest": lowest,
        "difference": scored[highest]["value"] - scored[lowest]["value"],
        **bootstrap_gap(a, b, scores=_main(task)).get("main", {}),
        "shared_dialogues": int((has_a & has_b).sum()),
    }


def interval_of(found: Mapping[str, Any]) -> dict[str, float] | None:
    """The ends of a score or gap, if it has any."""
    return {end: found[end] for end in ("low", "high")} if "low" in found else None


def gaps_in_words(task: Task, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each grouping with the largest gap, as the console shows it; nothing without any."""
    metric, lines = task.metrics[task.main_metric], []
    for name, grouping in found.items():
        if gap := grouping.get("gap"):
            pair = (f"{escape(gap[end])} {metric.format(grouping['groups'][gap[end]]['value'])}" for end in ENDS)
            held = f" (95 % {metric.format_interval(ends)})" if (ends := interval_of(gap)) else ""
            apart = f"{metric.format(gap['difference'])}{held}"
            lines.append(f"{metric.title} by {escape(name)}: {' to '.join(pair)}, largest gap {apart}")
    return "\n".join(lines)
