"""By whose mean and scale the features of an utterance are standardised: the whole training part's, the speaker's, or
the session's. No JAX."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

CONSTANT = 1e-6  # a feature whose deviation is no larger is constant
FEWEST_STEPS = 2  # time steps whose mean and deviation are statistics of their own
TRANSDUCTIVE = {"own": "speakers", "session": "sessions"}  # kinds that look at features of the test part


@dataclasses.dataclass(frozen=True)
class NormGroups:
    """Who shares statistics. kind: train, own or session, as data.speaker_norm has it. names: of the speakers, or of
    the sessions. of: of every utterance of the pool, from 1; 0 where it names none: the whole training part."""

    kind: str
    names: tuple[str, ...]
    of: Int[np.ndarray, "rows"]

    def members(self, trains: Bool[np.ndarray, "folds rows"]) -> Bool[np.ndarray, "cells rows"]:
        """Of which utterances statistics are taken: for every fold's training part, then for every group; of `train`
        for every group in every fold, fold by fold."""
        each = self.of[None] == np.arange(1, 1 + len(self.names))[:, None]
        if self.kind == "train":
            each = (trains[:, None] & each[None]).reshape(-1, trains.shape[1])
        return np.concatenate([trains, each])

    def statistics(
        self,
        steps: Float[np.ndarray, "cells"],
        mean: Float[np.ndarray, "cells feat"],
        deviation: Float[np.ndarray, "cells feat"],
        folds: int,
    ) -> tuple[dict[str, np.ndarray], Bool[np.ndarray, "folds names"]]:
        """(mean and scale, Float32[folds, groups, feat], group 0 being the training part; which groups have their own).
        A group of fewer than FEWEST_STEPS time steps takes the training part's, and so does, in its scale, a feature
        that is constant in the group. The arguments are of the cells of `members`."""

        def by_fold(x: np.ndarray) -> np.ndarray:
            groups = x[folds:].reshape(-1, len(self.names), *x.shape[1:])
            return np.broadcast_to(groups, (folds, *groups.shape[1:]))

        whole = {"mean": mean[:folds, None], "scale": scale_of(deviation[:folds])[:, None]}
        enough = by_fold(steps) >= FEWEST_STEPS
        varies = enough[..., None] & (by_fold(deviation) > CONSTANT)
        own = {
            "mean": np.where(enough[..., None], by_fold(mean), whole["mean"]),
            "scale": np.where(varies, by_fold(deviation), whole["scale"]),
        }
        found = {name: np.concatenate([whole[name], own[name]], axis=1).astype(np.float32) for name in own}
        return found, enough


def norm_groups(corpus: Corpus, rows: np.ndarray, kind: str) -> NormGroups | None:
    """The groups of the corpus's utterances `rows`, which are the pool; None for data.speaker_norm=none. Raises
    UserError where nobody has a name."""
    if kind == "none":
        return None
    field = "session" if kind == "session" else "speaker"
    given = corpus.index[field][rows]
    names = np.unique(given[given != ""])
    if not len(names):
        raise UserError(
            f"--config.data.speaker_norm={kind}: corpus {corpus.manifest['name']!r} names no {field}; set it to none"
        )
    number = np.searchsorted(names, given) + 1
    return NormGroups(kind, tuple(names.tolist()), np.where(given == "", 0, number).astype(np.int32))


def scale_of(deviation: np.ndarray) -> np.ndarray:
    """The deviation; 1 for a constant feature, which so stays 0."""
    return np.where(deviation > CONSTANT, deviation, 1.0)


def describe_norm(
    groups: NormGroups, own: Bool[np.ndarray, "folds names"], tests: Sequence[np.ndarray], folds: Sequence[str]
) -> dict[str, Any]:
    """What metrics.json says. own: which groups have statistics of their own; tests: of every fold the pool's
    utterances that are tested. by_own: how many of these are standardised by statistics of their own group, of which
    those of `own` and `session` hold test utterances."""
    has = np.concatenate([np.zeros((len(own), 1), bool), own], axis=1)
    by_own = sum(int(here[groups.of[rows]].sum()) for here, rows in zip(has, tests, strict=True))
    total = sum(map(len, tests))
    if groups.kind == "train":
        words = f"every speaker by what trains of theirs; {by_own:,} of {total:,} test utterances are of such speakers"
    else:
        words = (
            f"{TRANSDUCTIVE[groups.kind]} by all of their own utterances (transductive): {by_own:,} of {total:,} test "
            "utterances by statistics that hold test utterances"
        )
    known = {fold: [name for name, is_own in zip(groups.names, here, strict=True) if is_own]
             for fold, here in zip(folds, own, strict=True)}  # fmt: skip
    return {"kind": groups.kind, "names": list(groups.names), "own": known, "by_own": by_own, "in_words": words}


def title_of(described: Mapping[str, Any] | None) -> str:
    """What follows a protocol's title beside a score; nothing where no test utterance counts in statistics."""
    if described is None or described["kind"] not in TRANSDUCTIVE or not described["by_own"]:
        return ""
    return f", {TRANSDUCTIVE[described['kind']]} normalised by their own test utterances (transductive)"
