"""Dialogues as a model hears them: in the order of their turns, in windows if they are long, packed into batches whose
shapes are the same in a whole run."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from mer_jax.data.corpus import Corpus

CONTEXTS = ("none", "past", "both")
MAX_GROUPS = 4  # groups of one padded length in a batch: each of them is a copy of the encoders in the program
CUTS = 64  # places between which the groups' ends are chosen
WORTH = 0.05  # share of the time steps that one more group must save
ROWS = 8  # groups have a multiple of so many rows, on however few devices
STEPS = 4  # padded lengths are a multiple of this
PaddedLengths = tuple[tuple[str, int], ...]  # padded time steps of each modality; hashable, so static under jit


class Layout(NamedTuple):
    """The shapes of a batch of dialogues, or of each microbatch. groups: rows and padded lengths of each; lines, turns:
    the grid of `batch.Turns`."""

    groups: tuple[tuple[int, PaddedLengths], ...]
    lines: int
    turns: int

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.groups)


BatchShape = PaddedLengths | Layout  # of single utterances, or of dialogues


class Rows(NamedTuple):
    """The rows of a batch of dialogues, arrays [batch] each. rows: positions in the pool, -1 where none is; counts:
    whether a row is learnt or scored here, and not only heard; the others: see `batch.Turns`."""

    rows: Any
    counts: Any
    place: Any
    dialogue: Any
    speaker: Any

    @classmethod
    def empty(cls, size: int) -> "Rows":
        nothing = np.full(size, -1, np.int32)
        zeros = np.zeros(size, np.int32)
        return cls(nothing, np.zeros(size, bool), nothing.copy(), zeros, zeros.copy())


class Window(NamedTuple):
    """A dialogue, or as much of it as is read at once. rows: positions in the pool, in the order of the turns; counts:
    which of them are learnt or scored in this window."""

    rows: np.ndarray
    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dialogues:
    """The dialogues of a pool. rows: of each, positions in the pool in the order of the turns. speaker: of every
    utterance of the pool, as `batch.Turns` has it. context: what a turn hears, past or both. max_turns: turns of a
    window."""

    rows: tuple[np.ndarray, ...]
    speaker: np.ndarray
    context: str
    max_turns: int

    def windows(self, wanted: np.ndarray) -> list[Window]:
        """The windows in which each of the `wanted` utterances (Bool[pool]) counts once.

        A dialogue of more than max_turns turns is read in windows that begin half of that apart; the last one of `both`
        ends where the dialogue does. A turn counts where it hears most: of the past in the first window that holds it,
        else in the one whose ends are farthest from it."""
        found = []
        for rows in self.rows:
            if not wanted[rows].any():
                continue
            for start, end, own in self._parts(len(rows)):
                counts = wanted[rows[start:end]] & own
                if counts.any():
                    found.append(Window(rows[start:end], counts))
        return found

    def _parts(self, turns: int) -> Iterable[tuple[int, int, np.ndarray]]:
        size = self.max_turns
        if turns <= size:
            return [(0, turns, np.ones(turns, bool))]
        half, last = max(1, size // 2), turns - size
        if self.context == "past":
            last += -last % half  # how much a turn hears must not tell how many come after it
        starts = np.array([*range(0, turns - size, half), last])
        at = np.arange(turns)
        if self.context == "past":
            own = np.searchsorted(starts + size, at, side="right")
        else:
            before = np.where(starts[:, None] == 0, turns, at - starts[:, None])
            after = np.where(starts[:, None] + size == turns, turns, starts[:, None] + size - 1 - at)
            inside = (at >= starts[:, None]) & (at < starts[:, None] + size)
            room = np.where(inside, np.minimum(before, after), -1)
            own = (np.maximum.accumulate(room) < room.max(0)).sum(0)  # the first window with the most room
        return [(s, s + size, own[s : s + size] == w) for w, s in enumerate(starts.tolist())]

    def longer_than_window(self) -> int:
        """How many dialogues are read in several windows."""
        return sum(len(rows) > self.max_turns for rows in self.rows)


def dialogues_of(corpus: Corpus, rows: np.ndarray, silent: np.ndarray, context: str, max_turns: int) -> Dialogues:
    """The dialogues of the corpus's utterances `rows`, which are the pool. silent: Bool[rows], of which the run's
    modalities hold nothing. An utterance that names no dialogue is one of its own, and so is a silent one: nobody hears
    it, as in predictions."""
    dialogue, turn, name = (corpus.index[field][rows] for field in ("dialogue", "turn", "speaker"))
    number = np.unique(dialogue, return_inverse=True)[1] if len(rows) else np.zeros(0, int)
    alone = (dialogue == "") | silent
    number[alone] = len(rows) + np.arange(int(alone.sum()))
    order = np.lexsort((turn, number))
    members = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    speaker = np.zeros(len(rows), np.int32)
    for one in members:
        speaker[one] = numbered(name[one].tolist())
    return Dialogues(tuple(members), speaker, context, max_turns)


def numbered(speakers: Iterable[str]) -> list[int]:
    """Speakers by number, from 1 in the order of appearance; 0 for those that have no name."""
    numbers: dict[str, int] = {"": 0}
    return [numbers.setdefault(name, len(numbers)) for name in speakers]


def deal(sizes: np.ndarray, bins: int) -> list[np.ndarray]:
    """Shares out things of these sizes among so many bins, alike many (or one fewer) in each and of nearly the same
    size in sum. Every round gives each bin one, the largest to the lightest."""
    order, load = np.argsort(-sizes, kind="stable"), np.zeros(bins, np.int64)
    found: list[list[int]] = [[] for _ in range(bins)]
    for first in range(0, len(order), bins):
        lightest = np.argsort(load, kind="stable")
        for item, to in zip(order[first : first + bins].tolist(), lightest.tolist(), strict=False):
            found[to].append(item)
            load[to] += sizes[item]
    return [np.array(sorted(items), np.int64) for items in found]


def lines_of(sizes: Sequence[int], turns: int) -> list[list[int]]:
    """Packs dialogues of these sizes into lines of so many turns, by first fit, the longest first."""
    lines: list[list[int]] = []
    free: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        at = next((k for k, room in enumerate(free) if room >= sizes[i]), len(free))
        if at == len(free):
            lines.append([])
            free.append(turns)
        lines[at].append(i)
        free[at] -= sizes[i]
    return lines


class Shapes:
    """Finds the one layout that several batches fit into.

    lengths[m]: time steps of every utterance of the pool. quantum: the rows of a group are a multiple of it."""

    def __init__(self, lengths: Mapping[str, np.ndarray], quantum: int = 1):
        self.lengths, self.quantum = lengths, math.lcm(ROWS, quantum)
        self.total = sum(lengths.values(), np.zeros(len(next(iter(lengths.values()))), np.int64))

    def sorted(self, rows: np.ndarray) -> np.ndarray:
        """Which rows of a batch come first: the shortest."""
        return np.argsort(self.total[rows], kind="stable")

    def layout(self, batches: Iterable[Sequence[Window]], turns: int) -> Layout:
        """turns: of the longest window."""
        lines, envelope = 1, np.zeros((len(self.lengths), self.quantum), np.int64)
        for windows in batches:
            if not windows:
                continue
            lines = max(lines, len(lines_of([len(window.rows) for window in windows], turns)))
            rows = np.concatenate([window.rows for window in windows])
            rows = rows[self.sorted(rows)]
            if (more := len(rows) - envelope.shape[1]) > 0:
                envelope = np.pad(envelope, ((0, 0), (more + -len(rows) % self.quantum, 0)))
            here = np.stack([lengths[rows] for lengths in self.lengths.values()])
            envelope[:, -len(rows) :] = np.maximum(envelope[:, -len(rows) :], here)
        return Layout(self._groups(envelope), lines, turns)

    def _groups(self, envelope: np.ndarray) -> tuple[tuple[int, PaddedLengths], ...]:
        """Cuts the rows, whose lengths are at most `envelope` [modalities, rows], where the padding becomes least."""
        rows = envelope.shape[1]
        ends = self.quantum * np.unique(np.linspace(0, rows // self.quantum, 1 + CUTS).round().astype(int))
        longest = np.stack([envelope[:, a:b].max(1) for a, b in itertools.pairwise(ends)], 1)
        most = np.array([lengths.max(initial=1) for lengths in self.lengths.values()])
        longest = np.minimum(-(-longest // STEPS) * STEPS, most[:, None]).clip(1)

        @functools.cache
        def padded(a: int, b: int) -> tuple[int, ...]:
            return tuple(longest[:, a:b].max(1).tolist())

        def cut(count: int) -> tuple[int, list[int]]:
            """The least number of padded time steps in so many groups, and where these begin and end."""
            best: dict[int, tuple[int, list[int]]] = {0: (0, [0])}
            for _ in range(count):
                steps = {
                    b: min(
                        (cost + int(ends[b] - ends[a]) * sum(padded(a, b)), [*cuts, b])
                        for a, (cost, cuts) in best.items()
                        if a < b
                    )
                    for b in range(1, len(ends))
                    if min(best) < b
                }
                best = steps
            return best[len(ends) - 1]

        found = cut(1)
        for count in range(2, 1 + min(MAX_GROUPS, len(ends) - 1)):
            better = cut(count)
            if better[0] > (1 - WORTH) * found[0]:
                break
            found = better
        names = tuple(self.lengths)
        return tuple(
            (int(ends[b] - ends[a]), tuple(zip(names, padded(a, b), strict=True)))
            for a, b in itertools.pairwise(found[1])
        )

    def arrange(self, windows: Sequence[Window], speaker: np.ndarray, layout: Layout) -> Rows:
        """The rows of a batch of these windows; what fills it up comes first."""
        found = Rows.empty(layout.rows)
        if not windows:
            return found
        packed, place = [], []
        for line, members in enumerate(lines_of([len(window.rows) for window in windows], layout.turns)):
            packed += [windows[i] for i in members]
            first = line * layout.turns
            place.append(np.arange(first, first + sum(len(windows[i].rows) for i in members)))
        dialogue = np.repeat(np.arange(len(packed)) + 1, [len(window.rows) for window in packed])
        rows, counts = (np.concatenate([getattr(w, name) for w in packed]) for name in ("rows", "counts"))
        order = self.sorted(rows)
        values = (rows, counts, np.concatenate(place), dialogue, speaker[rows])
        for out, value in zip(found, values, strict=True):
            out[-len(rows) :] = value[order]
        return found


def interleaved(parts: Sequence[Rows], layout: Layout) -> Rows:
    """The rows of several microbatches as those of one batch: within each group row j belongs to microbatch j % k, as
    `step.microbatched` takes them apart."""
    ends = np.cumsum([rows for rows, _ in layout.groups])[:-1]

    def join(*arrays: np.ndarray) -> np.ndarray:
        groups = zip(*(np.split(x, ends) for x in arrays), strict=True)
        return np.concatenate([np.stack(group, 1).ravel() for group in groups])

    return Rows(*(join(*arrays) for arrays in zip(*parts, strict=True)))


@dataclasses.dataclass(frozen=True)
class ConversationOrder:
    """Windows of dialogues in training order: `order[step]` is the `Rows` of a batch, a pure function of (seed, step).

    An endless stream, reshuffled every epoch, in which each window occurs once an epoch. The windows of `window`
    consecutive batches are shared out among these so that all have nearly the same number of utterances. per_batch:
    windows of a batch, a multiple of `microbatches`. steps: of the whole training, whose batches all have one layout.
    """

    dialogues: Dialogues
    windows: Sequence[Window]
    shapes: Shapes
    per_batch: int
    seed: int
    window: int
    microbatches: int
    steps: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.windows) // self.per_batch)

    def __getitem__(self, step: int) -> Rows:
        parts = self._parts(step)
        arranged = [self.shapes.arrange(part, self.dialogues.speaker, self.layout) for part in parts]
        return interleaved(arranged, self.layout)

    def _parts(self, step: int) -> list[list[Window]]:
        """The windows of every microbatch."""
        dealt = self._dealt(step // self.window)[step % self.window]
        return [[self.windows[i] for i in part] for part in dealt]

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(window.rows) for window in self.windows])

    @functools.cached_property
    def _shuffled(self) -> grain.MapDataset:
        shuffled = grain.MapDataset.range(len(self.windows)).seed(self.seed).shuffle().repeat()
        return shuffled.batch(self.window * self.per_batch)

    @functools.cached_property
    def _dealt(self) -> Callable[[int], list[list[np.ndarray]]]:
        @functools.lru_cache(maxsize=4)
        def dealt(k: int) -> list[list[np.ndarray]]:
            members = np.asarray(self._shuffled[k])
            count = self.window * self.microbatches
            bins = [members[share] for share in deal(self._sizes[members], count)]
            order = np.random.default_rng([self.seed, k]).permutation(count).reshape(self.window, self.microbatches)
            return [[bins[i] for i in batch] for batch in order.tolist()]

        return dealt

    @functools.cached_property
    def layout(self) -> Layout:
        """Of every microbatch of the training."""
        parts = (part for step in range(self.steps) for part in self._parts(step))
        return self.shapes.layout(parts, int(self._sizes.max()))

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def evaluation_batches(
    dialogues: Dialogues, parts: Sequence[np.ndarray], shapes: Shapes, batch_size: int
) -> tuple[list[Rows], Layout]:
    """Every utterance of every part (Bool[pool]) counts once; the batches of about batch_size utterances, Rows of
    [parts, batch], and their layout."""
    windows = [dialogues.windows(part) for part in parts]
    sizes = [np.array([len(window.rows) for window in some]) for some in windows]
    steps = max(-(-int(size.sum()) // batch_size) for size in sizes)
    steps = max(1, min(steps, max(map(len, windows))))
    dealt = [
        [[some[i] for i in share] for share in deal(size, steps)] for some, size in zip(windows, sizes, strict=True)
    ]
    longest = max(int(size.max()) for size in sizes)
    layout = shapes.layout((batch for batches in dealt for batch in batches), longest)
    found = []
    for step in range(steps):
        each = [shapes.arrange(batches[step], dialogues.speaker, layout) for batches in dealt]
        found.append(Rows(*(np.stack(arrays) for arrays in zip(*each, strict=True))))
    return found, layout
