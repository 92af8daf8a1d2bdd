"""What a pass over a corpus folder shows: classes, lengths, features, leakage between splits; each with what to do."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep import known
from data_prep.audit.floor import INSTALL, ITERATIONS, Floor
from data_prep.audit.reading import HUGE, Reading, Stream, leaked, spread
from mer_jax.data.corpus import SPLITS, Corpus
from mer_jax.data.leakage import KINDS, PAIRS, leakage
from mer_jax.data.protocols import Fold
from mer_jax.errors import UserError

LEVELS = ("problem", "note", "ok")
SHORT, LONG = 0.1, 30.0  # seconds; MELD has clips of 0.06 s and, where the cut went wrong, of 305 s
FAR = 100  # standard deviations
FEW = 0.01  # share of the test utterances that may be leaked and it is only a note: MELD's own tables have 3 of 2,610
SOME_WORDS = 5  # a sentence of so many words is hardly repeated by accident
ADVICE = {
    "dialogue": "split by dialogue: --config.data.protocol=kfold_dialogue:5, or loso; utterances of one dialogue are alike",
    "speaker": "the figure is not for unknown speakers; --config.data.protocol=speaker or loso measures that",
    "session": "the figure is not for unknown recordings; --config.data.protocol=loso measures that",
    "sentence": "say so beside every figure with text; scripted corpora repeat their lines",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """level: ok, note or problem; name: what was looked at; about: the modality it is said of, "" if of none."""

    level: str
    name: str
    about: str
    text: str
    do: str = ""


@dataclasses.dataclass(frozen=True)
class Audit:
    """classes: utterances by split and class. steps: time steps by modality, of the utterances that have it. seconds: of
    the utterances with start and end."""

    name: str
    path: str
    manifest_sha256: str
    utterances: int
    findings: tuple[Finding, ...]
    classes: Mapping[str, Mapping[str, int]]
    steps: Mapping[str, np.ndarray]
    seconds: np.ndarray
    floors: tuple[Floor, ...]
    method: str  # how the floors were measured

    def of(self, level: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]


def number(audit: Audit, level: str) -> str:
    """As in "2 notes"."""
    n = len(audit.of(level))
    return f"{n} {level}" + "s" * (level != "ok" and n != 1)


def _of(n: int, whole: int) -> str:
    return f"{n:,} of {whole:,} ({100 * n / max(whole, 1):.1f} %)"


def _named(corpus: Corpus, rows: np.ndarray) -> str:
    names = corpus.index["id"][rows[:3]].tolist()
    return ", ".join(names) + (f" and {len(rows) - 3:,} more" if len(rows) > 3 else "")


def _or_ok(findings: Sequence[Finding], name: str, text: str) -> Sequence[Finding]:
    return findings or [Finding("ok", name, "", text)]


def classes(corpus: Corpus, extra_happy: set[str] | None) -> Iterator[Finding]:
    """Utterances per split and class, beside those of the known corpora."""
    counts = {split: s["classes"] for split, s in corpus.manifest["splits"].items()}
    sizes = ", ".join(f"{split} {sum(of.values()):,}" for split, of in counts.items())
    if missing := [split for split in SPLITS if split not in counts]:
        yield Finding("note", "splits", "", f"{sizes}; no {' and no '.join(missing)}",
                      "draw the parts with --config.data.protocol, as with kfold_dialogue:5")  # fmt: skip
    else:
        yield Finding("ok", "splits", "", sizes)
    gaps = [(split, [name for name, n in of.items() if not n]) for split, of in counts.items()]
    found = [
        Finding("problem" if split == "train" else "note", "empty class", "", f"{split} has no utterance of {', '.join(names)}",
                "leave the class out, or split anew: what train lacks is never learned")
        for split, names in gaps if names
    ]  # fmt: skip
    total = [sum(of[name] for of in counts.values()) for name in corpus.labels]
    each = ", ".join(f"{name} {n:,}" for name, n in zip(corpus.labels, total, strict=True))
    yield from _or_ok(found, "empty class", f"every split has every class; together: {each}")
    yield from _compared(corpus, counts, total)
    if extra_happy is not None:
        there = len(extra_happy & set(corpus.index["id"].tolist()))
        level = "ok" if there in (0, len(extra_happy)) else "note"
        yield Finding(level, "extra happy", "", f"{there} of the {len(extra_happy)} listed utterances are in the corpus",
                      "" if level == "ok" else "take all of them or none: figures are of one set or the other")  # fmt: skip


def _names(corpus: Corpus) -> tuple[str, ...]:
    """The corpus' labels as the known corpora call them; () if they are of none."""
    for one in known.CORPORA:
        short = {word: name for name, word in one.words.items()} | {name: name for name in one.words}
        for labels in (corpus.labels, corpus.manifest.get("label_words") or ()):
            names = tuple(short.get(str(label).lower(), "") for label in labels)
            if set(names) == set(one.words) and len(names) == len(one.words):
                return names
    return ()


def _compared(corpus: Corpus, counts: Mapping[str, Mapping[str, int]], total: Sequence[int]) -> Iterator[Finding]:
    names, near = _names(corpus), known.fitting(total)
    if not names:
        if near:
            text = (
                f"the labels {', '.join(corpus.labels)} are no known names; the counts are those of {near[0].corpus.name} "
                f"({near[0].set}) in the order {', '.join(near[0].order)}"
            )
            yield Finding("note", "known corpus", "", text, "import it again with these names, if it is that corpus")
        else:
            yield Finding(
                "ok", "known corpus", "", "neither classes nor counts of a known one: nothing to compare with"
            )
        return
    parts = {split: [of[name] for name in corpus.labels] for split, of in counts.items()}
    for part, of_part in {"all splits": total, **parts}.items():
        try:
            known.check_order(f"{corpus.path}, {part}", names, of_part)
        except UserError as error:
            yield Finding(
                "problem", "label order", "", str(error), "labels are swapped: import the source again with that order"
            )
            return
    if fits := [fit for fit in near if set(fit.order) == set(names)]:
        yield Finding("ok", "label order", "", f"no other order of {', '.join(corpus.labels)} fits the counts better")
        yield _fitting(fits[0], names, parts, total)
        return
    like = next(one for one in known.CORPORA if set(one.words) == set(names))
    sets = "; ".join(f"{name} {sum(n):,}" for name, n in like.sets.items())
    text = f"the classes of {like.name}, but other counts than any set in use has ({sets})"
    if like.name.split("-")[0] in corpus.manifest["name"].lower():
        yield Finding("note", "known corpus", "", text, "find out which utterances are missing or added")
    else:
        yield Finding("ok", "known corpus", "", text)


def _fitting(fit: known.Fit, names: Sequence[str], parts: Mapping[str, Sequence[int]], total: Sequence[int]) -> Finding:
    """In how far the counts are those of the set."""
    differing = _differences("", names, total, fit, fit.set)
    for split, counts in parts.items():
        if (of_split := known.SETS_OF_MELD[split]) in fit.corpus.sets:
            differing += _differences(f"{split}: ", names, counts, fit, of_split)
    said = f"{fit.corpus.name}, {fit.set}: {sum(total):,} utterances"
    if differing:
        return Finding("note", "known corpus", "", f"{said}, but {'; '.join(differing)}", "say so beside every figure")
    return Finding("ok", "known corpus", "", f"{said}, as many of each class as it has")


def _differences(where: str, names: Sequence[str], counts: Sequence[int], fit: known.Fit, which: str) -> list[str]:
    return [where + said for said in known.differences(fit.corpus, which, dict(zip(names, counts, strict=True)))]


def lengths(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    """Time steps per modality; seconds where start and end are given."""
    for modality in corpus.modalities:
        steps = corpus.index[f"length/{modality}"]
        steps = steps[steps > 0]
        yield Finding("ok", "time steps", modality, f"{steps.min()} to {steps.max()}, median {np.median(steps):g}")
    seconds = reading.end - reading.start
    timed = np.flatnonzero(np.isfinite(seconds))
    if not len(timed):
        yield Finding("ok", "seconds", "", "no utterance has start and end")
        return
    found = seconds[timed]
    yield Finding("ok", "seconds", "", f"{found.min():.2f} to {found.max():.2f} s, median {np.median(found):.2f} s; "
                  f"{np.count_nonzero(found < 0.5):,} under 0.5 s; {len(corpus) - len(timed):,} without times")  # fmt: skip
    order = timed[np.argsort(found, kind="stable")]
    backwards = order[seconds[order] <= 0]
    short = order[(seconds[order] > 0) & (seconds[order] < SHORT)]
    long = order[seconds[order] > LONG][::-1]
    for name, rows, what, do in (
        ("times", backwards, "end before they begin, or as they begin", "repair the time stamps in the source"),
        ("over-short", short, f"are under {SHORT} s", "listen to them: too little for most extractors; leave them out or say so"),
        ("over-long", long, f"are over {LONG:g} s", "look whether the cut went wrong; truncate (data.max_length) rather than drop, and say so"),
    ):  # fmt: skip
        if len(rows):
            worst = ", ".join(f"{corpus.index['id'][row]} ({seconds[row]:.3g} s)" for row in rows[:3])
            yield Finding(
                "note",
                name,
                "",
                f"{_of(len(rows), len(timed))} utterances {what}: {worst}{', …' * (len(rows) > 3)}",
                do,
            )
        else:
            yield Finding("ok", name, "", f"none of {len(timed):,} utterances")


def features(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    """Faults of the arrays themselves, one check after the other over all modalities."""
    for name, check, fine in (
        ("not finite", _nonfinite, "no NaN and no infinite value"),
        ("lacking", _lacking, "every utterance has every modality"),
        ("silent", _silent, "no utterance is all zeros"),
        ("constant", _constant, "every dimension varies"),
        ("extreme", _extreme, f"nothing over {HUGE:g} or {FAR} standard deviations"),
        (
            "duplicates",
            _duplicates,
            "no two utterances have the same features, bit for bit, but text of equal sentences",
        ),
    ):
        found = [finding for m, stream in reading.streams.items() for finding in check(corpus, reading, m, stream)]
        yield from _or_ok(found, name, fine)


def _nonfinite(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    if len(rows := np.flatnonzero(stream.nonfinite)):
        yield Finding("problem", "not finite", modality, f"NaN or infinite values in {_of(len(rows), len(corpus))} utterances: "
                      f"{_named(corpus, rows)}", "repair the extractor; or train with --config.data.nonfinite=zero")  # fmt: skip


def _lacking(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    gone = corpus.index[f"length/{modality}"] == 0
    if gone.any():
        whole = [s for s in corpus.manifest["splits"] if gone[corpus.index["split"] == s].all()]
        text = f"{_of(int(gone.sum()), len(corpus))} utterances do not have it: {_named(corpus, np.flatnonzero(gone))}"
        yield Finding("problem" if whole else "note", "lacking", modality,
                      text + (f"; {' and '.join(whole)} not at all" if whole else ""),
                      "extract it for every split" if whole else "look whether files were lost; models see them as missing")  # fmt: skip


def _silent(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    if len(rows := np.flatnonzero(stream.silent)):
        yield Finding("note", "silent", modality, f"{_of(len(rows), len(corpus))} utterances are all zeros: "
                      f"{_named(corpus, rows)}", "an extractor that failed often writes zeros: extract again, or leave the modality "
                      "out of those utterances")  # fmt: skip


def _constant(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    same = stream.bounds[0] == stream.bounds[1]
    if len(dimensions := np.flatnonzero(same)):
        first = ", ".join(map(str, dimensions[:5])) + ", …" * (len(dimensions) > 5)
        yield Finding("problem" if same.all() else "note", "constant", modality,
                      f"{_of(len(dimensions), len(same))} dimensions have one value everywhere: {first}",
                      "the modality says nothing: extract it again" if same.all() else "harmless, but ask why: a column may be lost")  # fmt: skip


def _extreme(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    told = []
    if len(rows := np.flatnonzero(stream.huge)):
        told.append(f"{_of(len(rows), len(corpus))} utterances have values over {HUGE:g}: {_named(corpus, rows)}")
    away = stream.deviations()
    if count := np.count_nonzero((away > FAR).any(0)):
        side, dimension = np.unravel_index(away.argmax(), away.shape)
        worst, name = away[side, dimension], corpus.index["id"][stream.bound_rows[side, dimension]]
        far = f"{worst:,.0f} of them away" if np.isfinite(worst) else "where all others are the same"
        told.append(f"dimensions that reach over {FAR} standard deviations: {count:,}; dimension {dimension} is "
                    f"{stream.bounds[side, dimension]:.4g} in {name}, {far}")  # fmt: skip
    if told:
        yield Finding("note", "extreme", modality, "; ".join(told), "one such value outweighs all others: look at these utterances, "
                      "clip or take logarithms in the extractor; keep data.standardize")  # fmt: skip


def _duplicates(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    code = stream.digest.copy()
    if modality == "text":  # equal sentences have equal states: told among the shared sentences
        code[~spread(code, reading.sentence) & (reading.sentence != 0)] = 0
    _, group, counts = np.unique(code, return_inverse=True, return_counts=True)
    again = (counts[group] > 1) & (code != 0)
    if rows := int(again.sum()):
        split, label = corpus.index["split"], corpus.index["label"]
        in_train, test = leaked(code, split, "train", "test"), split == "test"
        yield Finding(
            "problem" if in_train.sum() > FEW * test.sum() else "note", "duplicates", modality,
            f"{_of(rows, len(corpus))} utterances have another's features, bit for bit: {_named(corpus, np.flatnonzero(again))}; "
            f"{np.count_nonzero(spread(code, split)):,} across splits ({in_train.sum():,} of test in train), "
            f"{np.count_nonzero(spread(code, label)):,} with other labels",
            "features went to the wrong utterances, or a clip is in twice: keep one, and none of train's in test",
        )  # fmt: skip


def sharing(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    """Leakage between the splits as written; counts of mer_jax.data.leakage."""
    split = corpus.index["split"]
    sentences = {int(row): f"{reading.sentence[row]:x}" for row in np.flatnonzero(reading.sentence)}
    longer = {row: s for row, s in sentences.items() if reading.words[row] >= SOME_WORDS}
    for kind in KINDS:
        values = corpus.index.get(kind, np.where(reading.sentence, "given", ""))
        unknown = np.count_nonzero(values == "")
        fold = Fold("official", *(np.flatnonzero((split == part) & (values != "")) for part in SPLITS))
        leaks, of_longer = leakage(corpus, fold, sentences), leakage(corpus, fold, longer)
        told, worst = [], 0
        for pair in PAIRS:
            first, second = pair.split("-")
            if (found := leaks[pair][kind])["utterances"]:
                share = _of(found["utterances"], int((split == second).sum()))
                words = f" ({of_longer[pair][kind]['utterances']:,} of {SOME_WORDS} words and more)" * (
                    kind == "sentence"
                )
                told.append(f"{first} and {second} share {found['shared']:,}: {share} {second} utterances{words}")
                worst = max(worst, 1 + (kind == "dialogue" and pair == "train-test"))
        if kind == "session" and len(np.unique(values)) == 1 and not unknown:
            worst, told = 0, ["all utterances are of one: nothing to tell apart"]
        if kind == "sentence" and (rows := np.flatnonzero(leaked(reading.sentence, split, "train", "test"))).size:
            longest = int(rows[reading.words[rows].argmax()])
            quoted = textwrap.shorten(corpus[longest].sentence, 120, placeholder=" …")
            told.append(f"the longest in train and test is “{quoted}” ({corpus.index['id'][longest]})")
        if unknown:
            told.append(f"{unknown:,} utterances have none, so that sharing cannot be told")
            worst = max(worst, int(kind != "sentence"))
        level = ("ok", "note", "problem")[worst]
        yield Finding(level, f"shared {kind}s", "", "; ".join(told) or "none", ADVICE[kind] if worst else "")
    yield from _or_ok(list(_moments(corpus, reading, split)), "shared moments", "none")


def _moments(corpus: Corpus, reading: Reading, split: np.ndarray) -> Iterator[Finding]:
    """The same time of the same session in several splits."""
    across = spread(reading.moment, split)
    if not across.any():
        return
    found = {pair: leaked(reading.moment, split, *pair.split("-")) for pair in PAIRS}
    told = ", ".join(
        f"{of.sum():,} of {' in '.join(reversed(pair.split('-')))}" for pair, of in found.items() if of.any()
    )
    others = np.count_nonzero(spread(np.where(across, reading.moment, 0), corpus.index["label"]))
    bad = found["train-test"].sum() > FEW * np.count_nonzero(split == "test")
    yield Finding("problem" if bad else "note", "shared moments", "", f"utterances at a session and time of another split: {told}: "
                  f"{_named(corpus, np.flatnonzero(across))}; {others:,} with other labels",
                  "it is the same clip: take it out of train" if bad else "few: say so, or take them out of train")  # fmt: skip


def floor_findings(floors: Sequence[Floor]) -> Iterator[Finding]:
    for floor in floors:
        if floor.skipped:
            do = INSTALL if "scikit-learn" in floor.skipped else ""
            yield Finding("note", "floor", floor.modality, f"skipped: {floor.skipped}", do)
            continue
        told = ("test: weighted F1 {weighted_f1:.3f}, accuracy {accuracy:.3f}, UAR {uar:.3f}").format(**floor.scores)
        always = "weighted F1 {weighted_f1:.3f}, accuracy {accuracy:.3f}, UAR {uar:.3f}".format(**floor.majority_scores)
        text = f"{told} (C = {floor.strength:g}); always {floor.majority}: {always}"
        text += "" if floor.converged else f"; stopped at {ITERATIONS} iterations"
        if floor.scores["uar"] > floor.chance:
            yield Finding("ok", "floor", floor.modality, text, "a trained model has to beat this")
        else:
            yield Finding("note", "floor", floor.modality, f"{text}; UAR up to {floor.chance:.3f} is chance",
                          "look whether features and labels belong to the same utterances")  # fmt: skip
