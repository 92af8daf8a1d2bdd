"""Config and corpus -> inputs on the device and compiled functions over the mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mer_jax import config as config_lib
from mer_jax import data, log, losses, optim, pure, shard, step
from mer_jax.batch import Batch
from mer_jax.errors import UserError
from mer_jax.models import deepmsi_mer, lsgmer
from mer_jax.records import Corpus

PARTS = ("train", "valid", "test")


# ---- data ----


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The parts of the corpus, ready to feed, and what was counted on the way."""

    feeds: dict[str, data.Feed]
    stats: dict[str, dict[str, np.ndarray]]
    counts: dict[str, Any]


def load(config: config_lib.Experiment, corpus: Corpus, mesh: jax.sharding.Mesh) -> Inputs:
    """Reads every part once: refuses bad records, measures the statistics, keeps what lives on the device."""
    settings = config.data
    limits = settings.max_length * (len(settings.modalities) // len(settings.max_length))
    parts = [data.take_part(corpus, name, dict(zip(settings.modalities, limits, strict=True))) for name in PARTS]
    megabytes = data.packed_megabytes(corpus, parts)
    resident = settings.placement == "resident" or (
        settings.placement == "auto" and megabytes <= settings.resident_limit_mb
    )
    progress = log.Progress("reading", sum(map(len, parts)), "records")
    feeds, scans = {}, {}
    for part in parts:
        scan = data.scan(corpus, part, settings.nonfinite, keep=resident, progress=progress.advance)
        feeds[part.name] = data.Feed(
            corpus,
            part,
            settings.nonfinite,
            functools.partial(shard.put, sharding=shard.along_data(mesh)),
            source=shard.put(data.pack(part, scan.features), shard.replicated(mesh)) if resident else None,
            read_threads=settings.read_threads,
        )
        scans[part.name] = scan
    progress.close()
    stats = scans["train"].stats
    if not settings.standardize:
        stats = {m: {"mean": np.zeros_like(s["mean"]), "scale": np.ones_like(s["scale"])} for m, s in stats.items()}
    counts = {part.name: count(corpus, part, scans[part.name]) for part in parts}
    where = f"{megabytes:.0f} MB {'on the device' if resident else 'streamed'}"
    tell(f"{corpus.manifest['name']}: ", settings.modalities, counts, where)
    return Inputs(feeds, stats, counts)


def count(corpus: Corpus, part: data.Part, scan: data.Scan) -> dict[str, Any]:
    of_class = np.bincount(part.labels, minlength=len(corpus.labels)).tolist()
    return {
        "utterances": len(part),
        "classes": dict(zip(corpus.labels, of_class, strict=True)),
        "truncated": dict(part.truncated),
        "nonfinite_zeroed": scan.nonfinite,
    }


def tell(corpus: str, modalities: tuple[str, ...], counts: dict[str, Any], where: str) -> None:
    """What was read, and whatever was done to it."""
    sizes = ", ".join(f"{name} {c['utterances']}" for name, c in counts.items())
    log.console.print(f"{corpus}{sizes}; {' + '.join(modalities)}, {where}")
    done = {"truncated": "sequences truncated to data.max_length", "nonfinite_zeroed": "non-finite values set to 0"}
    for name, c in counts.items():
        for field, words in done.items():
            if found := ", ".join(f"{m} {n}" for m, n in c[field].items() if n):
                log.console.print(f"  {name}: {found} {words}")


# ---- program ----


@dataclasses.dataclass(frozen=True)
class Program:
    """The experiment as compiled functions over a mesh.

    init(seed, stats) -> state; train(state, source, item, pads) -> (state, terms), which consumes the state;
    score(state, source, item, pads) -> what step.eval_step returns. `like` is the state's shapes and shardings.
    """

    init: Callable[..., step.TrainState]
    train: Callable[..., tuple[step.TrainState, dict[str, Any]]]
    score: Callable[..., dict[str, Any]]
    like: step.TrainState


def steps_per_epoch(config: config_lib.Experiment, part: data.Part) -> int:
    """Updates in which as many utterances are read as the part has; the stream of utterances does not stop at an epoch's end."""
    return -(-len(part) // config.train.batch_size)


def parts_of_step(config: config_lib.Experiment, corpus: Corpus, prior: np.ndarray, steps: int) -> dict[str, Any]:
    """The functions step.py wants, made from the config: the one place where settings become arguments."""
    share = jax.numpy.asarray(prior)
    if isinstance(config, config_lib.LSGMERExperiment):
        family = lsgmer_parts(config, corpus, share)
    elif isinstance(config, config_lib.DeepMSIExperiment):
        family = deepmsi_parts(config, corpus, share)
    else:
        raise TypeError(f"no model is known for {type(config).__name__}")
    settings = dataclasses.asdict(config.optim)
    average = settings.pop("average")
    rate = optim.schedule(settings.pop("schedule"), settings.pop("learning_rate"), settings.pop("warmup"), steps)
    return {
        **family,
        "tx": optim.optimizer(rate=rate, **settings),
        "average": average,
    }


def shared_settings(config: config_lib.Experiment, corpus: Corpus) -> dict[str, Any]:
    """Arguments that every family's model takes."""
    return {
        "widths": {m: corpus.modalities[m]["width"] for m in config.data.modalities},
        "compute": {"float32": None, "bfloat16": jax.numpy.bfloat16}[config.train.precision],
    }


def lsgmer_parts(config: config_lib.LSGMERExperiment, corpus: Corpus, prior: jax.Array) -> dict[str, Any]:
    model, settings = dataclasses.asdict(config.model), dataclasses.asdict(config.loss)
    after = functools.partial(lsgmer.update_labels, how=model.pop("label_update"), alpha=model.pop("label_average"))
    functions = pure.pure(
        lsgmer.LSGMER,
        label_words=np.asarray(corpus.manifest["label_embeddings"], np.float32),
        temperature=config.loss.temperature,
        **shared_settings(config, corpus),
        **model,
    )
    apc_weight = settings.pop("apc")

    def loss(outputs: lsgmer.Outputs, batch: Batch) -> Any:
        return losses.joint_objective(
            outputs["logits"], outputs["similarity"], batch.label, batch.weight,
            prior=prior, apc_weight=apc_weight, **settings,
        )  # fmt: skip

    return {"pure": functions, "loss": loss, "after_update": after}


def deepmsi_parts(config: config_lib.DeepMSIExperiment, corpus: Corpus, prior: jax.Array) -> dict[str, Any]:
    model, settings = dataclasses.asdict(config.model), dataclasses.asdict(config.loss)
    visual = corpus.modalities["visual"] if "visual" in config.data.modalities else {"longest": 0}
    tokens = visual.get("tokens", 1)
    if model["vsc"] and visual["longest"] * tokens == 1:
        log.console.print("every clip is one visual vector: there is nothing to compress, VSC is off")
        model["vsc"] = False
    weight, learned = settings.pop("contrastive"), settings.pop("learn_temperature")
    pool = model.pop("pool")
    compared = [pair for pair in config.loss.pairs if set(pair.split("-")) <= set(config.data.modalities)]
    functions = pure.pure(
        deepmsi_mer.DeepMSIMER,
        classes=len(corpus.labels),
        tokens=tokens,
        attended=tuple(
            m
            for m in config.data.modalities
            if m != "visual" and pool == "attention" and corpus.modalities[m]["longest"] > 1
        ),
        temperature=settings.pop("temperature"),
        learn_temperature=learned and weight > 0 and bool(compared),
        **shared_settings(config, corpus),
        **model,
    )

    def loss(outputs: deepmsi_mer.Outputs, batch: Batch) -> Any:
        return losses.fusion_objective(
            outputs["logits"], outputs["projections"], outputs["present"], outputs["temperature"], batch.label, batch.weight,
            prior=prior, contrastive_weight=weight, **settings,
        )  # fmt: skip

    return {"pure": functions, "loss": loss, "after_update": lambda old, new, outputs, batch: new}


def build(config: config_lib.Experiment, corpus: Corpus, part: data.Part, mesh: jax.sharding.Mesh) -> Program:
    """`part` is the training part: it gives the classes' shares and the length of the schedule."""
    if config.train.batch_size % mesh.size or config.train.eval_batch_size % mesh.size:
        raise UserError(
            f"train.batch_size {config.train.batch_size} and train.eval_batch_size {config.train.eval_batch_size} must be "
            f"multiples of the {mesh.size} devices; set --config.train.batch_size and --config.train.eval_batch_size"
        )
    prior = (np.bincount(part.labels, minlength=len(corpus.labels)) / len(part)).astype(np.float32)
    made = parts_of_step(config, corpus, prior, config.train.epochs * steps_per_epoch(config, part))
    apply, everywhere = made["pure"].apply, shard.replicated(mesh)

    def init(seed: Any, stats: Any) -> step.TrainState:
        return step.init_state(
            jax.random.key(seed), stats, init=made["pure"].init, tx=made["tx"], average=made["average"] > 0
        )

    def train(state: step.TrainState, source: Any, item: Any, pads: data.Pads) -> Any:
        batch = data.fetch(source, item, pads)
        return step.train_step(
            state,
            batch,
            apply=apply,
            loss=made["loss"],
            tx=made["tx"],
            after_update=made["after_update"],
            average=made["average"],
        )

    def score(state: step.TrainState, source: Any, item: Any, pads: data.Pads) -> Any:
        return step.eval_step(state, data.fetch(source, item, pads), apply=apply)

    stats = {m: dict.fromkeys(("mean", "scale"), jax.ShapeDtypeStruct((corpus.modalities[m]["width"],), np.float32))
             for m in config.data.modalities}  # fmt: skip
    shapes = jax.eval_shape(init, jax.ShapeDtypeStruct((), np.uint32), stats)
    return Program(
        init=jax.jit(init, out_shardings=everywhere),
        train=jax.jit(train, static_argnums=3, donate_argnums=0, out_shardings=everywhere),
        score=jax.jit(score, static_argnums=3, out_shardings=everywhere),
        like=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes),
    )
