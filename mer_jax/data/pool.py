"""TODO: say what lives here."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.frames import MEAN, SCALE, EncodedFrames
from mer_jax.errors import UserError
from mer_jax.runtime import distributed


@dataclasses.dataclass(frozen=True)
class UtterancePool:
    """The utterances that an experiment uses: `rows` in the corpus, their targets ([rows, …] by name, as the task made
    them), and per modality how many time steps each keeps. Everywhere else an utterance is a position in the pool."""

    rows: np.ndarray
    targets: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    cut: Mapping[str, np.ndarray]  # Bool: which sequences were longer

    def __len__(self) -> int:
        return len(self.rows)


def select_utterances(
    corpus: Corpus, rows: np.ndarray, max_lengths: Mapping[str, int], targets: Mapping[str, np.ndarray]
) -> UtterancePool:
    """The corpus's utterances `rows` with their `targets`; their sequences are cut to `max_lengths` time steps."""
    full = {m: corpus.index[f"length/{m}"][rows] for m in max_lengths}
    return UtterancePool(
        rows=rows,
        targets=targets,
        lengths={m: np.minimum(full[m], limit) for m, limit in max_lengths.items()},
        cut={m: full[m] > limit for m, limit in max_lengths.items()},
    )


def read_utterance(
    corpus: Corpus, pool: UtterancePool, i: int, nonfinite: str
) -> tuple[dict[str, Any], dict[str, int], str]:
    """Features of the pool's utterance i, cut to length; how many of their values were not finite; its sentence. Frames are
    not decoded.

    Those are set to zero if `nonfinite` is "zero"; otherwise the record is refused with a UserError.
    """
    utterance: Utterance = corpus[int(pool.rows[i])]
    features: dict[str, Any] = {}
    bad = {}
    for m, lengths in pool.lengths.items():
        if m not in utterance.features:
            continue
        value = utterance.features[m][: lengths[i]]
        if isinstance(value, EncodedFrames):
            features[m] = value
            continue
        finite = np.isfinite(value)
        if not finite.all():
            if nonfinite == "refuse":
                step, feature = np.argwhere(~finite)[0]
                raise UserError(
                    f"{corpus.where(int(pool.rows[i]))}: {m}[{step}, {feature}] is {value[step, feature]}. "
                    "Repair the features, or set --config.data.nonfinite=zero to replace such values by 0 and count them."
                )
            bad[m] = int((~finite).sum())
            value = np.where(finite, value, 0).astype(value.dtype)
        features[m] = value
    return features, bad, utterance.sentence


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over the pool finds: statistics per modality and fold, {"mean", "scale"} of Float32[folds, feat] (of frames
    the constants of public image backbones, Float32[folds, 3]); how many
    values of every utterance were not finite; the sentences; and, if they were kept, the features that this process read."""

    stats: dict[str, dict[str, np.ndarray]]
    nonfinite: dict[str, np.ndarray]
    sentences: list[str]
    features: dict[int, dict[str, np.ndarray]]


def scan(
    corpus: Corpus,
    pool: UtterancePool,
    train: Bool[np.ndarray, "folds rows"],
    nonfinite: str,
    *,
    mine: np.ndarray,
    keep: bool,
    progress: Callable[[], None] = lambda: None,
) -> Scan:
    """Reads every record of the pool once, this process those at `mine`. A fold's mean and scale are over all time steps of
    its training part (`train`), in float64. A bad record is a UserError in every process."""
    widths = {m: 0 if "pixels" in corpus.modalities[m] else corpus.modalities[m]["width"] for m in pool.lengths}
    folds = len(train)
    count = {m: np.zeros(folds) for m in widths}
    first = {m: np.zeros((folds, w)) for m, w in widths.items()}
    second = {m: np.zeros((folds, w)) for m, w in widths.items()}
    bad = {m: np.zeros(len(pool), np.int64) for m in widths}
    kept: dict[int, dict[str, np.ndarray]] = {}
    sentences: dict[int, str] = {}
    error = ""
    try:
        for i in mine.tolist():
            features, found, sentences[i] = read_utterance(corpus, pool, i, nonfinite)
            of = np.flatnonzero(train[:, i])
            for m, value in features.items():
                count[m][of] += len(value)
                if isinstance(value, EncodedFrames):
                    corpus.decoded(int(pool.rows[i]), value, EncodedFrames.check)
                    continue
                exact = value.astype(np.float64)
                first[m][of] += exact.sum(0)
                second[m][of] += np.square(exact).sum(0)
                bad[m][i] = found.get(m, 0)
            if keep:
                kept[i] = features
            progress()
    except UserError as refused:
        error = str(refused)
    told = np.frombuffer(json.dumps([error, sentences]).encode(), np.uint8)
    counted = {"count": count, "first": first, "second": second, "bad": bad}
    sums = {f"{name} {m}": x[m] for name, x in counted.items() for m in widths}
    shares = distributed.all_gather(sums | {"told": told})
    for share in shares:
        error, theirs = json.loads(share["told"].tobytes())
        if error:
            raise UserError(error)
        sentences |= {int(i): sentence for i, sentence in theirs.items()}
    total = {name: np.sum([share[name] for share in shares], axis=0) for name in sums}
    stats = {}
    for m in widths:
        steps = total[f"count {m}"]
        for fold in np.flatnonzero(steps == 0)[:1]:
            raise UserError(f"{corpus.path}: no utterance of the training part (fold {fold}) has {m!r} features")
        if "pixels" in corpus.modalities[m]:
            fixed = {"mean": MEAN, "scale": SCALE}
            stats[m] = {name: np.tile(np.float32(value), (folds, 1)) for name, value in fixed.items()}
            continue
        mean = total[f"first {m}"] / steps[:, None]
        deviation = np.sqrt(np.maximum(total[f"second {m}"] / steps[:, None] - np.square(mean), 0))
        scale = np.where(deviation > 1e-6, deviation, 1.0)  # a constant feature stays 0
        stats[m] = {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    nonfinite_of = {m: total[f"bad {m}"] for m in widths}
    return Scan(stats, nonfinite_of, [sentences[i] for i in range(len(pool))], kept)


def packed_megabytes(corpus: Corpus, pool: UtterancePool) -> float:
    """Size of the pool on the device, known before anything is read; of frames decoded and whole."""
    size = 0
    for m, lengths in pool.lengths.items():
        spec = corpus.modalities[m]
        itemsize = 1 if "pixels" in spec else np.dtype(spec["dtype"]).itemsize
        size += int(lengths.sum()) * spec["width"] * itemsize
    return size / 2**20
