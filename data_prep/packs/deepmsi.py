"""DeepMSI-MER's folders are read: {split}/{video,text,audio}/{name}.pkl, one pickle an utterance and modality."""

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
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
    names = {
        part: sorted({p.stem for kind, _ in FOLDERS.values() for p in (parts[part] / kind).glob("*.pkl")})
        for part in sorted(parts, key=SPLITS.index)
    }
    turns, notes = _turns(names)
    rows: list[PackRow] = []
    for part, of_part in names.items():
        for name in of_part:
            session = _session(name)
            said = {
                "id": name,
                "split": part,
                "dialogue": _dialogue(part, name),
                "turn": turns[part, name],
                "speaker": session + name.rsplit("_", 1)[1][0] if session else "",
                "session": session,
            }
            rows.append(row_or_error(name, part, functools.partial(_row, parts[part], name, said, reading), reading))
    if len({row.id for row in rows}) < len(rows):
        for row in rows:
            row.id = f"{row.split}_{row.id}"
    return Pack("deepmsi", rows, notes, {})


def _session(name: str) -> str:
    return name[:5] if re.match(r"Ses\d\d[FM]_", name) else ""


def _dialogue(part: str, name: str) -> str:
    """Returns the dialogue of Ses01F_impro01_F000 or dia0_utt3; MELD's numbers start again in every part."""
    dialogue = re.sub(r"_[^_]+$", "", name)
    return dialogue if _session(name) else f"{part}_{dialogue}"


def _turns(names: Mapping[str, Sequence[str]]) -> tuple[dict[tuple[str, str], int], list[str]]:
    """Returns the turn of every (part, name), whose dialogue may be in several parts, and a note on their order."""
    turns: dict[tuple[str, str], int] = {}
    count: Counter[str] = Counter()
    for name, part in sorted(((name, part) for part, of in names.items() for name in of), key=_by_number):
        dialogue = _dialogue(part, name)
        turns[part, name] = count[dialogue]
        count[dialogue] += 1
    if max(count.values(), default=0) < 2:
        return turns, []
    return turns, [
        "the folder does not say which turn an utterance is: those of a dialogue are numbered by the numbers that end "
        "their names, and where two speakers have the same number, by name"
    ]


def _by_number(name_and_part: tuple[str, str]) -> tuple[int, str, str]:
    name, part = name_and_part
    number = re.search(r"[0-9]{1,18}$", name)
    return int(number[0]) if number else -1, name, part


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
