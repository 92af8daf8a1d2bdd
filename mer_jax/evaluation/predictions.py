"""TODO: say what lives here."""

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from mer_jax.data.corpus import Corpus
from mer_jax.data.pool import UtterancePool
from mer_jax.errors import UserError
from mer_jax.runtime.run_log import write_text
from mer_jax.tasks import Task


def write_predictions(
    path: epath.Path,
    task: Task,
    corpus: Corpus,
    pool: UtterancePool,
    entries: Iterable[tuple[str, np.ndarray, np.ndarray]],
    sentences: Sequence[str],
) -> None:
    """One JSON line per replica and utterance: replica, id, dialogue, label, what the task says of it, sentence.

    entries: of every replica its name, the positions of its utterances in the pool, and what is predicted of them.
    """
    index, lines = corpus.index, []
    for name, rows, predicted in entries:
        for at, row, values in zip(rows.tolist(), pool.rows[rows].tolist(), predicted, strict=True):
            line = {
                "replica": name,
                "id": str(index["id"][row]),
                "dialogue": str(index["dialogue"][row]),
                "label": str(index["label"][row]),
                **task.describe_prediction(values, digits=6),
                "sentence": sentences[at],
            }
            lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def read_lines(path: epath.PathLike) -> Iterator[tuple[int, bytes]]:
    yield from enumerate(epath.Path(path).read_bytes().splitlines(), 1)


def damaged(path: epath.PathLike, number: int, error: Exception) -> UserError:
    return UserError(f"{path}, line {number} is damaged: {error}. Restore the file.")


def prediction(line: bytes, labels: Sequence[str], replicas: Collection[str]) -> dict[str, Any]:
    """A line of predictions.jsonl, with its probabilities in the order of the labels; raises ValueError saying what is wrong
    with it. replicas: those that metrics.json has."""
    row = json.loads(line)
    for field in ("replica", "id", "dialogue", "label", "prediction"):
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            raise ValueError(f"it has no text field {field!r}")
    if row["replica"] not in replicas:
        raise ValueError(f"metrics.json has no replica {row['replica']!r}")
    for field in ("label", "prediction"):
        if row[field] not in labels:
            raise ValueError(f"{field} {row[field]!r} is none of {', '.join(labels)}")
    found = row.get("probabilities")
    if not isinstance(found, dict) or found.keys() != set(labels):
        raise ValueError("its probabilities are not one per label")
    values = [found[name] for name in labels]
    if not all(isinstance(v, int | float) and v >= 0 for v in values) or not math.isclose(sum(values), 1, abs_tol=1e-3):
        raise ValueError("its probabilities do not sum to 1")
    return row | {"probabilities": values}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What some replicas said of their test parts. One entry for each utterance: ids, sorted, sentences ("" where unknown),
    dialogues, gold. One for each line: replica, a position in `names`; utterance, a position in `ids`; predicted; probabilities."""

    names: tuple[str, ...]
    ids: tuple[str, ...]
    sentences: tuple[str, ...]
    dialogues: np.ndarray
    gold: np.ndarray
    replica: np.ndarray
    utterance: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


def read_predictions(
    path: epath.PathLike, labels: Sequence[str], names: Sequence[str], known: Collection[str]
) -> Predictions:
    """The lines of the replicas `names`; known: all that metrics.json has. Raises UserError, naming the line that is wrong."""
    position, number_of = {label: i for i, label in enumerate(labels)}, {name: i for i, name in enumerate(names)}
    about: dict[str, tuple[str, str, str]] = {}
    seen: set[tuple[int, str]] = set()
    rows: list[tuple[int, str, int]] = []
    probabilities: list[list[float]] = []
    for number, line in read_lines(path):
        try:
            row = prediction(line, labels, known)
            of = row["label"], row["dialogue"], str(row.get("sentence") or "")
            if about.setdefault(row["id"], of) != of:
                raise ValueError(f"another line says something else of utterance {row['id']!r}")
            if row["replica"] not in number_of:
                continue
            key = number_of[row["replica"]], row["id"]
            if key in seen:
                raise ValueError(f"utterance {row['id']!r} occurs a second time for this replica")
        except ValueError as error:
            raise damaged(path, number, error) from None
        seen.add(key)
        rows.append((*key, position[row["prediction"]]))
        probabilities.append(row["probabilities"])
    ids = sorted({id for _, id, _ in rows})
    place = {id: i for i, id in enumerate(ids)}
    return Predictions(
        names=tuple(names),
        ids=tuple(ids),
        sentences=tuple(about[id][2] for id in ids),
        dialogues=np.array([about[id][1] for id in ids]),
        gold=np.array([position[about[id][0]] for id in ids], np.int64),
        replica=np.array([replica for replica, _, _ in rows], np.int64),
        utterance=np.array([place[id] for _, id, _ in rows], np.int64),
        predicted=np.array([predicted for _, _, predicted in rows], np.int64),
        probabilities=np.array(probabilities, np.float64).reshape(len(rows), len(labels)),
    )
