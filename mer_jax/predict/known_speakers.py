"""Speakers whose statistics a run with data.speaker_norm has kept, for utterances that come later."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.speaker_norm import TRANSDUCTIVE
from mer_jax.errors import UserError


class KnownSpeakers:
    """described: what metrics.json says of data.speaker_norm, None where it is none."""

    def __init__(self, described: Mapping[str, Any] | None):
        self._own = None if described is None else {fold: set(names) for fold, names in described["own"].items()}
        names = () if described is None else described["names"]
        self._number = {name: i for i, name in enumerate(names, 1)}

    def groups(self, speakers: Sequence[str], rows: int) -> np.ndarray | None:
        """`Batch.norm_group` of a batch of so many rows, whose first are of these speakers."""
        if self._own is None:
            return None
        found = np.zeros(rows, np.int32)
        found[: len(speakers)] = [self._number.get(speaker, 0) for speaker in speakers]
        return found

    def note(self, speaker: str, folds: Sequence[str]) -> str:
        """What a person should know of how the speaker's features are standardised by the models of these folds."""
        if self._own is None or not folds or all(speaker in self._own[fold] for fold in folds):
            return ""
        who = f"speaker {speaker!r} did not train" if speaker else "no speaker is named"
        return f"standardised by the whole training part: {who}"


def refuse_unknown_statistics(run: str, described: Mapping[str, Any] | None) -> None:
    """Raises UserError if features were standardised by statistics that new utterances do not have."""
    if described is not None and described["kind"] in TRANSDUCTIVE:
        raise UserError(
            f"{run} standardised {TRANSDUCTIVE[described['kind']]} by all of their own utterances "
            f"(data.speaker_norm={described['kind']}), and those of new ones are not known; train with "
            "data.speaker_norm=train or none for models that predict. --mode=eval scores this run again"
        )
