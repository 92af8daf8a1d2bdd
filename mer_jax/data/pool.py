"""The utterances of an experiment, and the one pass over their records in which they are checked and measured."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.frames import MEAN, SCALE, EncodedFrames
from mer_jax.data.speaker_norm import NormGroups, norm_groups, scale_of
from mer_jax.errors import UserError
from mer_jax.runtime import distributed


@dataclasses.dataclass(frozen=True)
class UtterancePool:
    """The utterances that an experiment uses: `rows` in the corpus, their targets ([rows, …] by name, as the task made
    them), and per modality how many time steps each keeps. Everywhere else an utterance is a position in the pool."""

    rows: np.ndarray
    targets: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    whole: Mapping[str, np.ndarray]  # how many there were before sequences were cut
    groups: NormGroups | None = None  # by whose statistics each is standardised, if not by the training part's

    def __len__(self) -> int:
        return len(self.rows)


def select_utterances(
    corpus: Corpus,
    rows: np.ndarray,
    max_lengths: Mapping[str, int],
    targets: Mapping[str, np.ndarray],
    speaker_norm: str = "none",
) -> UtterancePool:
    """The corpus's utterances `rows` with their `targets`; their sequences are cut to `max_lengths` time steps.
    speaker_norm: see `speaker_norm.norm_groups`."""
    full = {m: corpus.index[f"length/{m}"][rows] for m in max_lengths}
    return UtterancePool(
        rows=rows,
        targets=targets,
        lengths={m: np.minimum(full[m], limit) for m, limit in max_lengths.items()},
        whole=full,
        groups=norm_groups(corpus, rows, speaker_norm),
    )


def zero_nonfinite(features: np.ndarray, rule: str) -> tuple[np.ndarray, int]:
    """(features [time, width] whose NaN and infinite values are 0, how many these were), by the rule of data.nonfinite:
    if that is "refuse", the first of them is a ValueError."""
    finite = np.isfinite(features)
    if finite.all():
        return features, 0
    if rule == "refuse":
        step, feature = np.argwhere(~finite)[0]
        raise ValueError(f"[{step}, {feature}] is {features[step, feature]}")
    return np.where(finite, features, 0).astype(features.dtype), int((~finite).sum())


def read_utterance(
    corpus: Corpus, pool: UtterancePool, i: int, nonfinite: str
) -> tuple[dict[str, Any], dict[str, int], str]:
    """Features of the pool's utterance i, cut to length; how many of their values were not finite; its sentence. Frames
    are not decoded. Raises UserError where `zero_nonfinite` refuses."""
    utterance: Utterance = corpus[int(pool.rows[i])]
    features: dict[str, Any] = {}
    zeroed: dict[str, int] = {}
    for m, lengths in pool.lengths.items():
        if m not in utterance.features:
            continue
        features[m] = utterance.features[m][: lengths[i]]
        if isinstance(features[m], EncodedFrames):
            continue
        try:
            features[m], count = zero_nonfinite(features[m], nonfinite)
        except ValueError as error:
            raise UserError(
                f"{corpus.where(int(pool.rows[i]))}: {m}{error}. Repair the features, or set "
                "--config.data.nonfinite=zero to replace such values by 0 and count them."
            ) from None
        if count:
            zeroed[m] = count
    return features, zeroed, utterance.sentence


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over the pool finds.

    stats: per modality {"mean", "scale"}, Float32[folds, feat], of the training parts; of frames Float32[folds, 3], the
    constants of public image backbones. Of a pool with groups they are Float32[folds, groups, feat], and own says which
    groups have statistics of their own in any modality, Bool[folds, names]. nonfinite: how many values of every
    utterance were not finite. features: those that this process has read, if they were kept.
    """

    stats: dict[str, dict[str, np.ndarray]]
    nonfinite: dict[str, np.ndarray]
    sentences: list[str]
    features: dict[int, dict[str, np.ndarray]]
    own: np.ndarray | None = None


class _Sums:
    """What is added up over the records of a modality, in float64: of every cell (a fold's training part, or a group)
    the time steps, the features and their squares; of every utterance the values that were not finite."""

    def __init__(self, cells: int, utterances: int, width: int):
        self.steps = np.zeros(cells)
        self.features = np.zeros((cells, width))
        self.squares = np.zeros((cells, width))
        self.nonfinite = np.zeros(utterances, np.int64)

    def add(self, cells: np.ndarray, features: np.ndarray) -> None:
        """Features [time, width] of an utterance that is in these cells."""
        exact = features.astype(np.float64)
        self.features[cells] += exact.sum(0)
        self.squares[cells] += np.square(exact).sum(0)

    def mean_and_deviation(self) -> tuple[np.ndarray, np.ndarray]:
        steps = np.maximum(self.steps, 1)[:, None]
        mean = self.features / steps
        return mean, np.sqrt(np.maximum(self.squares / steps - np.square(mean), 0))


def scan(
    corpus: Corpus,
    pool: UtterancePool,
    train: Bool[np.ndarray, "folds rows"],
    nonfinite: str,
    *,
    local_rows: np.ndarray,
    keep: bool,
    progress: Callable[[], None] = lambda: None,
) -> Scan:
    """Reads every record of the pool once, this process those of `local_rows`. A fold's mean and scale are over all
    time steps of its training part (`train`), a group's over those of its members. A bad record is a UserError in every
    process. keep: whether the features stay."""
    widths = {m: 0 if "pixels" in corpus.modalities[m] else corpus.modalities[m]["width"] for m in pool.lengths}
    cells = train if pool.groups is None else pool.groups.members(train)
    sums = {m: _Sums(len(cells), len(pool), width) for m, width in widths.items()}
    features: dict[int, dict[str, np.ndarray]] = {}
    sentences: dict[int, str] = {}
    error = ""
    try:
        for i in local_rows.tolist():
            read, zeroed, sentences[i] = read_utterance(corpus, pool, i, nonfinite)
            here = np.flatnonzero(cells[:, i])
            for m, value in read.items():
                sums[m].steps[here] += len(value)
                if isinstance(value, EncodedFrames):
                    corpus.decode_frames(int(pool.rows[i]), value, EncodedFrames.check)
                else:
                    sums[m].add(here, value)
                    sums[m].nonfinite[i] = zeroed.get(m, 0)
            if keep:
                features[i] = read
            progress()
    except UserError as refused:
        error = str(refused)
    sentences = _add_up(sums, sentences, error)
    found = {m: _statistics(corpus, m, total, len(train), pool.groups) for m, total in sums.items()}
    return Scan(
        {m: stats for m, (stats, _) in found.items()},
        {m: total.nonfinite for m, total in sums.items()},
        [sentences[i] for i in range(len(pool))],
        features,
        None if pool.groups is None else np.any([own for _, own in found.values()], axis=0),
    )


def _add_up(sums: Mapping[str, _Sums], sentences: Mapping[int, str], error: str) -> dict[int, str]:
    """Makes the sums those over all processes, and returns all sentences. Raises the UserError of any process."""
    message = np.frombuffer(json.dumps([error, sentences]).encode(), np.uint8)
    arrays = {f"{m} {name}": values for m, own in sums.items() for name, values in vars(own).items()}
    shares = distributed.all_gather(arrays | {"message": message})
    found: dict[int, str] = {}
    for share in shares:
        error, theirs = json.loads(share["message"].tobytes())
        if error:
            raise UserError(error)
        found |= {int(i): sentence for i, sentence in theirs.items()}
    for name in arrays:
        m, _, field = name.rpartition(" ")
        setattr(sums[m], field, np.sum([share[name] for share in shares], axis=0))
    return found


def _statistics(
    corpus: Corpus, modality: str, total: _Sums, folds: int, groups: NormGroups | None
) -> tuple[dict[str, np.ndarray], Any]:
    """Mean and scale, and which groups have their own."""
    for fold in np.flatnonzero(total.steps[:folds] == 0)[:1]:
        raise UserError(f"{corpus.path}: no utterance of the training part (fold {fold}) has {modality!r} features")
    if "pixels" in corpus.modalities[modality]:
        fixed = {"mean": MEAN, "scale": SCALE}
        shape = (folds, 1) if groups is None else (folds, 1 + len(groups.names), 1)
        none = None if groups is None else np.zeros((folds, len(groups.names)), bool)
        return {name: np.tile(np.float32(value), shape) for name, value in fixed.items()}, none
    mean, deviation = total.mean_and_deviation()
    if groups is not None:
        return groups.statistics(total.steps, mean, deviation, folds)
    return {"mean": mean.astype(np.float32), "scale": scale_of(deviation).astype(np.float32)}, None


def packed_megabytes(corpus: Corpus, pool: UtterancePool) -> float:
    """Size of the pool on the device, known before anything is read; of frames decoded and whole."""
    size = 0
    for m, lengths in pool.lengths.items():
        spec = corpus.modalities[m]
        itemsize = 1 if "pixels" in spec else np.dtype(spec["dtype"]).itemsize
        size += int(lengths.sum()) * spec["width"] * itemsize
    return size / 2**20
