"""DeepMSI-MER's folders are read: {split}/{video,text,audio}/{name}.pkl, one pickle an utterance and modality."""

import functools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.packs import safe_pickle
from data_prep.packs.rows import DEFAULT, Pack, PackRow, Reading, row_of, row_or_error, shape_in_words
from data_prep.packs.values import part as split_of
from data_prep.packs.values import vector
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError

# modality -> its folder, and the field of its pickles; a pickle of text holds the label, too.
FOLDERS = {"text": ("text", "text_feature"), "audio": ("audio", "audio_feature"), "visual": ("video", "images")}


def read_folder(folder: Path, reading: Reading = DEFAULT) -> Pack:
    parts = {split_of(folder, p.name): p for p in sorted(folder.iterdir()) if p.is_dir()}
    if not parts:
        raise UserError(f"{folder}: it must hold folders train, valid, test with text, audio and video in each")
    rows: list[PackRow] = []
    for part in sorted(parts, key=SPLITS.index):
        names = sorted({p.stem for kind, _ in FOLDERS.values() for p in (parts[part] / kind).glob("*.pkl")})
        turns: Counter[str] = Counter()
        for name in names:
            dialogue = re.sub(r"_[^_]+$", "", name)  # Ses01F_impro01_F000, dia0_utt3
            session = name[:5] if re.match(r"Ses\d\d[FM]_", name) else ""
            said = {
                "id": name,
                "split": part,
                "dialogue": dialogue if session else f"{part}_{dialogue}",  # MELD's numbers start again in every part
                "turn": turns[dialogue],
                "speaker": session + name.rsplit("_", 1)[1][0] if session else "",
                "session": session,
            }
            rows.append(row_or_error(name, part, functools.partial(_row, parts[part], name, said, reading), reading))
            turns[dialogue] += 1
    if len({row.id for row in rows}) < len(rows):
        for row in rows:
            row.id = f"{row.split}_{row.id}"
    return Pack("deepmsi", rows, [], {})


def _row(part: Path, name: str, said: Mapping[str, Any], reading: Reading) -> PackRow:
    """Returns an utterance, with the label and the features of whichever of its pickles are there."""
    label, features, where = None, {}, str(part / "text" / f"{name}.pkl")
    for modality, (kind, field) in FOLDERS.items():
        path = part / kind / f"{name}.pkl"
        if not path.is_file():
            continue
        found = safe_pickle.load(path)
        if not isinstance(found, Mapping) or field not in found:
            raise UserError(f"{path}: {shape_in_words(found)} has no {field!r}")
        features[modality] = vector(str(path), field, found[field])
        if label is None and found.get("label") is not None:
            label, where = found["label"], str(path)
    return row_of(where, {**said, "label": label}, features, reading)
