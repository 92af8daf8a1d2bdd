"""How the test score of a finished run falls when modalities go missing or features get noisy: WORKDIR/robustness.json.

    python -m mer_jax.main --config=… --workdir=RUN --mode=robustness [--beside=RUN2]

No utterance sees another one's loss here (in conversations the other turns are as they are), so that a model that
misses a modality in a share of the utterances is scored from what it predicts with the modality and without it. The
device therefore runs every set of modalities and every strength of noise once a batch, and each batch is read once.
Draws and noise depend on a fixed seed, the modality's name and the utterance's place in the corpus, on nothing else:
two runs of a corpus are disturbed alike, however their batches lie.

robustness.json; SCORE is each of the task's, of classes as a fraction; [mean, sd] are over the replicas
of the point that validation chose, sd null where there is one; M is a modality or, where there are several, "all":

    name, protocol, manifest_sha256, split_sha256   what was tested
    seed, modalities, replicas (names), utterances  (in the test parts, together)
    definition                                      {missing, noise, retention, effective, floor, context}: sentences
    clean       {SCORE: [mean, sd]}
    floor       {SCORE: [mean, sd]}                 of always saying what is best by the training part
    present     {"audio+text": {SCORE: [mean, sd]}} with only these modalities, for every set of them
    missing     {M: {"rates": [0, 0.1 … 1], SCORE: [[mean, sd], one for each rate], "pooled": {SCORE: [of all replicas'
                predictions together, for each rate]}, "left_with_nothing": utterances that have no other modality}}
    noise       {M: {"sigmas": [0, 0.25 …], SCORE: …, "pooled": …}}
    retention   {"missing": {M: {SCORE: number or null}}, "noise": the same}
    over_floor  {M: {SCORE: number}}                at rate 1, less the floor
    effective   null, or {"beside": RUN2, "missing": {M: {SCORE: number}}, "noise": the same}

A run of one modality has no `missing` and no `over_floor`: nothing would be left to predict from.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.table
from etils import epath
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax import files, run_files
from mer_jax.config import Experiment
from mer_jax.data import loader
from mer_jax.data.batch import Batch, split_rows, where_real
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.evaluation import attribution
from mer_jax.evaluation.final import refuse_unfinished
from mer_jax.evaluation.finished_run import metrics_of
from mer_jax.evaluation.looks import count_look
from mer_jax.evaluation.robustness_curves import (
    RATES,
    SEED,
    SIGMAS,
    Condition,
    Tested,
    conditions,
    curves,
    draws,
    effective_of,
    floor,
    key_of,
    means,
    percent,
    retention,
)
from mer_jax.evaluation.score_table import LOCKED, looks, replicas_of_choice
from mer_jax.metrics.metric import Metric
from mer_jax.runtime import distributed, run_log
from mer_jax.runtime.console import Progress, console, duration
from mer_jax.tasks import Task, task_of
from mer_jax.training import step
from mer_jax.training.resume import restore_finished
from mer_jax.training.setup import Run
from mer_jax.training.workdir import identity, with_old_defaults

FILE = "robustness.json"
DEFINITION = {
    "missing": (
        "At rate r an utterance loses the modality if its draw, uniform in [0, 1) and the same at every rate, is below"
        " r; all: every modality by a draw of its own, and what an utterance would lose last it keeps."
    ),
    "noise": (
        "Gaussian, added to every value of the real time steps after standardisation: sigma is in standard deviations"
        " of the training part (of pixels: of ImageNet's); the same noise at every sigma, times sigma."
    ),
    "retention": "Mean over the rates (sigmas) above 0 of S(rate) / S(0), S the mean over the replicas.",
    "effective": (
        "Mean over the rates (sigmas) above 0 of (S(rate) - S(0)) - (S2(rate) - S2(0)), S2 of the run beside: above 0,"
        " this run falls less. Of errors the other way round: above 0, that of this run grows less."
    ),
    "floor": "What is best said of every test utterance by the training part: the most frequent class, the median, or"
    " every emotion's share.",
    "context": "Where conversations are heard, the other turns of the utterance's dialogue are as they are.",
}


def noise(
    key: PRNGKeyArray, rows: Int[Array, "batch"], time: int, shape: tuple[int, ...]
) -> Float[Array, "batch time *shape"]:
    """Normal with deviation 1; of each time step a function of key, row and step, however long the padding is."""
    steps = jnp.arange(time, dtype=jnp.int32)
    keys = jax.vmap(lambda row: jax.vmap(lambda t: jax.random.fold_in(jax.random.fold_in(key, row), t))(steps))(rows)
    return jax.vmap(jax.vmap(lambda k: jax.random.normal(k, shape)))(keys)


def disturbed(
    batch: Batch,
    rows: Int[Array, "batch"],
    hidden: Mapping[str, Bool[Array, ""]],
    sigma: Mapping[str, Float[Array, ""]],
    seed: int = SEED,
) -> Batch:
    """The standardised batch of the corpus's utterances `rows`, without what is hidden (as if the records lacked it),
    the rest with noise."""
    features, mask = {}, {}
    for m, x in batch.features.items():
        mask[m] = batch.mask[m] & ~hidden[m]
        key = jax.random.fold_in(jax.random.key(seed), np.uint32(key_of(m)))

        def with_noise(x: Array, key: Array = key, strength: Array = sigma[m]) -> Array:
            return x + strength * noise(key, rows, x.shape[1], x.shape[2:])

        features[m] = where_real(mask[m], jax.lax.cond(sigma[m] > 0, with_noise, lambda x: x, x))
    return dataclasses.replace(batch, features=features, mask=mask)


def predictor(run: Run) -> Callable[..., Any]:
    """predict(model, source, row_positions, rows, hidden, sigma, padded_lengths) -> the decisions [(replicas,)
    conditions, batch] of the replicas that share a call; hidden and sigma hold one value for each condition. Compiled
    once for each padded length."""
    apply, task, several = run.steps.apply, run.task, run.steps.replicas_per_step > 1

    def predict(
        model: step.EvalState, source: Any, positions: Any, rows: Any, hidden: Any, sigma: Any, lengths: Any
    ) -> Any:
        def one(model: step.EvalState, positions: Any, rows: Any) -> Any:
            batch = step.standardize(loader.materialize_batch(source, positions, lengths), model.input_stats)
            _, pieces = attribution.explained_pieces(apply, model, batch)
            parts = list(zip(pieces, split_rows(rows, pieces), strict=True))

            def under(condition: tuple[Any, Any]) -> Any:
                decided = []
                for piece, at in parts:
                    seen = piece.map(functools.partial(disturbed, rows=at, hidden=condition[0], sigma=condition[1]))
                    outputs, _ = apply(model.params, model.model_state, seen)
                    decided.append(task.decide(outputs["logits"]))
                return jnp.concatenate(decided)

            return jax.lax.map(under, (hidden, sigma))

        return (jax.vmap(one, spmd_axis_name="replica") if several else one)(model, positions, rows)

    return jax.jit(predict, static_argnums=6, out_shardings=run.steps.per_replica)


def predictions(run: Run, which: Sequence[int], listed: Sequence[Condition]) -> dict[int, np.ndarray]:
    """Of every replica in `which` the decisions on its test part, [conditions, utterances], in the part's order."""
    groups, pool, modalities = run.groups, run.data.pool, run.config.data.modalities
    parts = {r: run.data.folds[groups.replicas[r].fold].test for r in which}
    found: dict[int, np.ndarray] = {}
    # NumPy arrays: what every process holds in full may go into a call as it is.
    hidden = {m: np.array([c.hidden[i] for c in listed]) for i, m in enumerate(modalities)}
    sigma = {m: np.array([c.sigma[i] for c in listed], np.float32) for i, m in enumerate(modalities)}
    predict = predictor(run)
    progress = Progress("robustness", sum(len(rows) for rows in parts.values()), "utterances")

    def take(group: tuple[int, ...], rows: np.ndarray, outputs: Any) -> None:
        values = distributed.to_host(outputs)
        values = values if run.steps.replicas_per_step > 1 else values[None]
        for k, r in enumerate(group):
            if r in parts:
                real, kept = rows[k] >= 0, (len(listed), len(parts[r]))
                of_row = (*kept, *values.shape[3:])
                found.setdefault(r, np.zeros(of_row, values.dtype))[:, np.searchsorted(parts[r], rows[k][real])] = (
                    values[k][:, real]
                )
                progress.update(progress.done + int(real.sum()))

    pending: list[Any] = []
    size = run.config.train.eval_batch_size
    for group, rows, model, source, positions, lengths in groups.batches(which, "test", size, best=True):
        of_corpus = groups.on_devices(pool.rows[np.maximum(rows, 0)].astype(np.int32))
        pending.append((group, rows, predict(model, source, positions, of_corpus, hidden, sigma, lengths)))
        if len(pending) > 1:  # the device has the next batch while this one is taken
            take(*pending.pop(0))
    for one in pending:
        take(*one)
    progress.close()
    return found


def measure(
    config: Experiment, corpus: Corpus, workdir: epath.PathLike, beside: epath.PathLike | None = None
) -> dict[str, Any]:
    """Writes and shows the robustness of a finished run; returns what the file holds. Raises UserError if the run is
    not finished, or the one beside it cannot be compared with."""
    workdir = epath.Path(workdir)
    config = with_old_defaults(config, workdir)
    refuse_unfinished(config, workdir, identity(config, corpus), "robustness")
    known = metrics_of(workdir / "metrics.json")
    if known["protocol"].get("locked"):
        raise UserError(f"--mode=robustness looks at the test part; that of {workdir} is {LOCKED}")
    about = {
        "name": known["data"]["name"],
        "protocol": known["protocol"]["title"],
        "manifest_sha256": known["data"]["manifest_sha256"],
        "split_sha256": known["protocol"]["split_sha256"],
        "seed": SEED,
    }
    metrics = task_of(corpus).metrics
    other = None if beside is None else read_beside(epath.Path(beside), about, workdir, tuple(metrics))
    run = restore_finished(config, corpus, workdir)
    task = run.task
    chosen = replicas_of_choice(known["points"], known["replicas"])
    which = [r for r in chosen if known["replicas"][r]["status"] == "finished"]
    modalities, pool = config.data.modalities, run.data.pool
    listed = conditions(modalities)
    known["protocol"]["test_looks"] = count_look(run, "robustness", known.get("checkpoint", {}))
    began = time.monotonic()
    found = predictions(run, which, listed)
    took = time.monotonic() - began
    folds = [run.data.folds[run.groups.replicas[r].fold] for r in which]

    def tested(r: int) -> Tested:
        rows = run.data.folds[run.groups.replicas[r].fold].test
        has = np.stack([pool.lengths[m][rows] > 0 for m in modalities], axis=1)
        return Tested(found[r], run.data.targets(rows), draws(modalities, pool.rows[rows]), has)

    result: dict[str, Any] = about | {
        "modalities": list(modalities),
        "replicas": [run.groups.replicas[r].name for r in which],
        "utterances": sum(len(fold.test) for fold in folds),
        "definition": DEFINITION,
        **curves(task, modalities, listed, [tested(r) for r in which]),
        "floor": floor(task, [(run.data.targets(fold.train), run.data.targets(fold.test)) for fold in folds]),
    }
    result["retention"] = {
        kind: {m: retention(task, of) for m, of in result[kind].items()} for kind in ("missing", "noise")
    }
    result["over_floor"] = {
        m: {score: of[score][-1][0] - result["floor"][score][0] for score in task.metrics}
        for m, of in result["missing"].items()
    }
    result["effective"] = None if other is None else effective_of(task, result, other, str(beside))
    run_log.write_json(workdir / FILE, result)
    print_robustness(task, result)
    print_what_was_tested(task, result, known, len(listed), took, workdir)
    return result


def read_beside(folder: epath.Path, about: dict[str, Any], workdir: epath.Path, scores: tuple[str, ...]) -> Any:
    """The robustness.json of another run. Raises UserError if there is none, or if it is of other utterances."""
    path = folder / FILE
    if not path.exists():
        raise UserError(
            f"--beside={folder}: there is no {FILE}; it is made by `python -m mer_jax.main --workdir={folder} "
            "--mode=robustness` with the --config of that run"
        )
    advice = "Make it again with --mode=robustness."
    found = files.read_json(path, run_files.RobustnessBeside, advice)
    mine = about | {"missing": list(RATES), "noise": list(SIGMAS)}
    try:
        theirs = {name: found[name] for name in about}
        for kind, at in (("missing", "rates"), ("noise", "sigmas")):
            theirs[kind] = next((of[at] for of in found[kind].values()), mine[kind])
        _ = [means(of, score) for kind in ("missing", "noise") for of in found[kind].values() for score in scores]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not what --mode=robustness writes. {advice}") from None
    for name in ("manifest_sha256", "split_sha256", "seed", "missing", "noise"):
        if mine[name] != theirs[name]:
            raise UserError(
                f"--beside={folder}: its {name} is {theirs[name]}, that of {workdir} {mine[name]}: the same utterances"
                " must have been tested in the same way"
            )
    return found


def print_robustness(task: Task, result: Mapping[str, Any]) -> None:
    """How far the main score falls."""
    main, metric = task.main_metric, task.metrics[task.main_metric]
    title_of = f"{metric.title} in percent" if metric.unit == "percent" else metric.title
    count = len(result["replicas"])
    for kind, at, title, where in (
        ("missing", "rates", "where a share of the utterances loses a modality", "lost"),
        ("noise", "sigmas", "under noise, in standard deviations", "noise in"),
    ):
        if not result[kind]:
            continue
        table = rich.table.Table(
            title=f"{title_of} {title}; test of {result['name']}, protocol {result['protocol']}"
            + (f", mean of {count} replicas" if count > 1 else ""),
            title_justify="left",
            box=rich.box.SIMPLE_HEAD,
        )
        table.add_column(where)
        for x in next(iter(result[kind].values()))[at]:
            table.add_column(f"{x:g}", justify="right")
        extra = [
            "retained",
            *(["at 1 over the floor"] if kind == "missing" else []),
            *(["effective"] if result["effective"] else []),
        ]
        for name in extra:
            table.add_column(name, justify="right")
        for m, of in result[kind].items():
            kept, ahead = result["retention"][kind][m][main], result["over_floor"].get(m, {}).get(main, 0.0)
            cells = [metric.format(mean) for mean in means(of, main)] + [percent(kept)]
            cells += [points(metric, ahead)] if kind == "missing" else []
            if result["effective"]:
                found = result["effective"][kind].get(m)
                cells += [points(metric, found[main]) if found else "-"]
            table.add_row(m, *cells)
        console.print(table)


def print_what_was_tested(
    task: Task, result: Mapping[str, Any], known: Mapping[str, Any], listed: int, took: float, workdir: epath.Path
) -> None:
    """What the tables do not say."""
    say, main, metric = console.print, task.main_metric, task.metrics[task.main_metric]
    present = {m: of[main][0] for m, of in result["present"].items()}
    full = "+".join(sorted(result["modalities"]))
    if others := ", ".join(f"{m} {metric.format(mean)}" for m, mean in present.items() if m != full):
        floor_of = metric.format(result["floor"][main][0])
        say(f"all modalities {metric.format(present[full])}; only {others}; {task.floor_in_words} {floor_of}")
    else:
        say(f"nothing is left of a run of {full} alone when that is missing: noise only")
    for m, of in result["missing"].items():
        if n := of["left_with_nothing"]:
            say(f"{n} of {result['utterances']} test utterances have no modality but {m} and are left with nothing")
    for name in (score for score in task.metrics if score not in task.nearly):
        before, now = known["test"][name]["mean"], result["clean"][name][0]
        if abs(before - now) > 1e-6:
            say(
                f"note: the clean {name} is {now:.6f} here and {before:.6f} in metrics.json: rounding differs between"
                " devices"
            )
    if result["effective"]:
        say(f"effective: how much less the score falls than that of {result['effective']['beside']}, in points")
    say(f"the test part was {looks(known['protocol'])}")
    say(f"{listed} conditions of {result['utterances']} utterances in {duration(took)}; {workdir / FILE}")


def points(metric: Metric, difference: float) -> str:
    """A difference of two scores, with its sign."""
    return percent(difference, sign=True) if metric.unit == "percent" else f"{difference + 0.0:+.4f}"
