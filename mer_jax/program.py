"""Config and corpus -> inputs on the device and compiled functions over the mesh."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.markup import escape

from mer_jax import config as config_lib
from mer_jax import data, log, losses, optim, pure, replicas, shard, step, weights
from mer_jax.batch import Batch
from mer_jax.errors import UserError
from mer_jax.frames import View
from mer_jax.models import deepmsi_mer, lsgmer, swin
from mer_jax.protocols import Fold, Split
from mer_jax.records import Corpus, Manifest

PARTS = ("train", "valid", "test")


# ---- data ----


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The utterances of the experiment, ready to feed, and what was counted on the way.

    folds: the protocol's folds, as positions in the pool; trains: Bool[folds, pool], which utterances train in each; given[i]:
    of fold i; counts[i]: what its parts hold; sentences: of the pool's utterances.
    """

    feed: data.Feed
    folds: tuple[Fold, ...]
    trains: np.ndarray
    given: tuple[step.Given, ...]
    counts: tuple[dict[str, Any], ...]
    sentences: list[str]

    def rows_of_training(self) -> np.ndarray:
        """What is read in an epoch: the utterances that train in any fold, whichever folds are run."""
        return np.flatnonzero(self.trains.any(0))


def load(config: config_lib.Experiment, corpus: Corpus, split: Split, mesh: jax.sharding.Mesh) -> Inputs:
    """Reads every utterance of the split once: refuses bad records, measures the statistics, keeps what lives on the device."""
    settings = config.data
    rows = np.unique(np.concatenate([getattr(fold, part) for fold in split.folds for part in PARTS]))
    lengths = config_lib.limits(settings)
    pool = data.take_pool(corpus, rows, lengths, soft=settings.soft_labels)
    folds = tuple(
        Fold(fold.name, *(np.searchsorted(rows, getattr(fold, part)) for part in PARTS)) for fold in split.folds
    )
    megabytes = data.packed_megabytes(corpus, pool)
    frames = config.frames if isinstance(config, config_lib.DeepMSIFramesExperiment) else None
    resident = frames is None and (
        settings.placement == "resident" or (settings.placement == "auto" and megabytes <= settings.resident_limit_mb)
    )
    trains = np.zeros((len(folds), len(pool)), bool)
    for member, fold in zip(trains, folds, strict=True):
        member[fold.train] = True
    mine = np.concatenate([rows for rows, here in data.blocks_of(pool, mesh) if here])
    progress = log.Progress("reading", len(mine), "records")
    scan = data.scan(corpus, pool, trains, settings.nonfinite, mine=mine, keep=resident, progress=progress.advance)
    progress.close()
    feed = data.Feed(
        corpus,
        pool,
        settings.nonfinite,
        mesh,
        source=data.pack(corpus, pool, scan.features, mesh) if resident else None,
        read_threads=settings.read_threads,
        pieces=config.train.accumulate,
        view=None if frames is None else View(**vars(frames)),
        seed=settings.seed,
    )
    counts = tuple({part: count(corpus, pool, scan, getattr(fold, part)) for part in PARTS} for fold in folds)
    where = f"{megabytes:.0f} MB {'on the device' if resident else 'streamed' + ' (decoded)' * (frames is not None)}"
    if frames is not None and (side := min(corpus.modalities["visual"]["pixels"])) < frames.size:
        log.console.print(f"note: the frames in the records have {side} pixels a side and are enlarged to frames.size = {frames.size}")  # fmt: skip
    if isinstance(config, config_lib.DeepMSIFramesExperiment) and config.backbone.weights and (grids := config_lib.undivided_grids(config)):  # fmt: skip
        log.console.print(
            f"note: windows of {config.backbone.window} do not divide the grids of frames.size = {config.frames.size} in stage "
            f"{', '.join(map(str, grids))} ({', '.join(map(str, grids.values()))} tokens a side) and are made smaller: features are not "
            "those of transformers from the same weights"
        )
    tell(corpus.manifest["name"], settings.modalities, split, counts, int(trains.any(0).sum()), where)
    if settings.soft_labels:
        voted = corpus.soft_labels(rows[trains.any(0)]).any(1)
        log.console.print(
            f"  learnt is what the raters say of {voted.sum()} training utterances; of {(~voted).sum()}, where none of them chose a class, "
            "the label"
        )
    raw = () if settings.standardize else tuple(m for m in lengths if "pixels" not in corpus.modalities[m])
    given = tuple(give(pool, scan, i, fold, raw) for i, fold in enumerate(folds))
    return Inputs(feed, folds, trains, given, counts, scan.sentences)


def give(pool: data.Pool, scan: data.Scan, number: int, fold: Fold, raw: tuple[str, ...]) -> step.Given:
    """raw: modalities that are left as they are."""
    stats = {m: {name: values[number] for name, values in s.items()} for m, s in scan.stats.items()}
    for m in raw:
        stats[m] = {"mean": np.zeros_like(stats[m]["mean"]), "scale": np.ones_like(stats[m]["scale"])}
    prior = pool.targets[fold.train].mean(0, dtype=np.float64).astype(np.float32)
    return step.Given(stats, prior, {})


def count(corpus: Corpus, pool: data.Pool, scan: data.Scan, rows: np.ndarray) -> dict[str, Any]:
    of_class = np.bincount(pool.labels[rows], minlength=len(corpus.labels)).tolist()
    return {
        "utterances": len(rows),
        "classes": dict(zip(corpus.labels, of_class, strict=True)),
        "truncated": {m: int(cut[rows].sum()) for m, cut in pool.cut.items()},
        "nonfinite_zeroed": {m: int(bad[rows].sum()) for m, bad in scan.nonfinite.items()},
    }


def tell(
    corpus: str, modalities: tuple[str, ...], split: Split, counts: tuple[dict[str, Any], ...], union: int, where: str
) -> None:
    """What was read, and whatever was done to it. union: how many utterances train in any fold."""
    sizes = ", ".join(f"{part} {spread([c[part]['utterances'] for c in counts])}" for part in PARTS)
    folds = f"{len(counts)} folds, each " if len(counts) > 1 else ""
    log.console.print(f"{corpus}, protocol {split.title()}: {folds}{sizes}; {' + '.join(modalities)}, {where}")
    done = {"truncated": "sequences truncated to data.max_length", "nonfinite_zeroed": "non-finite values set to 0"}
    for part in PARTS:
        for field, words in done.items():
            most = {m: max(c[part][field][m] for c in counts) for m in modalities}
            if found := ", ".join(f"{m} {n}" for m, n in most.items() if n):
                log.console.print(f"  {part}: {found} {words}{' at most' if len(counts) > 1 else ''}")
    if (least := min(c["train"]["utterances"] for c in counts)) < union:
        log.console.print(f"  batches are drawn from all {union} utterances that train in any fold: {100 * least / union:.0f} % of a batch "
                          "or more count in each")  # fmt: skip
    for fold, c in zip(split.folds, counts, strict=True):
        if absent := [name for name, n in c["train"]["classes"].items() if not n]:
            log.console.print(f"  fold {escape(fold.name)}: no training utterance is {', '.join(absent)}")


def spread(values: list[int]) -> str:
    """`12` or `10–14`"""
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}–{max(values)}"


# ---- program ----


@dataclasses.dataclass(frozen=True)
class Program:
    """The experiment as compiled functions over a mesh, of `together` replicas at a time: these are the leading axis of all
    that belongs to replicas, laid out as `each` ([replicas, batch] as `both`); one alone has no such axis. `layout`: of states
    and best models.

    init(seed, given, start) -> state, `start` the same for all; train(state, weight, source, places, pads) -> (state, terms), which consumes the state;
    score(model, source, places, pads) -> what step.eval_step returns; keep(best, model, better) -> model, which consumes
    best; model(state) -> a copy of what scoring needs. apply: of `pure.Pure`, the model as it is evaluated. start: NumPy arrays of the model that are given, not drawn. like: shapes and shardings of the states and best models of all
    replicas, along a leading axis.
    """

    init: Callable[..., step.TrainState]
    train: Callable[..., tuple[step.TrainState, dict[str, Any]]]
    score: Callable[..., dict[str, Any]]
    keep: Callable[..., step.Model]
    model: Callable[..., step.Model]
    apply: Callable[..., Any]
    like: dict[str, Any]
    layout: dict[str, Any]
    start: Any
    together: int
    each: jax.sharding.NamedSharding
    both: jax.sharding.NamedSharding


def steps_per_epoch(config: config_lib.Experiment, inputs: Inputs) -> int:
    """Updates in which as many utterances are read as train in any fold; the stream does not stop at an epoch's end."""
    return -(-len(inputs.rows_of_training()) // config.train.batch_size)


def family_of(config: config_lib.Experiment, corpus: Manifest) -> tuple[pure.Pure, Callable[[step.Given], Any]]:
    """(the model, given -> (loss, after_update)): the one place where settings become arguments."""
    if isinstance(config, config_lib.LSGMERExperiment):
        return lsgmer_family(config, corpus)
    if isinstance(config, config_lib.DeepMSIExperiment):
        return deepmsi_family(config, corpus)
    raise TypeError(f"no model is known for {type(config).__name__}")


def rules_of(config: config_lib.Experiment, family: Callable[[step.Given], Any], steps: int) -> Any:
    """given -> step.Rules, with the replica's values of the swept fields in them."""

    def rules(given: step.Given) -> step.Rules:
        settings = dict(vars(replicas.at(config, given.values).optim))
        average = settings.pop("average")
        settings["factor"] = factor_of(config)
        rate = optim.schedule(settings.pop("schedule"), settings.pop("learning_rate"), settings.pop("warmup"), steps)
        loss, after_update = family(given)
        return step.Rules(loss, optim.optimizer(rate=rate, **settings), after_update, average)

    return rules


def shared_settings(config: config_lib.Experiment) -> dict[str, Any]:
    """What pure.pure is told for every family."""
    return {
        "swept": replicas.swept_fields(config),
        "compute": {"float32": None, "bfloat16": jax.numpy.bfloat16}[config.train.precision],
    }


def widths_of(config: config_lib.Experiment, corpus: Manifest) -> dict[str, int]:
    return {m: corpus.modalities[m]["width"] for m in config.data.modalities}


def lsgmer_family(config: config_lib.LSGMERExperiment, corpus: Manifest) -> Any:
    words = np.asarray(corpus.manifest["label_embeddings"], np.float32)

    def arguments(values: dict[str, Any]) -> dict[str, Any]:
        here = replicas.at(config, values)
        model = {k: v for k, v in vars(here.model).items() if k not in ("label_update", "label_average")}
        return model | {
            "label_words": words, "temperature": here.loss.temperature, "widths": widths_of(config, corpus),
        }  # fmt: skip

    def learning(given: step.Given) -> Any:
        here = replicas.at(config, given.values)
        settings = dict(vars(here.loss))
        apc_weight = settings.pop("apc")

        def loss(outputs: lsgmer.Outputs, batch: Batch) -> Any:
            return losses.joint_objective(
                outputs["logits"], outputs["similarity"], batch.target, batch.weight,
                prior=given.prior, apc_weight=apc_weight, **settings,
            )  # fmt: skip

        model = here.model
        return loss, functools.partial(lsgmer.update_labels, how=model.label_update, alpha=model.label_average)

    return pure.pure(lsgmer.LSGMER, arguments, **shared_settings(config)), learning


def is_frozen(config: config_lib.DeepMSIExperiment) -> Callable[[tuple[str, ...]], bool]:
    """Which parameters do not learn, by path."""
    if not isinstance(config, config_lib.DeepMSIFramesExperiment):
        return lambda path: False
    learns, depths = config_lib.tuned_stages(config.backbone) or range(0), config.backbone.depths
    return lambda path: path[0] == "backbone" and swin.layer_of(path[1:], depths)[0] not in learns


def factor_of(config: config_lib.Experiment) -> Callable[[tuple[str, ...]], float] | None:
    """Of a parameter's learning rate, by path; None if all have the same."""
    if not isinstance(config, config_lib.DeepMSIFramesExperiment):
        return None
    backbone = config.backbone
    if backbone.rate == backbone.layer_decay == 1:
        return None

    def factor(path: tuple[str, ...]) -> float:
        if path[0] != "backbone":
            return 1.0
        layer = swin.layer_of(path[1:], backbone.depths)[1]
        return backbone.rate * backbone.layer_decay ** (sum(backbone.depths) - layer)

    return factor


def start_of(config: config_lib.Experiment) -> dict[str, Any]:
    """The arrays that a new model does not draw."""
    if not isinstance(config, config_lib.DeepMSIFramesExperiment) or not config.backbone.weights:
        return {}
    return {"backbone": weights.nested(weights.read(config.backbone.weights))}


def backbone_arguments(config: config_lib.DeepMSIFramesExperiment) -> dict[str, Any]:
    """Of swin.SwinV2, without the numbers of VSC."""
    found = dict(vars(config.backbone))
    for name in ("weights", "tune", "rate", "layer_decay"):
        del found[name]
    found["stage"] -= 1
    if not config.model.vsc:
        found["sides"] = ()
    if config.backbone.weights:
        found["pretrained"] = weights.arguments_of(config.backbone.weights)["pretrained"]
    learns = config_lib.tuned_stages(config.backbone) or range(len(config.backbone.depths), 0)
    return found | {"published": config.model.variant == "published", "still": max(0, learns.start)}


def deepmsi_family(config: config_lib.DeepMSIExperiment, corpus: Manifest) -> Any:
    visual = corpus.modalities["visual"] if "visual" in config.data.modalities else {"longest": 0}
    tokens = visual.get("tokens", 1)
    backbone = None
    if isinstance(config, config_lib.DeepMSIFramesExperiment):
        backbone = backbone_arguments(config)
        if config.backbone.tune != "all" and not config.backbone.weights:
            log.console.print(
                f"note: backbone.tune={config.backbone.tune} without backbone.weights: what does not learn is random"
            )
    compress = config.model.vsc and backbone is None
    if compress and visual["longest"] * tokens == 1:
        log.console.print("every clip is one visual vector: there is nothing to compress, VSC is off")
        compress = False
    compared = [pair for pair in config.loss.pairs if set(pair.split("-")) <= set(config.data.modalities)]
    attended = tuple(
        m
        for m in config.data.modalities
        if m != "visual" and config.model.pool == "attention" and corpus.modalities[m]["longest"] > 1
    )
    swept = "loss.contrastive" in replicas.swept_fields(config)
    learned = config.loss.learn_temperature and bool(compared) and (config.loss.contrastive > 0 or swept)

    def arguments(values: dict[str, Any]) -> dict[str, Any]:
        here = replicas.at(config, values)
        model = {k: v for k, v in vars(here.model).items() if k != "pool"}
        vsc = {"threshold": model["threshold"], "alpha": model["alpha"]}
        return model | {
            "backbone": None if backbone is None else backbone | vsc, "vsc": compress, "classes": len(corpus.labels), "tokens": tokens, "attended": attended,
            "temperature": here.loss.temperature, "learn_temperature": learned, "widths": widths_of(config, corpus),
        }  # fmt: skip

    def learning(given: step.Given) -> Any:
        settings = dict(vars(replicas.at(config, given.values).loss))
        weight = settings.pop("contrastive")
        for name in ("learn_temperature", "temperature"):
            del settings[name]

        def loss(outputs: deepmsi_mer.Outputs, batch: Batch) -> Any:
            return losses.fusion_objective(
                outputs["logits"], outputs["projections"], outputs["present"], outputs["temperature"], batch.label, batch.target,
                batch.weight, prior=given.prior, contrastive_weight=weight, **settings,
            )  # fmt: skip

        return loss, lambda old, new, outputs, batch: new

    return pure.pure(deepmsi_mer.DeepMSIMER, arguments, **shared_settings(config), frozen=is_frozen(config)), learning


def build(
    config: config_lib.Experiment, corpus: Corpus, inputs: Inputs, count: int, mesh: jax.sharding.Mesh
) -> Program:
    """`count`: replicas in the experiment. Raises UserError if memory cannot hold the replicas."""
    model, family = family_of(config, corpus)
    apply = step.in_pieces(model.apply, config.train.accumulate)
    rules = rules_of(config, family, config.train.epochs * steps_per_epoch(config, inputs))
    together = together_of(config, count)
    each = shard.along_replicas(mesh) if together > 1 else shard.replicated(mesh)
    both = shard.along_both(mesh) if together > 1 else shard.along_data(mesh)

    def of_all(one: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """A function of one replica -> the same of those that share a call."""
        return jax.vmap(one, in_axes, spmd_axis_name="replica") if together > 1 else one

    init = functools.partial(step.init_state, init=model.init, rules=rules)

    def train(state: step.TrainState, weight: Any, source: Any, places: Any, pads: data.Pads) -> Any:
        batch = jax.lax.with_sharding_constraint(data.fetch(source, places, pads), shard.along_data(mesh))

        def one(state: step.TrainState, weight: Any) -> Any:
            weighed = dataclasses.replace(batch, weight=batch.weight * weight.astype(batch.weight.dtype))
            return step.train_step(state, weighed, apply=apply, rules=rules)

        return of_all(one)(state, weight)

    def score(scored: step.Model, source: Any, places: Any, pads: data.Pads) -> Any:
        def one(scored: step.Model, places: Any) -> Any:
            return step.eval_step(scored, data.fetch(source, places, pads), apply=model.apply)

        return of_all(one)(scored, places)

    values = {field: np.float32(0) for field in replicas.swept_fields(config)}
    start = start_of(config)
    state = jax.eval_shape(init, np.uint32(0), dataclasses.replace(inputs.given[0], values=values), {})
    refuse_unlike(start, state)
    shapes = {"state": state, "best": state.model()}

    def stacked(many: int) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((many, *x.shape), x.dtype), shapes)

    def layout(tree: Any, leading: bool) -> Any:
        return shard.layout(tree, mesh, leading=leading, fsdp=config.mesh.fsdp)

    all_of_them = stacked(count)
    like = jax.tree.map(
        lambda x, along: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=along), all_of_them, layout(all_of_them, True)
    )
    refuse_too_big(like, together, inputs, mesh)
    lies = layout(stacked(together), True) if together > 1 else layout(shapes, False)
    return Program(
        init=jax.jit(of_all(init, (0, 0, None)), out_shardings=lies["state"]),
        train=jax.jit(
            train, static_argnums=4, donate_argnums=0, in_shardings=(lies["state"], both, None, None),
            out_shardings=(lies["state"], each),
        ),
        score=jax.jit(score, static_argnums=3, in_shardings=(lies["best"], None, both), out_shardings=each),
        keep=jax.jit(of_all(step.keep_best), donate_argnums=0, out_shardings=lies["best"]),
        model=jax.jit(lambda state: jax.tree.map(jax.numpy.copy, state.model()), out_shardings=lies["best"]),
        apply=model.apply,
        like=like,
        layout=lies,
        start=start,
        together=together,
        each=each,
        both=both,
    )  # fmt: skip


def together_of(config: config_lib.Experiment, count: int) -> int:
    """How many replicas share a compiled step. On a CPU one: its cores are busy with one, and one that has stopped early
    then costs nothing."""
    return config.replicas.together or (1 if jax.default_backend() == "cpu" and jax.device_count() == 1 else count)


def refuse_unlike(start: dict[str, Any], state: step.TrainState) -> None:
    """Raises UserError if the given backbone is not, array by array, the model's."""
    if not start:
        return

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        """By path; without swept numbers, which lie beside the layers and not in them."""
        leaves = jax.tree_util.tree_leaves_with_path(tree.get("backbone", {}))
        named = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
        return {name: shape for name, shape in named.items() if "/" in name}

    model, found = shapes(state.params) | shapes(state.rest), shapes(start)
    for name in sorted(model.keys() | found.keys()):
        if model.get(name) != found.get(name):
            raise UserError(
                f"--config.backbone.weights: {name} has shape {found.get(name, 'none')} in the file and "
                f"{model.get(name, 'none')} in the model; write the file again with this version's `python -m data_prep.swin`"
            )


def refuse_too_big(saved: dict[str, Any], together: int, inputs: Inputs, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError if what must be in memory at once is more than the device has: every replica's state and best
    model (twice where a save joins several groups), the gradients and updates of the replicas that share a step, and the
    corpus where it is resident, each as the mesh divides it. Activations come on top: less than this cannot do."""
    count = jax.tree.leaves(saved)[0].shape[0]
    whole, params = (
        sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for tree in (saved, saved["state"].params)
    )
    source = sum(x.nbytes for x in jax.tree.leaves(inputs.feed.source))
    joined = whole if together < count else 0  # a checkpoint is one tree: saving makes it of the groups
    gradients = 2 * params * together / count
    need = whole + joined + gradients + source
    parameters = sum(x.size for x in jax.tree.leaves(saved["state"].params)) / count
    has = memory_bytes(mesh)
    if has is not None and need > has:
        gigabytes = 2.0**30
        raise UserError(
            f"{count} replicas of {parameters / 1e6:.1f} M parameters need at least {need / gigabytes:.1f} GiB on each device "
            f"(state {whole / gigabytes:.2f} GiB, its copy while saving {joined / gigabytes:.2f}, gradients and updates "
            f"{gradients / gigabytes:.2f}, corpus {source / gigabytes:.2f}), and it has {has / gigabytes:.1f} GiB; run fewer at once with --config.replicas.folds or --config.replicas.seeds, in several "
            "workdirs, or a smaller model"
        )


def memory_bytes(mesh: jax.sharding.Mesh) -> float | None:
    """Memory of one device; on a CPU the machine's, shared by its devices. None where nobody tells."""
    device = mesh.local_mesh.devices.flat[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / mesh.local_mesh.size
    return None
