"""predictions.jsonl: one line for each replica and utterance of its test part, written and read. The task says what a
line holds of what is predicted. No JAX."""

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.evaluation.group_scores import groupings
from mer_jax.tasks import Task

TEXT_FIELDS = ("replica", "id", "dialogue")


def format_predictions(
    task: Task,
    corpus: Corpus,
    pool_rows: np.ndarray,
    entries: Iterable[tuple[str, np.ndarray, np.ndarray]],
    targets: Mapping[str, np.ndarray],
    sentences: Sequence[str],
) -> str:
    """The text of predictions.jsonl.

    pool_rows: the corpus's row of every utterance of the pool; targets: what the task makes of its
    targets; sentences: what is said in it. entries: of every replica
    its name, the positions of its utterances in the pool, and what is predicted of them. `turn` stands where a dialogue
    is named, `speaker` where one is, `session` where one is and the corpus has several, and `groups` where one of the
    corpus's own is known.
    """
    index, lines, found = corpus.index, [], groupings(corpus)
    for name, positions, predicted in entries:
        for position, row, values in zip(positions.tolist(), pool_rows[positions].tolist(), predicted, strict=True):
            dialogue = str(index["dialogue"][row])
            of = {group: str(column[row]) for group, column in found.items() if column[row]}
            single: dict[str, str] = {group: of.pop(group) for group in ("speaker", "session") if group in of}
            line: dict[str, Any] = {
                "replica": name,
                "id": str(index["id"][row]),
                "dialogue": dialogue,
                **({"turn": int(index["turn"][row])} if dialogue else {}),
                **single,
                **({"groups": of} if of else {}),
                **task.describe_target(targets, position),
                **task.describe_prediction(values, digits=6),
                "sentence": sentences[position],
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What some replicas predict of their test parts.

    One entry for each utterance: ids (sorted), sentences ("" where unknown), labels (what the task reads of its
    targets), dialogues, the task's targets, and groups, by the name of each grouping ("" where unknown). One entry for
    each line of the file: replica, a position in `names`; utterance, a position in `ids`; decisions; predicted,
    [lines, width]."""

    names: tuple[str, ...]
    ids: tuple[str, ...]
    sentences: tuple[str, ...]
    labels: tuple[Any, ...]
    dialogues: np.ndarray
    targets: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    replica: np.ndarray
    utterance: np.ndarray
    decisions: np.ndarray
    predicted: np.ndarray

    def targets_of(self, utterances: np.ndarray) -> dict[str, np.ndarray]:
        """The targets of some utterances, by their positions in `ids`."""
        return {name: values[utterances] for name, values in self.targets.items()}

    def mean(self) -> np.ndarray:
        """What is predicted of every utterance, in the mean over the replicas that tested it, [utterances, width]."""
        count = len(self.ids)
        totals = [np.bincount(self.utterance, column, count) for column in self.predicted.T]
        return np.stack(totals, 1) / np.bincount(self.utterance, minlength=count)[:, None]


def parse_predictions(
    path: epath.PathLike,
    content: Iterable[tuple[int, bytes]],
    task: Task,
    names: Sequence[str],
    known: Collection[str],
) -> Predictions:
    """The lines of the replicas `names`; known: all that metrics.json has. content: the numbered lines of the file
    `path`, as `read_lines` gives them. Raises UserError, naming the line that is wrong."""
    number_of = {name: i for i, name in enumerate(names)}
    utterances: dict[str, tuple[Any, ...]] = {}
    seen: set[tuple[str, str]] = set()
    lines: list[tuple[int, str, Any, Sequence[float]]] = []
    for number, text in content:
        try:
            line, label, decision, predicted = _parse(text, task, known)
            key = line["replica"], line["id"]
            if key in seen:
                raise ValueError(f"utterance {line['id']!r} occurs a second time for this replica")
            sentence = str(line.get("sentence") or "")
            about = label, line["dialogue"], sentence, line.get("turn"), _groups_of(line)
            if utterances.setdefault(line["id"], about) != about:
                raise ValueError(f"another line says something else of utterance {line['id']!r}")
        except ValueError as error:
            raise damaged(path, number, error) from None
        seen.add(key)
        if line["replica"] in number_of:
            lines.append((number_of[line["replica"]], line["id"], decision, predicted))
    ids = tuple(sorted({id for _, id, _, _ in lines}))
    position = {id: i for i, id in enumerate(ids)}
    labels = tuple(utterances[id][0] for id in ids)
    return Predictions(
        names=tuple(names),
        ids=ids,
        sentences=tuple(utterances[id][2] for id in ids),
        labels=labels,
        dialogues=np.array([utterances[id][1] for id in ids], np.str_),
        targets=task.read_targets(labels),
        groups=_columns([utterances[id][4] for id in ids]),
        replica=np.array([replica for replica, _, _, _ in lines], np.int64),
        utterance=np.array([position[id] for _, id, _, _ in lines], np.int64),
        decisions=np.array([decision for _, _, decision, _ in lines]),
        predicted=np.array([predicted for _, _, _, predicted in lines], np.float64).reshape(len(lines), task.width),
    )


def _parse(content: bytes, task: Task, replicas: Collection[str]) -> tuple[dict[str, Any], Any, Any, Sequence[float]]:
    """A line, its targets, the decision and what is predicted; raises ValueError saying what is wrong with it."""
    line = json.loads(content)
    for field in TEXT_FIELDS:
        if not isinstance(line, dict) or not isinstance(line.get(field), str):
            raise ValueError(f"it has no text field {field!r}")
    if not isinstance(line.get("turn", 0), int) or isinstance(line.get("turn"), bool):  # before 0.11 there was none
        raise ValueError("its field 'turn' is not an integer")
    for field in ("speaker", "session"):  # the latter since 0.13
        if not isinstance(line.get(field, ""), str):
            raise ValueError(f"its field {field!r} is not a text")
    groups = line.get("groups", {})
    if not isinstance(groups, dict) or not all(isinstance(group, str) for group in groups.values()):
        raise ValueError("its field 'groups' does not hold a text for each name")
    if line["replica"] not in replicas:
        raise ValueError(f"metrics.json has no replica {line['replica']!r}")
    return line, task.read_target(line), *task.read_prediction(line)


def _groups_of(line: Mapping[str, Any]) -> dict[str, str]:
    """The groups that a line names, by grouping."""
    return {name: line[name] for name in ("speaker", "session") if line.get(name)} | line.get("groups", {})


def _columns(found: Sequence[Mapping[str, str]]) -> dict[str, np.ndarray]:
    """The groups of each utterance as columns."""
    names = dict.fromkeys(name for one in found for name in one)
    order = sorted(names, key=lambda name: (name not in ("speaker", "session"), name != "speaker"))
    return {name: np.array([one.get(name, "") for one in found], np.str_) for name in order}


def read_lines(path: epath.PathLike) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, and their numbers from 1."""
    yield from enumerate(epath.Path(path).read_bytes().splitlines(), 1)


def damaged(path: epath.PathLike, number: int, error: Exception) -> UserError:
    return UserError(f"{path}, line {number} is damaged: {error}. Restore the file.")
