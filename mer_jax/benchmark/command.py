"""Many models on the same features and folds, in one table, with intervals, paired tests and floors.

    python -m mer_jax.benchmark --corpus data/iemocap6 --protocols=dialoguernn,loso,published --seeds=5
    python -m mer_jax.benchmark --corpus data/mine --protocols=kfold_dialogue:5 --models=lsgmer,my/model.py:small,floors
    python -m mer_jax.benchmark --corpus data/iemocap6 --protocols=loso --budget=120 --set train.epochs=20

A row is a model under a protocol on a corpus. A trained row has two stages, each a process of its own: in the first
one validation chooses a point of a grid that is the same for every model, while the test part is locked; in the second
one that point is trained with several seeds and tested once. Where a protocol's test part chooses the epoch nothing is
tuned: the point is that of the first other protocol, or the config's defaults. Floors need no training. A row that
fails says why, and costs no other row.

The same command goes on where it was stopped, also after a kill -9; rows that failed are tried again with
--retry-failed. Corpora, protocols and models may be added later. At the end the workdir holds benchmark.json, .md, .tex
and .html.
Exit code 1 if a row failed, 2 if a flag is wrong."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer_jax import interrupts
from mer_jax.benchmark import budget, stages
from mer_jax.benchmark.models import GRID, MODELS
from mer_jax.benchmark.page import page
from mer_jax.benchmark.results import tables_of
from mer_jax.benchmark.rows import FLOORS, Asked, Row, keep_plan, rows_of
from mer_jax.benchmark.tables import in_a_line, latex, markdown
from mer_jax.errors import UserError, reported
from mer_jax.files import write_atomically, write_json
from mer_jax.runtime import folder_lock
from mer_jax.runtime.console import Stopwatch, console, duration


def main(argv: list[str] | None = None) -> None:
    arguments = flags().parse_args(argv)
    interrupts.EXIT_CODES[signal.SIGTERM] = 0  # as main's: all is saved
    with reported():
        asked = asked_by(arguments)
        rows = rows_of(asked)
        with folder_lock.held(asked.workdir, "benchmark"):
            keep_plan(asked, rows)
            for row in rows if arguments.retry_failed else ():
                stages.forget_failure(row)
            try:
                failed = run(asked, rows, None if arguments.budget is None else 60 * arguments.budget)
            except stages.Stopped:
                print(interrupts.message(signal.SIGTERM), file=sys.stderr)
                sys.exit(0)
        if failed:
            print(f"{failed} of {len(rows)} rows failed; the tables say why", file=sys.stderr)
            sys.exit(1)


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--corpus", action="append", required=True, metavar="DIR",
        help="a corpus folder, demo:NAME, or '' for the demo corpus; again for another one",
    )  # fmt: skip
    add("--protocols", default="official", metavar="P,P", help="see mer_jax/README.md, Protocols (default %(default)s)")
    add(
        "--models", default=",".join((*MODELS, FLOORS)), metavar="M,M",
        help="names of the table in benchmark/models.py, PATH.py or PATH.py:ARG of a config, floors, or single ones "
        "such as logistic or logistic:text (default %(default)s)",
    )  # fmt: skip
    add("--seeds", type=int, default=5, metavar="N", help="of the final stage (default %(default)s)")
    add("--tune-seeds", type=int, default=1, metavar="N", help="of every point of the grid (default %(default)s)")
    add("--grid", default=GRID, help="as replicas.grid takes it; '' for the configs' defaults (default %(default)s)")
    add("--modalities", metavar="M,M", help="of all models that read them (default: all vectors of the corpus)")
    add(
        "--context", default="both", choices=("none", "past", "both"),
        help="which other turns models hear that read conversations, where a corpus has any (default %(default)s)",
    )  # fmt: skip
    add(
        "--set", dest="changes", action="append", default=[], metavar="FIELD=VALUE",
        help="a field of the config, of every model that has it, as --set train.epochs=20; again for another one",
    )  # fmt: skip
    add("--workdir", type=Path, default=Path("runs/benchmark"), metavar="DIR", help="(default %(default)s)")
    add("--budget", type=float, metavar="MINUTES", help="leave out rows that would not fit; they are named")
    add("--retry-failed", action="store_true", help="try rows again that failed before")
    return parser


def asked_by(arguments: argparse.Namespace) -> Asked:
    """Raises UserError for a number that is none."""
    for name in ("seeds", "tune_seeds"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(arguments, name)}: must be at least 1")
    if arguments.budget is not None and not arguments.budget > 0:
        raise UserError(f"--budget={arguments.budget:g}: must be above 0")
    lists = {name: _names(getattr(arguments, name) or "") for name in ("protocols", "models", "modalities")}
    for name in ("protocols", "models"):
        if not lists[name]:
            raise UserError(f"--{name}: names none")
    return Asked(
        corpora=tuple(arguments.corpus),
        workdir=arguments.workdir,
        seeds=arguments.seeds,
        tune_seeds=arguments.tune_seeds,
        grid=arguments.grid,
        context=arguments.context,
        changes=tuple(arguments.changes),
        **lists,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


@dataclasses.dataclass
class Plan:
    """What there is to do, and what it would take. left_out: why a row does not run, by its folder."""

    asked: Asked
    rows: Sequence[Row]
    seconds: float | None  # that there are
    watch: Stopwatch
    left_out: dict[Path, str] = dataclasses.field(default_factory=dict)

    @property
    def todo(self) -> list[Row]:
        return [row for row in self.rows if not stages.finished(row, "final") and stages.failure(row) is None]

    def fits(self, estimate: float, before: float = 0.0) -> bool:
        return self.seconds is None or self.watch.seconds() + before + estimate <= self.seconds

    def leave_out(self, row: Row, estimate: float) -> None:
        self.left_out[row.folder] = f"does not fit into --budget: it would take about {duration(estimate)}"

    def print(self) -> None:
        """All rows, what each would take, and whether it fits."""
        todo, known, sum_ = self.todo, budget.estimates(self.rows, self.asked), 0.0
        console.print(f"{len(self.rows)} rows, of which {len(self.rows) - len(todo)} are done")
        for row in self.rows:
            estimate = known.get(row.folder, 0.0)
            if row not in todo:
                words = "finished" if stages.finished(row, "final") else "failed before; --retry-failed tries it again"
            elif self.fits(estimate, sum_):
                words, sum_ = f"about {duration(estimate)}", sum_ + estimate
            else:
                words = f"left out, about {duration(estimate)}"
            console.print(f"  {row.title}: {words}", markup=False)
        console.print(f"in all about {duration(sum_)}")


def run(asked: Asked, rows: Sequence[Row], seconds: float | None) -> int:
    """Runs what is left of the rows and writes the tables, those of every corpus and protocol as they are done. Returns
    how many rows failed. Where the test part chooses the epoch rows come last of their corpus, for their point is
    another protocol's."""
    plan = Plan(asked, rows, seconds, Stopwatch())
    plan.print()
    corpora = list(dict.fromkeys(row.entry.name for row in rows))
    todo = sorted(plan.todo, key=lambda row: (corpora.index(row.entry.name), not row.tunes))
    for number, row in enumerate(todo, 1):
        known = budget.estimates(rows, asked)
        if not plan.fits(known[row.folder]):
            plan.leave_out(row, known[row.folder])
            console.print(f"left out: {row.title}, about {duration(known[row.folder])}", markup=False)
            continue
        left = sum(known[other.folder] for other in todo[number - 1 :])
        times = f"elapsed {duration(plan.watch.seconds())}, about {duration(left)} left"
        console.print(f"{number} of {len(todo)}: {row.title} ({times})", markup=False)
        stages.run_row(row, asked, rows)
        done = tables_of(asked, [row], {})["tables"][0]
        console.print(f"  {in_a_line(done, done['rows'][0])}", markup=False)
        if number < len(todo) and todo[number].protocol != row.protocol:
            write(asked, rows, plan.left_out)
    found = write(asked, rows, plan.left_out)
    console.out(f"\n{markdown(found)}\n{asked.workdir}/benchmark.json holds all of it; .md, .tex and .html show it")
    return sum(row["status"] == "failed" for table in found["tables"] for row in table["rows"])


def write(asked: Asked, rows: Sequence[Row], left_out: dict[Path, str]) -> dict[str, Any]:
    """Writes the four files; returns what benchmark.json holds."""
    found = tables_of(asked, rows, left_out)
    write_json(asked.workdir / "benchmark.json", found)
    for suffix, text in (("md", markdown(found)), ("tex", latex(found)), ("html", page(found))):
        write_atomically(asked.workdir / f"benchmark.{suffix}", text)
    return found
