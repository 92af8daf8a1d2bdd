"""The main score by speaker, session and what else tells people apart, with the largest gap of each. No JAX."""

from collections.abc import Mapping
from typing import Any

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.evaluation.group_scores import MOST, SMALL, interval_of, score_groups
from mer_jax.metrics.metric import Metric
from mer_jax.report.html import escaped, missing, plots, table
from mer_jax.report.svg import intervals, levels_of

MANNER = (
    "A group’s score is of its own utterances alone, which may be harder or easier than another’s, or other in what "
    "they hold: a gap tells where to look, not why. 95 % intervals are made by resampling the dialogues that the group "
    "has. For a gap, dialogues that only the one, only the other, or both groups have are resampled apart, and both "
    "groups are scored on the same resample; it is the largest of all pairs, which its interval does not know."
)


def groups(run: FinishedRun) -> str:
    """A table and a plot for each grouping that has two groups of some size."""
    if run.locked:
        return missing("Scores by group are", "predictions.jsonl", run.why_missing)
    if not run.predictions.groups:
        return missing("Scores by group are", "predictions.jsonl", "names no speaker, session or other group")
    if not run.complete_seeds:
        return missing("Scores by group are", "metrics.json", "has no seed that finished every fold")
    found, metric = by_group(run), run.task.metrics[run.task.main_metric]
    compared = {name: one for name, one in found.items() if "gap" in one}
    alone = "".join(f"<li>{escaped(_not_compared(name, one))}</li>" for name, one in found.items() if "gap" not in one)
    rest = f'<ul class="faint">{alone}</ul>' if alone else ""
    if not compared:
        return rest
    seeds = len(run.complete_seeds)
    over = f"the mean over {seeds} seeds, which are held fixed" if seeds > 1 else "of one seed"
    small = f"Groups of fewer than {SMALL} utterances are not named, nor those of a single dialogue beside larger ones."
    parts = [f"<p>{escaped(f'The {metric.title} by group, {over}. {MANNER} {small}')}</p>"]
    parts += [_grouping(name, one, metric) for name, one in compared.items()]
    return "".join([*parts, rest])


def by_group(run: FinishedRun) -> dict[str, dict[str, Any]]:
    """What `score_groups` has found at the end of the run; where metrics.json does not say, what it finds in the
    predictions of the complete seeds."""
    if told := run.chosen.get("groups"):
        return told
    predictions, lines = run.predictions, [run.lines_of(seed) for seed in run.complete_seeds]
    tested = predictions.utterance[lines[0]]
    return score_groups(
        run.task,
        {name: of[tested] for name, of in predictions.groups.items()},
        predictions.dialogues[tested],
        predictions.targets_of(tested),
        [predictions.decisions[of_seed] for of_seed in lines],
    )


def _not_compared(name: str, found: Mapping[str, Any]) -> str:
    count = found["others"]["groups"]
    if count == 1:
        return f"{name}: there is one group alone among the test utterances."
    return f"{name}: of {count:,} groups no two have {SMALL} utterances."


def _grouping(name: str, found: Mapping[str, Any], metric: Metric) -> str:
    scale = 100 if metric.unit == "percent" else 1
    rows, drawn = [], []
    named = [(escaped(group), group, one) for group, one in found["groups"].items()]
    if found["others"]["groups"]:
        words = f"other groups, {found['others']['groups']:,} in number"
        named.append((f'<span class="faint">{words}</span>', "other groups", found["others"]))
    for title, plain, one in named:
        value = metric.format(one["value"]) if "value" in one else "-"
        dialogues = f"{one['dialogues']:,}" if "dialogues" in one else "-"
        rows.append([title, f"{one['utterances']:,}", dialogues, value, metric.format_interval(interval_of(one))])
        if "value" in one:
            ends = (scale * one["low"], scale * one["high"]) if "low" in one else (None, None)
            drawn.append((plain, scale * one["value"], *ends))
    if found["unknown"]:
        rows.append(['<span class="faint">not known</span>', f"{found['unknown']:,}", "-", "-", "-"])
    percent = ", percent" * (metric.unit == "percent")
    titles = ["group", "utterances", "dialogues", metric.title, "95 %"]
    values = [value for _, *some in drawn for value in some if value is not None]
    levels = (0, 25, 50, 75, 100) if scale == 100 else levels_of(values)
    figure = intervals(f"{metric.title} by {name}{percent}", drawn, levels, 1 if scale == 100 else 2)
    shown = table(f"By {name}{percent}", titles, rows)
    return f"<h3>{escaped(name.capitalize())}</h3>{_gap(found, metric)}{shown}{plots([figure])}"


def _gap(found: Mapping[str, Any], metric: Metric) -> str:
    gap, scored = found["gap"], found["groups"]
    unit = " points" if metric.unit == "percent" else ""
    pair = (f"{gap[end]} {metric.format(scored[gap[end]]['value'])}" for end in ("highest", "lowest"))
    shared = gap["shared_dialogues"]
    both = f"{shared:,} dialogues have both" if shared > 1 else "one dialogue has both" if shared else ""
    both = both or "no dialogue has both"
    held = (
        f"95 % {metric.format_interval(ends)}"
        if (ends := interval_of(gap))
        else "a group of one dialogue gives no interval"
    )
    largest = f" Named are the {MOST} largest groups." if len(scored) == MOST and found["others"]["groups"] else ""
    text = f"Largest gap: {metric.format(gap['difference'])}{unit} ({held}; {both}), {' against '.join(pair)}.{largest}"
    return f"<p>{escaped(text)}</p>"
