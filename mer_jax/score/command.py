"""Scores anybody's predictions, under every definition of a score that fits them.

    python -m mer_jax.score FILE --as mosi                       MAE, Pearson, Acc-7, Acc-5, Acc-2 and F1 both ways
    python -m mer_jax.score FILE --as mosi --as sims             two definitions, side by side
    python -m mer_jax.score FILE --as all                        all that fit
    python -m mer_jax.score logits.npy --labels labels.npy --as meld
    python -m mer_jax.score FILE --labels label.csv --part test --as mosei
    python -m mer_jax.score FILE --as vad --target t_v,t_a,t_d --prediction p_v,p_a,p_d

FILE has a row for each utterance: .csv; .tsv or .txt with tabs, as Hugging Face's predict_results.txt; .jsonl, as our
own predictions.jsonl; .json, as {"references": [...], "predictions": [...]}; .npy or .npz, arrays [rows] or
[rows, values], as predictions and label_ids of Hugging Face's Trainer. What is in it:

    id                            as `id`, or of `video_id` and `clip_id`; needed where --labels is in another order
    target, prediction            found by names such as `label` and `prediction`, `y_true` and `y_pred`; of several
                                  dimensions `target_valence` and `valence`, and so on; or name them by
                                  --target and --prediction
    dialogue, video               found by these names, or in an id such as `video$_$clip`; --group names another

A class is told by its name or its number, or by one value for each class, of which the highest counts. A target that is
empty or NaN is not known, and its row is not scored.

Intervals are of 95 %, from resampling dialogues or videos; where none are known, utterances, which is said. What every
name means, whose definition it is and what it leaves out: mer_jax/score/README.md. Exit code 2 if a file or flag is
wrong.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.table
from jaxtyping import Shaped

from mer_jax.errors import UserError, reported
from mer_jax.files import write_json
from mer_jax.metrics.definitions import DEFINITIONS
from mer_jax.metrics.metric import Metric
from mer_jax.metrics.significance import FEW_DIALOGUES
from mer_jax.runtime.console import Console
from mer_jax.score import columns
from mer_jax.score.rows import Asked, rows_of
from mer_jax.score.scores import refuse_unequal_members, score
from mer_jax.score.tables import Table, read_table

MIN_SAMPLES = 100


def main(argv: list[str] | None = None) -> None:
    arguments = flags().parse_args(argv)
    with reported():
        result = score_file(arguments)
        print_result(result)
        if arguments.out:
            write_json(arguments.out, result)


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the predictions, and the targets unless --labels has these")
    add("--as", dest="names", action="append", required=True, metavar="NAME", help=f"{', '.join(DEFINITIONS)}, or all")
    add("--labels", type=Path, metavar="FILE", help="the targets, if they are in another file")
    add(
        "--part", metavar="PART", help="of --labels only the rows whose column mode or split says so, as in --part test"
    )
    add("--target", metavar="COL", help="the column of the targets; several with commas, in the definition's order")
    add("--prediction", metavar="COL", help="the column of the predictions; several with commas")
    add("--group", metavar="COL", help="the column whose values are resampled as a whole")
    add("--replica", metavar="NAME", help="of our own predictions.jsonl one replica; default: the mean over the seeds")
    add("--logits", action="store_true", help="predictions of emotions are logits, not probabilities")
    add("--samples", type=int, default=2000, metavar="N", help="resamples for an interval (default %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the resampling (default %(default)s)")
    add("--out", type=Path, metavar="FILE.json", help="write everything there as well; fractions are not in percent")
    return parser


def score_file(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command prints and writes. Raises UserError."""
    names = chosen(arguments.names)
    check_flags(arguments)
    predictions, member = columns.members_of(read_table(arguments.file), arguments.replica)
    ids = columns.ids_of(predictions)
    if ids is not None:
        columns.refuse_doubled(predictions, ids, member)
        refuse_unequal_members(predictions, member, ids)
    labels = labels_of(arguments, predictions, ids)
    groups, by = groups_of(predictions, labels, ids, arguments.group)
    asked = Asked(arguments.target, arguments.prediction, arguments.logits)
    found, left_out = {}, {}
    for name in names:
        try:
            rows = rows_of(DEFINITIONS[name], predictions, labels, asked)
            found[name] = score(rows, member, groups, arguments.samples, arguments.seed)
        except UserError as error:
            if "all" not in arguments.names:
                raise UserError(f"--as {name}: {error}") from None
            left_out[name] = str(error)
    if not found:
        raise UserError("\n".join(["no definition fits:", *(f"  {name}: {why}" for name, why in left_out.items())]))
    return {
        "file": str(arguments.file),
        **({"labels": str(arguments.labels)} if arguments.labels else {}),
        "resampled": by or "single utterances",
        "by_utterance": not by,
        "samples": arguments.samples,
        "seed": arguments.seed,
        "definitions": found,
        "do_not_fit": left_out,
    }


def chosen(asked: list[str]) -> list[str]:
    """The names of the definitions that are asked for. Raises UserError."""
    for name in asked:
        if name not in (*DEFINITIONS, "all"):
            raise UserError(f"--as {name}: must be one of {', '.join(DEFINITIONS)}, or all")
    return list(DEFINITIONS) if "all" in asked else list(dict.fromkeys(asked))


def check_flags(arguments: argparse.Namespace) -> None:
    """Raises UserError for what can be told before anything is read."""
    if arguments.samples < MIN_SAMPLES:
        raise UserError(f"--samples is {arguments.samples}; an interval needs at least {MIN_SAMPLES}")
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}; it must be a whole number from 0")
    if arguments.part is not None and arguments.labels is None:
        raise UserError("--part is of the file that --labels names; give --labels, too")
    out = arguments.out
    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise UserError(f"--out={out}: must end in .json, in a folder that exists")


def labels_of(arguments: argparse.Namespace, predictions: Table, ids: list[str] | None) -> Table:
    """The table of the targets, in the order of the predictions; the same table if there is no other file."""
    if arguments.labels is None:
        return predictions
    labels = read_table(arguments.labels)
    if arguments.part is not None:
        labels = columns.part_of(labels, arguments.part)
    return columns.align(predictions, ids, labels)


def groups_of(
    predictions: Table, labels: Table, ids: list[str] | None, asked: str | None
) -> tuple[Shaped[np.ndarray, "rows"], str]:
    """What each row belongs to, and how that is told, by either file."""
    first, second = (labels, predictions) if asked in labels.columns else (predictions, labels)
    groups, by = columns.groups_of(first, ids, asked)
    return (groups, by) if by or asked is not None else columns.groups_of(second, ids, None)


def print_result(result: dict[str, Any]) -> None:
    """Prints the table, and below it what is needed to read it."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("as", no_wrap=True)
    table.add_column("score")
    for title in ("value", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("leaves out")
    for name, told in result["definitions"].items():
        for one in told["scores"].values():
            metric = Metric(one["title"], one["title"], float, one["direction"], one["unit"])
            out = one.get("leaves_out")
            left = f"{out['rows']} of {told['rows']} rows: {out['what']}" if out else ""
            title = f"{one['title']}{' (%)' if metric.unit == 'percent' else ''}"
            ends = metric.format_interval({end: one[end] for end in ("low", "high") if end in one})
            table.add_row(name, title, metric.format(one["value"]), ends, left)
        table.add_section()
    console.print(f"{result['file']}{', labels of ' + result['labels'] if 'labels' in result else ''}")
    console.print(table)
    for name, told in result["definitions"].items():
        of = f"{told['rows']} rows" + (f", mean over {told['members']} seeds" if told["members"] > 1 else "")
        without = f", {told['without_target']} more without a target" if told["without_target"] else ""
        read = "; ".join(f"{what} {columns.listed(names, 3)}" for what, names in told["columns"].items())
        console.print(f"{name}: {told['title']}. {of}{without}; {read}.{told['note']} Source: {told['source']}.")
    for name, why in result["do_not_fit"].items():
        console.print(f"{name} does not fit: {why}")
    print_resampled(console, result)


def print_resampled(console: Console, result: dict[str, Any]) -> None:
    """Prints what the intervals are of."""
    groups = max(told["groups"] for told in result["definitions"].values())
    if result["by_utterance"]:
        console.print(
            f"Intervals: {result['samples']} resamples of {groups} single utterances, as if these were independent. "
            "Those of a dialogue or video are not, and the intervals are then too narrow: --group COL names the column."
        )
        return
    console.print(f"Intervals: {result['samples']} resamples of {groups} groups, told by {result['resampled']}.")
    if groups < 2:
        console.print("One group alone gives no interval.")
    elif groups < FEW_DIALOGUES:
        console.print(f"{groups} groups are few: the intervals are too narrow.")
