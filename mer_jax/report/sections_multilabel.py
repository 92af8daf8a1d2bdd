"""Sections that only several emotions at once have: each emotion's scores, precision over recall, which go together,
how far probabilities can be believed, and mistakes."""

import numpy as np

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.evaluation.score_table import part_of
from mer_jax.metrics.calibration import CALIBRATION, scaling_in_words, temperature_scale
from mer_jax.metrics.calibration import reliability as reliability_of
from mer_jax.metrics.multilabel import (
    IN_WORDS,
    average_precision,
    co_occurrence,
    decided,
    each_precision,
    each_recall,
    each_support,
    precision_recall,
)
from mer_jax.report.html import escaped, missing, plots, table
from mer_jax.report.sections_scores import count_dialogues, why_no_interval
from mer_jax.report.svg import intervals, reliability
from mer_jax.report.svg_numbers import precision_recall as steps
from mer_jax.report.utterances import by_whom, worst
from mer_jax.tasks import Multilabel

SHOWN = {"f1": "F1", "weighted_accuracy": "weighted accuracy", "ap": "average precision"}


def _task(run: FinishedRun) -> Multilabel:
    assert isinstance(run.task, Multilabel)
    return run.task


def each_emotion(run: FinishedRun) -> str:
    """Scores of every emotion, with intervals, and from where on an emotion is taken for present."""
    part, counts = part_of([run.chosen]), _counts(run)
    names, interval = run.task.outputs, run.chosen.get("interval") or {}
    precision, recall, support = each_precision(counts), each_recall(counts), each_support(counts)
    rows, bars = [], []
    for i, name in enumerate(names):
        cells = [f"{100 * precision[i]:.1f}", f"{100 * recall[i]:.1f}"]
        for score in SHOWN:
            full = f"{score}_{name}"
            metric = run.task.metrics[full]
            cells += [metric.format_mean(run.chosen[part].get(full)), metric.format_interval(interval.get(full))]
        there, known = support[i].tolist()
        rows.append([escaped(name), *cells, f"{there:,.0f} of {known:,.0f}"])
        f1, ends = run.chosen[part].get(f"f1_{name}"), interval.get(f"f1_{name}")
        if f1 and f1["mean"] is not None:
            bars.append((name, 100 * f1["mean"], *((100 * ends["low"], 100 * ends["high"]) if ends else (None, None))))
    heads = ["emotion", "precision", "recall", *(x for title in SHOWN.values() for x in (title, "95 %")), "there"]
    figure = plots([intervals("F1 of each emotion, percent", bars)]) if bars else ""
    return f"<p>{escaped(_about(run))}</p>{table('Emotions, percent', heads, rows)}{figure}"


def _about(run: FinishedRun) -> str:
    from_where = IN_WORDS[_task(run).target.present_from]
    replicas, dialogues = run.chosen["replicas"], count_dialogues(run)
    text = f"An emotion is there where its target is {from_where}, and predicted where its probability is above 0.5. "
    if replicas > 1:
        text += (
            f"Mean ± sample standard deviation over {replicas} replicas; precision, recall and how often it is there "
            "are of all replicas together. "
        )
    if run.locked:
        return text + "Of validation, without intervals, for the test part is locked."
    if run.chosen.get("interval"):
        return text + f"95 % intervals by resampling the {dialogues} test dialogues."
    return text + f"Without intervals, for {why_no_interval(dialogues)}."


def _counts(run: FinishedRun) -> np.ndarray:
    """What is counted of all replicas' parts together: of validation while the test part is locked."""
    if not run.locked:
        return _task(run).counts_of(run.chosen["pooled"])
    return np.sum([_task(run).counts_of(replica["valid"]) for replica in run.replicas.values()], axis=0)


def _lines(run: FinishedRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every line of the predictions and every emotion whether it is there, whether that is known, and how likely it
    is said to be."""
    targets = run.predictions.targets_of(run.predictions.utterance)
    return _task(run).present(targets), targets["known"], run.predictions.predicted


def precision_over_recall(run: FinishedRun) -> str:
    if run.locked:
        return missing("Precision over recall is", "predictions.jsonl", run.why_missing)
    present, known, predicted = _lines(run)
    figures = []
    for i, name in enumerate(run.task.outputs):
        there, p = present[known[:, i], i], predicted[known[:, i], i]
        if not there.any():
            continue
        area = f'<p class="faint">average precision {100 * average_precision(there, p):.1f}</p>'
        recall, precision = precision_recall(there, p)
        figures.append(steps(name, recall.tolist(), precision.tolist(), float(there.mean()), area))
    lacking = [name for i, name in enumerate(run.task.outputs) if not present[:, i].any()]
    none = f" No test utterance has {', '.join(lacking)}." if lacking else ""
    over = f" All {run.chosen['replicas']} replicas together." if run.chosen["replicas"] > 1 else ""
    text = (
        "Every probability that occurs is a threshold; the area below the steps is the average precision. That of the "
        "table above may be a point lower: for it, probabilities that are almost the same count as the same. The "
        f"dotted line is what guessing has.{over}{none}"
    )
    return f"<p>{escaped(text)}</p>{plots(figures)}"


def going_together(run: FinishedRun) -> str:
    """Which emotions are there together, in truth and as predicted."""
    if run.locked:
        return missing("Which emotions go together is", "predictions.jsonl", run.why_missing)
    present, known, predicted = _lines(run)
    whole = known.all(1)
    if not whole.any():
        return missing(
            "Which emotions go together is", "predictions.jsonl", "has no utterance whose emotions are known"
        )
    shown, sizes = [], []
    for title, there in (("In truth", present[whole]), ("As predicted", decided(predicted[whole]))):
        sizes.append(f"{there.sum(1).mean():.2f}")
        share, count = co_occurrence(there), there.sum(0)
        rows = []
        for i, name in enumerate(run.task.outputs):
            cells = [
                f'<td class="cell" style="--share: {0.6 * value:.3f}">{100 * value:.0f}</td>'
                if i != j
                else '<td class="cell" style="--share: 0">-</td>'
                for j, value in enumerate(share[i].tolist())
            ]
            rows.append([escaped(name), *cells, f"{count[i]:,}"])
        shown.append(table(f"{title}, percent of the row", ["of those with ↓ have →", *run.task.outputs, "all"], rows))
    over = f" (all {run.chosen['replicas']} replicas together)" if run.chosen["replicas"] > 1 else ""
    text = (
        f"Of {int(whole.sum()):,} test utterances{over} whose emotions are all known, each has {sizes[0]} emotions in "
        f"truth and {sizes[1]} as predicted, on average."
    )
    return f"<p>{escaped(text)}</p>{''.join(shown)}"


def calibration(run: FinishedRun) -> str:
    """How often an emotion is there that is said to be with so much probability."""
    part = run.metrics["protocol"]["selects_on"]
    words = [scaling_in_words(replica["calibration"], part) for replica in run.replicas.values()]
    used = "".join(f"<li>{escaped(f'{name}: {how}')}</li>" for name, how in zip(run.replicas, words, strict=True))
    if run.locked:
        what = "How far they can be believed is"
        return f"<p>Probabilities are:</p><ul>{used}</ul>{missing(what, 'predictions.jsonl', run.why_missing)}"
    present, known, predicted = _lines(run)
    scaled = np.empty_like(predicted)
    for number, name in enumerate(run.predictions.names):
        lines = run.predictions.replica == number
        both = np.stack([1 - predicted[lines].ravel(), predicted[lines].ravel()], 1)
        temperature = run.replicas[name]["calibration"]["temperature"]
        scaled[lines] = temperature_scale(both, temperature)[:, 1].reshape(predicted[lines].shape)
    figures = []
    for key, title, p in (("test", "As trained", predicted), ("test_scaled", "After temperature scaling", scaled)):
        means = run.chosen["calibration"][key]
        under = ", ".join(f"{score} {means[name]['mean']:.3f}" for name, score in CALIBRATION.items())
        # One column is the top probability of each row; it is right where the emotion is there, number 0.
        bins = reliability_of(p[known][:, None], np.where(present[known], 0, 1))
        under = f'<p class="faint">{under}</p>'
        figures.append(reliability(title, bins, under, "probability of presence", "share present"))
    return (
        "<p>How often an emotion is there that is said to be with so much probability, all emotions together; the area "
        "of a circle is the number of utterances times emotions. ECE, NLL and Brier are of presence and absence, as "
        f"means over the replicas. Probabilities are:</p><ul>{used}</ul>{plots(figures)}"
    )


def mistakes(run: FinishedRun) -> str:
    """The wrong answers of the highest mean probability."""
    task, targets = _task(run), run.predictions.targets
    present, known = (task.present(targets), targets["known"]) if not run.locked else (np.zeros(0), np.zeros(0))

    def told(i: int, mean: np.ndarray) -> tuple[str, str]:
        wrong = (decided(mean) != present[i]) & known[i]
        sure = np.where(wrong, np.maximum(mean, 1 - mean), 0).tolist()
        surest = sure.index(max(sure))
        though = "though it is there" if present[i][surest] else "though it is not there"
        number = f"{task.outputs[surest]} {mean[surest]:.3f} {though}"
        return f"{task.names_of(present[i])} → {task.prediction_in_words(mean)}", number

    def said(wrong: int, shown: int) -> str:
        which = f"; these are the {shown} of the surest wrong answers" if shown < wrong else ""
        of = f"Of {len(run.predictions.ids):,} test utterances {wrong:,} have an emotion wrong"
        return f"{of} by {by_whom(run, 'probability')}{which}. Steps and frames are counted from 1."

    return worst(run, "The most confident mistakes are", told, said)


SECTIONS = (
    ("Emotions", each_emotion),
    ("Precision and recall", precision_over_recall),
    ("Emotions that go together", going_together),
    ("Calibration", calibration),
    ("Most confident mistakes", mistakes),
)
