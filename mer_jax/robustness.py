"""How the test score of a finished run falls when modalities go missing or features get noisy: WORKDIR/robustness.json.

    python -m mer_jax.main --config=… --workdir=RUN --mode=robustness [--beside=RUN2]

No utterance sees another one here, so that a model that misses a modality in a share of the utterances is scored from what it
predicts with the modality and without it. The device therefore runs every set of modalities and every strength of noise once a
batch, and each batch is read once. Draws and noise depend on a fixed seed, the modality's name and the utterance's place in the
corpus, on nothing else: two runs of a corpus are disturbed alike, however their batches lie.

robustness.json; SCORE is each of weighted_f1, macro_f1, accuracy, uar, as a fraction; [mean, sd] are over the replicas of the
point that validation chose, sd null where there is one; M is a modality or, where there are several, "all":

    name, protocol, manifest_sha256, split_sha256   what was tested
    seed, modalities, replicas (names), utterances  (in the test parts, together)
    definition                                      {missing, noise, retention, effective, floor}: sentences
    clean       {SCORE: [mean, sd]}
    floor       {SCORE: [mean, sd]}                 of always saying the most frequent class of the training part
    present     {"audio+text": {SCORE: [mean, sd]}} with only these modalities, for every set of them
    missing     {M: {"rates": [0, 0.1 … 1], SCORE: [[mean, sd], one for each rate], "pooled": {SCORE: [of all replicas'
                predictions together, for each rate]}, "left_with_nothing": utterances that have no other modality}}
    noise       {M: {"sigmas": [0, 0.25 …], SCORE: …, "pooled": …}}
    retention   {"missing": {M: {SCORE: number or null}}, "noise": the same}
    over_floor  {M: {SCORE: number}}                at rate 1, less the floor
    effective   null, or {"beside": RUN2, "missing": {M: {SCORE: number}}, "noise": the same}

A run of one modality has no `missing` and no `over_floor`: nothing would be left to predict from.
"""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.table
from etils import epath
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax import config as config_lib
from mer_jax import data, distributed, log, step, train
from mer_jax.batch import Batch, where_real
from mer_jax.errors import UserError
from mer_jax.records import Corpus
from mer_jax.statistics import SCORES, mean_sd, overall

RATES = tuple(i / 10 for i in range(11))
SIGMAS = (0.0, 0.25, 0.5, 1.0, 2.0)
SEED = 0  # of draws and noise; never the run's, so that runs can be compared
SHOWN = "weighted_f1"
FILE = "robustness.json"
DEFINITION = {
    "missing": "At rate r an utterance loses the modality if its draw, uniform in [0, 1) and the same at every rate, is below r; all: every modality "
    "by a draw of its own, and what an utterance would lose last it keeps.",
    "noise": "Gaussian, added to every value of the real time steps after standardisation: sigma is in standard deviations of the training part (of "
    "pixels: of ImageNet's); the same noise at every sigma, times sigma.",
    "retention": "Mean over the rates (sigmas) above 0 of S(rate) / S(0), S the mean over the replicas.",
    "effective": "Mean over the rates (sigmas) above 0 of (S(rate) - S(0)) - (S2(rate) - S2(0)), S2 of the run beside: above 0, this run falls less.",
    "floor": "The most frequent class of the training part, said of every test utterance.",
}

Curves = dict[str, dict[str, Any]]


class Condition(NamedTuple):
    """What is done to the features of every utterance, modality by modality: hidden or not, and the noise added."""

    hidden: tuple[bool, ...]
    sigma: tuple[float, ...]


def conditions(modalities: Sequence[str]) -> list[Condition]:
    """Every set of modalities, the whole one first; then noise in each alone and in all of them."""
    count = len(modalities)
    zero = (0.0,) * count
    sets = [tuple(bool(code >> i & 1) for i in range(count)) for code in range(2**count - 1)]
    found = [Condition(hidden, zero) for hidden in sets]
    for members in noisy(modalities).values():
        found += [Condition((False,) * count, tuple(s * (m in members) for m in modalities)) for s in SIGMAS if s]
    return found


def noisy(modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The curves of noise: {name: the modalities it is in}."""
    alone = {m: (m,) for m in modalities}
    return alone | ({"all": tuple(modalities)} if len(modalities) > 1 else {})


# ---- which modality an utterance loses ----


def key_of(modality: str) -> int:
    """A number of the name, so that a modality's draws do not depend on what other modalities there are."""
    return zlib.crc32(modality.encode())


def draws(modalities: Sequence[str], rows: Int[np.ndarray, "utterances"], seed: int = SEED) -> np.ndarray:
    """Float[utterances, modalities], uniform in [0, 1): a pure function of seed, row of the corpus and name."""
    count = int(rows.max(initial=-1)) + 1
    every = [np.random.default_rng([seed, key_of(m)]).random(count) for m in modalities]
    return np.stack([of[rows] for of in every], axis=1)


def lost(
    drawn: Float[np.ndarray, "utterances modalities"], has: Bool[np.ndarray, "utterances modalities"], rate: float
) -> Bool[np.ndarray, "utterances modalities"]:
    """What each utterance loses of what it has, never its last modality: the one with the largest draw stays."""
    last = np.where(has, drawn, -1.0).argmax(1)
    return has & (drawn < rate) & (np.arange(has.shape[1])[None] != last[:, None])


def losses(
    modalities: Sequence[str],
    drawn: Float[np.ndarray, "utterances modalities"],
    has: Bool[np.ndarray, "utterances modalities"],
) -> dict[str, list[np.ndarray]]:
    """The curves of missing modalities: by name and rate Bool[utterances, modalities]."""
    alone = {m: [(drawn < rate) & (np.arange(len(modalities)) == i)[None] for rate in RATES] for i, m in enumerate(modalities)}  # fmt: skip
    return alone | {"all": [lost(drawn, has, rate) for rate in RATES]}


# ---- on the device ----


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
    """The standardised batch of the corpus's utterances `rows`, without what is hidden (as if the records lacked it), the rest
    with noise."""
    features, mask = {}, {}
    for m, x in batch.features.items():
        mask[m] = batch.mask[m] & ~hidden[m]
        key = jax.random.fold_in(jax.random.key(seed), np.uint32(key_of(m)))

        def with_noise(x: Array, key: Array = key, strength: Array = sigma[m]) -> Array:
            return x + strength * noise(key, rows, x.shape[1], x.shape[2:])

        features[m] = where_real(mask[m], jax.lax.cond(sigma[m] > 0, with_noise, lambda x: x, x))
    return Batch(features, mask, batch.label, batch.target, batch.weight)


def predictor(whole: train.Run) -> Callable[..., Any]:
    """predict(model, source, places, rows, hidden, sigma, pads) -> the predicted classes Int[(replicas,) conditions, batch] of the
    replicas that share a call; hidden and sigma hold one value for each condition. Compiled once for each padded length."""
    apply, together, each = whole.program.apply, whole.program.together, whole.program.each

    def predict(model: step.Model, source: Any, places: Any, rows: Any, hidden: Any, sigma: Any, pads: Any) -> Any:
        def one(model: step.Model, places: Any, rows: Any) -> Any:
            batch = step.standardize(data.fetch(source, places, pads), model.input_stats)

            def under(condition: tuple[Any, Any]) -> Any:
                outputs, _ = apply(model.params, model.rest, disturbed(batch, rows, *condition))
                return outputs["logits"].argmax(-1).astype(jnp.int32)

            return jax.lax.map(under, (hidden, sigma))

        return (jax.vmap(one, spmd_axis_name="replica") if together > 1 else one)(model, places, rows)

    return jax.jit(predict, static_argnums=6, out_shardings=each)


def predictions(whole: train.Run, which: Sequence[int], listed: Sequence[Condition]) -> dict[int, np.ndarray]:
    """Of every replica in `which` the predicted classes of its test part, Int[conditions, utterances], in the part's order."""
    fleet, pool, modalities = whole.fleet, whole.inputs.feed.pool, whole.config.data.modalities
    parts = {r: whole.inputs.folds[fleet.replicas[r].fold].test for r in which}
    found = {r: np.zeros((len(listed), len(rows)), np.int32) for r, rows in parts.items()}
    # NumPy arrays: what every process holds in full may go into a call as it is.
    hidden = {m: np.array([c.hidden[i] for c in listed]) for i, m in enumerate(modalities)}
    sigma = {m: np.array([c.sigma[i] for c in listed], np.float32) for i, m in enumerate(modalities)}
    predict = predictor(whole)
    progress = log.Progress("robustness", sum(len(rows) for rows in parts.values()), "utterances")

    def take(group: tuple[int, ...], rows: np.ndarray, outputs: Any) -> None:
        values = distributed.fetch(outputs)
        values = values if whole.program.together > 1 else values[None]
        for k, r in enumerate(group):
            if r in found:
                real = rows[k] >= 0
                found[r][:, np.searchsorted(parts[r], rows[k][real])] = values[k][:, real]
                progress.update(progress.done + int(real.sum()))

    pending: list[Any] = []
    for group, rows, model, source, places, pads in fleet.batches(
        which, "test", whole.config.train.eval_batch_size, best=True
    ):
        of_corpus = fleet.laid(pool.rows[np.maximum(rows, 0)].astype(np.int32))
        pending.append((group, rows, predict(model, source, places, of_corpus, hidden, sigma, pads)))
        if len(pending) > 1:  # the device has the next batch while this one is taken
            take(*pending.pop(0))
    for one in pending:
        take(*one)
    progress.close()
    return found


# ---- scores ----


def confusion(
    gold: Int[np.ndarray, "utterances"], predicted: Int[np.ndarray, "utterances"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts of (true, predicted)."""
    cell = gold.astype(np.int64) * classes + predicted
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes)


def over_replicas(values: Float[np.ndarray, "replicas"]) -> list[float | None]:
    """[mean, sample standard deviation]"""
    return list(mean_sd(values.tolist()).values())


def curve(confusions: Int[np.ndarray, "replicas points classes classes"]) -> dict[str, Any]:
    """{SCORE: [[mean, sd] of every point], "pooled": {SCORE: [of every point]}}"""
    each, pooled = overall(confusions), overall(confusions.sum(0))
    by_point = {name: [over_replicas(column) for column in each[name].T] for name in SCORES}
    return by_point | {"pooled": {name: pooled[name].tolist() for name in SCORES}}


def means(of: Mapping[str, Any], score: str) -> Float[np.ndarray, "points"]:
    """A curve's means over the replicas."""
    return np.array([mean for mean, _ in of[score]], np.float64)


def retention(of: Mapping[str, Any]) -> dict[str, float | None]:
    """By score, as in DEFINITION; None where the clean score is 0."""
    values = {score: means(of, score) for score in SCORES}
    return {score: float((v[1:] / v[0]).mean()) if v[0] > 0 else None for score, v in values.items()}


def effective(of: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, float]:
    """By score, as in DEFINITION."""
    falls = {score: [means(x, score)[1:] - means(x, score)[0] for x in (of, beside)] for score in SCORES}
    return {score: float((mine - theirs).mean()) for score, (mine, theirs) in falls.items()}


class Tested(NamedTuple):
    """A replica's test part: predicted classes Int[conditions, utterances], true ones, draws and which modalities there are, both
    [utterances, modalities]."""

    predicted: np.ndarray
    gold: np.ndarray
    drawn: np.ndarray
    has: np.ndarray


def curves(
    modalities: Sequence[str], listed: Sequence[Condition], tested: Sequence[Tested], classes: int
) -> dict[str, Any]:
    """`clean`, `present`, `missing` and `noise` of the file; `listed` are the conditions of the predictions."""
    count, at = len(modalities), {condition: i for i, condition in enumerate(listed)}
    whole, zero = (False,) * count, (0.0,) * count

    def score(rows: Sequence[np.ndarray]) -> np.ndarray:
        """rows: of each replica the condition of each utterance."""
        return np.stack([confusion(of.gold, of.predicted[c, np.arange(len(c))], classes)
                         for of, c in zip(tested, rows, strict=True)])  # fmt: skip

    def under(condition: Condition) -> np.ndarray:
        return score([np.full(len(of.gold), at[condition]) for of in tested])

    def without(gone: Sequence[np.ndarray]) -> np.ndarray:
        return score([np.array([at[Condition(tuple(row), zero)] for row in rows.tolist()], int) for rows in gone])

    def point(confusions: np.ndarray) -> dict[str, Any]:
        return {name: over_replicas(values) for name, values in overall(confusions).items()}

    present = {"+".join(sorted(m for m, gone in zip(modalities, c.hidden, strict=True) if not gone)): point(under(c))
               for c in listed if not any(c.sigma)}  # fmt: skip
    missing: Curves = {}
    if count > 1:
        gone = [losses(modalities, of.drawn, of.has) for of in tested]
        for name in gone[0]:
            points = [without([each[name][i] for each in gone]) for i in range(len(RATES))]
            nothing = 0 if name == "all" else sum(int((gone_to_nothing(of.has, modalities.index(name))).sum()) for of in tested)  # fmt: skip
            missing[name] = {"rates": list(RATES), **curve(np.stack(points, axis=1)), "left_with_nothing": nothing}
    noises: Curves = {}
    for name, members in noisy(modalities).items():
        strengths = [Condition(whole, tuple(s * (m in members) for m in modalities)) for s in SIGMAS]
        noises[name] = {"sigmas": list(SIGMAS), **curve(np.stack([under(c) for c in strengths], axis=1))}
    return {"clean": point(under(Condition(whole, zero))), "present": present, "missing": missing, "noise": noises}


def gone_to_nothing(has: Bool[np.ndarray, "utterances modalities"], i: int) -> Bool[np.ndarray, "utterances"]:
    """Which utterances have modality i and no other."""
    return has[:, i] & (has.sum(1) == 1)


# ---- the command ----


def measure(
    config: config_lib.Experiment, corpus: Corpus, workdir: epath.PathLike, beside: epath.PathLike | None = None
) -> dict[str, Any]:
    """Writes and shows the robustness of a finished run; returns what the file holds. Raises UserError if the run is not
    finished, or the one beside it cannot be compared with."""
    workdir = epath.Path(workdir)
    if not train.finished(workdir, train.identity(config, corpus), allow_config_change=False):
        raise UserError(f"{workdir} holds no finished run; the same command without --mode=robustness finishes it")
    known = train.read_json(workdir / "metrics.json")
    about = {
        "name": known["data"]["name"],
        "protocol": known["protocol"]["title"],
        "manifest_sha256": known["data"]["manifest_sha256"],
        "split_sha256": known["protocol"]["split_sha256"],
        "seed": SEED,
    }
    other = None if beside is None else read_beside(epath.Path(beside), about, workdir)
    whole = train.resumed(config, corpus, workdir)
    chosen = next(i for i, point in enumerate(known["points"]) if point["chosen"])
    which = [r for r, x in enumerate(known["replicas"]) if x["point"] == chosen and x["status"] == "finished"]
    modalities, pool = config.data.modalities, whole.inputs.feed.pool
    listed = conditions(modalities)
    began = time.monotonic()
    found = predictions(whole, which, listed)
    took = time.monotonic() - began
    folds = [whole.inputs.folds[whole.fleet.replicas[r].fold] for r in which]

    def tested(r: int) -> Tested:
        rows = whole.inputs.folds[whole.fleet.replicas[r].fold].test
        has = np.stack([pool.lengths[m][rows] > 0 for m in modalities], axis=1)
        return Tested(found[r], pool.labels[rows], draws(modalities, pool.rows[rows]), has)

    result: dict[str, Any] = about | {
        "modalities": list(modalities),
        "replicas": [whole.fleet.replicas[r].name for r in which],
        "utterances": sum(len(fold.test) for fold in folds),
        "definition": DEFINITION,
        **curves(modalities, listed, [tested(r) for r in which], len(corpus.labels)),
        "floor": floor([(pool.labels[fold.train], pool.labels[fold.test]) for fold in folds], len(corpus.labels)),
    }  # fmt: skip
    result["retention"] = {kind: {m: retention(of) for m, of in result[kind].items()} for kind in ("missing", "noise")}
    result["over_floor"] = {m: {score: of[score][-1][0] - result["floor"][score][0] for score in SCORES}
                            for m, of in result["missing"].items()}  # fmt: skip
    result["effective"] = None if other is None else effective_of(result, other, str(beside))
    log.write_json(workdir / FILE, result)
    show(result)
    tell(result, known, len(listed), took, workdir)
    return result


def floor(labels: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> dict[str, Any]:
    """labels: of each replica those of its training part and of its test part."""
    said = [np.full(len(test), np.bincount(trained, minlength=classes).argmax()) for trained, test in labels]
    matrices = np.stack([confusion(test, s, classes) for (_, test), s in zip(labels, said, strict=True)])
    return {name: over_replicas(values) for name, values in overall(matrices).items()}


def read_beside(folder: epath.Path, about: dict[str, Any], workdir: epath.Path) -> Any:
    """The robustness.json of another run. Raises UserError if there is none, or if it is of other utterances."""
    path = folder / FILE
    if not path.exists():
        raise UserError(
            f"--beside={folder}: there is no {FILE}; it is made by `python -m mer_jax.main --workdir={folder} "
            "--mode=robustness` with the --config of that run"
        )
    found = train.read_json(path)
    mine = about | {"missing": list(RATES), "noise": list(SIGMAS)}
    try:
        theirs = {name: found[name] for name in about}
        for kind, at in (("missing", "rates"), ("noise", "sigmas")):
            theirs[kind] = next((of[at] for of in found[kind].values()), mine[kind])
        _ = [means(of, score) for kind in ("missing", "noise") for of in found[kind].values() for score in SCORES]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is not what --mode=robustness writes; make it again") from None
    for name in ("manifest_sha256", "split_sha256", "seed", "missing", "noise"):
        if mine[name] != theirs[name]:
            raise UserError(
                f"--beside={folder}: its {name} is {theirs[name]}, that of {workdir} {mine[name]}: the same utterances must have "
                "been tested in the same way"
            )
    return found


def effective_of(mine: Mapping[str, Any], theirs: Mapping[str, Any], beside: str) -> dict[str, Any]:
    """Of the curves that both runs have; "all" only where it means the same modalities."""
    same = sorted(mine["modalities"]) == sorted(theirs["modalities"])
    return {"beside": beside} | {
        kind: {m: effective(of, theirs[kind][m]) for m, of in mine[kind].items()
               if m in theirs[kind] and (same or m != "all")}
        for kind in ("missing", "noise")
    }  # fmt: skip


# ---- on the console ----


def show(result: Mapping[str, Any]) -> None:
    count = len(result["replicas"])
    for kind, at, title, where in (
        ("missing", "rates", "where a share of the utterances loses a modality", "lost"),
        ("noise", "sigmas", "under noise, in standard deviations", "noise in"),
    ):
        if not result[kind]:
            continue
        table = rich.table.Table(
            title=f"weighted F1 in percent {title}; test of {result['name']}, protocol {result['protocol']}"
            + (f", mean of {count} replicas" if count > 1 else ""),
            title_justify="left", box=rich.box.SIMPLE_HEAD,
        )  # fmt: skip
        table.add_column(where)
        for x in next(iter(result[kind].values()))[at]:
            table.add_column(f"{x:g}", justify="right")
        extra = ["retained", *(["at 1 over the floor"] if kind == "missing" else []), *(["effective"] if result["effective"] else [])]  # fmt: skip
        for name in extra:
            table.add_column(name, justify="right")
        for m, of in result[kind].items():
            kept, ahead = result["retention"][kind][m][SHOWN], result["over_floor"].get(m, {}).get(SHOWN, 0.0)
            cells = [percent(mean) for mean in means(of, SHOWN)] + [percent(kept)]
            cells += [percent(ahead, sign=True)] if kind == "missing" else []
            if result["effective"]:
                found = result["effective"][kind].get(m)
                cells += [percent(found and found[SHOWN], sign=True)]
            table.add_row(m, *cells)
        log.console.print(table)


def percent(fraction: float | None, *, sign: bool = False) -> str:
    """`58.9`; `+1.1` with its sign."""
    if fraction is None:
        return "-"
    points = round(100 * fraction, 1) + 0.0  # + 0.0: no -0.0
    return f"{points:+.1f}" if sign else f"{points:.1f}"


def tell(result: Mapping[str, Any], known: Mapping[str, Any], listed: int, took: float, workdir: epath.Path) -> None:
    """What the tables do not say."""
    say = log.console.print
    present = {m: of[SHOWN][0] for m, of in result["present"].items()}
    full = "+".join(sorted(result["modalities"]))
    if others := ", ".join(f"{m} {percent(mean)}" for m, mean in present.items() if m != full):
        say(
            f"all modalities {percent(present[full])}; only {others}; the most frequent class {percent(result['floor'][SHOWN][0])}"
        )
    else:
        say(f"nothing is left of a run of {full} alone when that is missing: noise only")
    for m, of in result["missing"].items():
        if n := of["left_with_nothing"]:
            say(f"{n} of {result['utterances']} test utterances have no modality but {m} and are left with nothing")
    for name in SCORES:
        before, now = known["test"][name]["mean"], result["clean"][name][0]
        if abs(before - now) > 1e-6:
            say(
                f"note: the clean {name} is {now:.6f} here and {before:.6f} in metrics.json: rounding differs between devices"
            )
    if result["effective"]:
        say(f"effective: how much less the score falls than that of {result['effective']['beside']}, in points")
    say(f"{listed} conditions of {result['utterances']} utterances in {log.duration(took)}; {workdir / FILE}")
