"""Findings tell of classes, lengths, leakage between splits and floors; each says what to do."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep.audit.finding import FEW, Finding, first_ids, or_ok, share
from data_prep.audit.floor import INSTALL, MAX_ITERATIONS, SHOWN, Floor
from data_prep.audit.reading import Reading, leaked, split_across
from data_prep.class_names import alike_names
from data_prep.packs import class_counts
from mer_jax.data.corpus import SPLITS, Corpus
from mer_jax.data.dialogues import problem_of_split_dialogues
from mer_jax.data.leakage import KINDS, PAIRS, leakage
from mer_jax.data.length_limits import cut_in_extraction, length_limits, unread, unread_problems
from mer_jax.data.protocols import Fold
from mer_jax.metrics.classification import METRICS

RARE = 3  # utterances
SHORT, LONG = 0.1, 30.0  # seconds; MELD has clips of 0.06 s and, where the cut went wrong, of 305 s
SCORES = ", ".join(f"{METRICS[name].title} {{{name}:.3f}}" for name in SHOWN)
SOME_WORDS = 5  # a sentence of so many words is hardly repeated by accident
ADVICE = {
    "dialogue": "split by dialogue: --config.data.protocol=kfold_dialogue:5, or loso; "
    "utterances of one dialogue are alike",
    "speaker": "the figure is not for unknown speakers; --config.data.protocol=speaker or loso measures that",
    "session": "the figure is not for unknown recordings; --config.data.protocol=loso measures that",
    "sentence": "say so beside every figure with text; scripted corpora repeat their lines",
}


def classes(corpus: Corpus, extra_happy: set[str] | None) -> Iterator[Finding]:
    """Compares utterances per split and class with those of the known corpora."""
    counts = {split: of for split, s in corpus.manifest["splits"].items() if any((of := s["classes"]).values())}
    there = {split: sum(of.values()) for split, of in counts.items()}
    if not corpus.labels:
        there = {part: n for part in SPLITS if (n := int((corpus.labelled & (corpus.index["split"] == part)).sum()))}
    sizes = ", ".join(f"{split} {n:,}" for split, n in there.items())
    if missing := [split for split in SPLITS if split not in there]:
        do = "draw the parts with --config.data.protocol, as with kfold_dialogue:5"
        yield Finding("note", "splits", "", f"{sizes}; no {' and no '.join(missing)}", do)
    else:
        yield Finding("ok", "splits", "", sizes)
    yield from _classes(corpus, counts) if corpus.labels else ()
    if extra_happy is not None:
        listed = len(extra_happy & set(corpus.index["id"].tolist()))
        level = "ok" if listed in (0, len(extra_happy)) else "note"
        text = f"{listed} of the {len(extra_happy)} listed utterances are in the corpus"
        do = "" if level == "ok" else "take all of them or none: figures are of one set or the other"
        yield Finding(level, "extra happy", "", text, do)


def _classes(corpus: Corpus, counts: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Yields what there is to say of the classes of a corpus that has some."""
    found = [
        Finding(
            "problem" if split == "train" else "note",
            "empty class",
            "",
            f"{split} has no utterance of {', '.join(empty)}",
            "leave the class out, or split anew: what train lacks is never learned",
        )
        for split, by_class in counts.items()
        if (empty := [name for name, n in by_class.items() if not n])
    ]
    total = [sum(of[name] for of in counts.values()) for name in corpus.labels]
    yield from _rare(counts, dict(zip(corpus.labels, total, strict=True)))
    yield from (
        Finding("note", "class names", "", text, "a model learns them as classes of their own: join them in the source")
        for text in alike_names(corpus.labels)
    )
    each = ", ".join(f"{name} {n:,}" for name, n in zip(corpus.labels, total, strict=True))
    yield from or_ok(found, "empty class", f"every split has every class; together: {each}")
    yield from _compared(corpus, counts, total)


def _rare(counts: Mapping[str, Mapping[str, int]], total: Mapping[str, int]) -> Iterator[Finding]:
    """Yields a note on classes that occur, and hardly."""
    rare = {name: n for name, n in total.items() if 0 < n < RARE}
    rare |= {name: n for name, n in counts.get("train", {}).items() if 0 < n < RARE and name not in rare}
    if rare:
        yield Finding(
            "note",
            "rare class",
            "",
            f"almost no utterance of train, or of all, is {', '.join(f'{name} ({n})' for name, n in rare.items())}",
            "so few teach nothing and make the mean over classes a matter of luck: join the class with another, or "
            "leave it out; a name that is misspelled is such a class, too",
        )


def _names(corpus: Corpus) -> tuple[str, ...]:
    """Returns the corpus' labels as the known corpora call them, nothing if they are of none."""
    for one in class_counts.CORPORA:
        short = {word: name for name, word in one.words.items()} | {name: name for name in one.words}
        for labels in (corpus.labels, corpus.manifest.get("label_words") or ()):
            names = tuple(short.get(str(label).lower(), "") for label in labels)
            if set(names) == set(one.words) and len(names) == len(one.words):
                return names
    return ()


def _compared(corpus: Corpus, counts: Mapping[str, Mapping[str, int]], total: Sequence[int]) -> Iterator[Finding]:
    names, near = _names(corpus), class_counts.fitting(total)
    if not names:
        yield _of_unknown_labels(corpus, near)
        return
    parts = {split: [by_class[name] for name in corpus.labels] for split, by_class in counts.items()}
    yield from _order(corpus, names, parts, total)
    if fits := [fit for fit in near if set(fit.order) == set(names)]:
        yield _fitting(fits[0], names, parts, total)
        return
    like = next(one for one in class_counts.CORPORA if set(one.words) == set(names))
    sets = "; ".join(f"{name} {sum(n):,}" for name, n in like.sets.items())
    text = f"the classes of {like.name}, but other counts than any set in use has ({sets})"
    if like.name.split("-")[0] in corpus.manifest["name"].lower():
        yield Finding("note", "known corpus", "", text, "find out which utterances are missing or added")
    else:
        yield Finding("ok", "known corpus", "", text)


def _order(
    corpus: Corpus, names: Sequence[str], parts: Mapping[str, Sequence[int]], total: Sequence[int]
) -> Iterator[Finding]:
    """Says whether the counts, of all and of every part, fit another order of the classes better."""
    do = (
        "labels are swapped: if the source numbers them, import it again with --labels in that order; if it names "
        "them, rename them by [values.label] in a --mapping"
    )
    for part, of_part in {"all splits": total, **parts}.items():
        judged = class_counts.judge(names, of_part, parts if part == "all splits" else None)
        if judged is None or not judged.better:
            continue
        declared = ", ".join(f"{name} {n:,}" for name, n in zip(names, of_part, strict=True))
        better = f"the counts of {judged.name} fit the order {','.join(judged.better)}"
        here = f"{corpus.path}, {part}: the labels"
        if judged.contradicted:
            yield Finding(
                "problem",
                "label order",
                "",
                f"{here} cannot be in the order {','.join(names)}, which would make {declared}; {better}",
                do,
            )
            return
        if part == "all splits":  # one part alone tells less than all of them
            yield Finding(
                "note",
                "label order",
                "",
                f"{here} make {declared}; {better} better, though not for sure",
                f"find out; {do}",
            )
            return
    judged = class_counts.judge(names, total, parts)
    if judged is None:
        return
    if alike := judged.fit.alike:
        pairs = "; ".join(" and ".join(pair) for pair in alike)
        yield Finding("note", "label order", "", f"the counts cannot tell apart {pairs}", "make sure of these names")
    else:
        text = f"no other order of {', '.join(corpus.labels)} fits the counts better"
        yield Finding("ok", "label order", "", text)


def _of_unknown_labels(corpus: Corpus, near: Sequence[class_counts.ClassOrderFit]) -> Finding:
    if not near:
        text = "neither classes nor counts of a known one: nothing to compare with"
        return Finding("ok", "known corpus", "", text)
    fit = near[0]
    text = (
        f"the labels {', '.join(corpus.labels)} are no known names; "
        f"the counts are those of {fit.corpus.name} ({fit.set}) in the order {', '.join(fit.order)}"
    )
    do = "if it is that corpus, give the classes its names: [values.label] in a --mapping renames them"
    return Finding("note", "known corpus", "", text, do)


def _fitting(
    fit: class_counts.ClassOrderFit, names: Sequence[str], parts: Mapping[str, Sequence[int]], total: Sequence[int]
) -> Finding:
    """Says how far the counts are those of the set."""
    differing = _differences("", names, total, fit, fit.set)
    for split, counts in parts.items():
        if (of_split := class_counts.SETS_OF_MELD[split]) in fit.corpus.sets:
            differing += _differences(f"{split}: ", names, counts, fit, of_split)
    text = f"{fit.corpus.name}, {fit.set}: {sum(total):,} utterances"
    if differing:
        return Finding("note", "known corpus", "", f"{text}, but {'; '.join(differing)}", "say so beside every figure")
    return Finding("ok", "known corpus", "", f"{text}, as many of each class as it has")


def _differences(
    where: str, names: Sequence[str], counts: Sequence[int], fit: class_counts.ClassOrderFit, which: str
) -> list[str]:
    by_class = dict(zip(names, counts, strict=True))
    return [where + difference for difference in class_counts.differences(fit.corpus, which, by_class)]


def lengths(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    """Yields time steps per modality, and seconds where start and end are given."""
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
    span = f"{found.min():.2f} to {found.max():.2f} s, median {np.median(found):.2f} s"
    short, untimed = np.count_nonzero(found < 0.5), len(corpus) - len(timed)
    yield Finding("ok", "seconds", "", f"{span}; {short:,} under 0.5 s; {untimed:,} without times")
    order = timed[np.argsort(found, kind="stable")]
    backwards = order[seconds[order] <= 0]
    too_short = order[(seconds[order] > 0) & (seconds[order] < SHORT)]
    too_long = order[seconds[order] > LONG][::-1]
    for name, rows, what, do in (
        ("times", backwards, "end before they begin, or as they begin", "repair the time stamps in the source"),
        (
            "over-short",
            too_short,
            f"are under {SHORT} s",
            "listen to them: too little for most extractors; leave them out or say so",
        ),
        (
            "over-long",
            too_long,
            f"are over {LONG:g} s",
            "look whether the cut went wrong; truncate (--longest, data.max_length) rather than drop, and say so",
        ),
    ):
        if len(rows):
            worst = ", ".join(f"{corpus.index['id'][row]} ({seconds[row]:.3g} s)" for row in rows[:3])
            text = f"{share(len(rows), len(timed))} utterances {what}: {worst}{', …' * (len(rows) > 3)}"
            yield Finding("note", name, "", text, do)
        else:
            yield Finding("ok", name, "", f"none of {len(timed):,} utterances")


def unread_findings(corpus: Corpus) -> Iterator[Finding]:
    """Yields what of the clips no model reads: what extraction cut, and what the default of data.max_length cuts."""
    if cut := cut_in_extraction(corpus.manifest):
        text, do, bad = cut
        yield Finding("problem" if bad else "note", "unread clips", "", text, do)
    lengths = {m: corpus.index[f"length/{m}"] for m in corpus.modalities}
    found = unread(lengths, length_limits((), tuple(lengths), corpus.manifest), corpus.manifest)
    for one in found:
        for line in unread_problems([one], ()):
            text, _, do = line.partition("; ")
            yield Finding("problem", "unread time", one.modality, text, do)
        if one.steps and not one.is_problem:
            yield Finding("note", "unread time", one.modality, one.in_words(), "say so beside every figure")
    if not any(one.steps for one in found):
        yield Finding("ok", "unread time", "", "a run reads every sequence to its end, unless data.max_length is set")


def sharing(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    """Yields leakage between the splits as written, as mer_jax.data.leakage counts it: utterances without a class are
    in no part."""
    split = np.where(corpus.labelled, corpus.index["split"], "")
    sentences = {int(row): f"{reading.sentence[row]:x}" for row in np.flatnonzero(reading.sentence)}
    longer = {row: s for row, s in sentences.items() if reading.words[row] >= SOME_WORDS}
    for kind in KINDS:
        values = corpus.index.get(kind, np.where(reading.sentence, "given", ""))
        unknown = np.count_nonzero((values == "") & corpus.labelled)
        fold = Fold("official", *(np.flatnonzero((split == part) & (values != "")) for part in SPLITS))
        leaks, of_longer = leakage(corpus, fold, sentences), leakage(corpus, fold, longer)
        found, worst = [], 0
        for pair in PAIRS:
            first, second = pair.split("-")
            if (leak := leaks[pair][kind])["utterances"]:
                text = f"{first} and {second} share {leak['shared']:,}: "
                text += f"{share(leak['utterances'], int((split == second).sum()))} {second} utterances"
                if kind == "sentence":
                    text += f" ({of_longer[pair][kind]['utterances']:,} of {SOME_WORDS} words and more)"
                found.append(text)
                worst = max(worst, 1 + (kind == "dialogue" and pair == "train-test"))
        if kind == "session" and len(np.unique(values)) == 1 and not unknown:
            worst, found = 0, ["all utterances are of one: nothing to tell apart"]
        if kind == "sentence" and (rows := np.flatnonzero(leaked(reading.sentence, split, "train", "test"))).size:
            longest = int(rows[reading.words[rows].argmax()])
            quoted = textwrap.shorten(corpus[longest].sentence, 120, placeholder=" …")
            found.append(f"the longest in train and test is “{quoted}” ({corpus.index['id'][longest]})")
        if kind == "dialogue" and (across := problem_of_split_dialogues(corpus)):
            found.append(across)
        if unknown:
            found.append(f"{unknown:,} utterances have none, so that sharing cannot be told")
            worst = max(worst, int(kind != "sentence"))
        level = ("ok", "note", "problem")[worst]
        yield Finding(level, f"shared {kind}s", "", "; ".join(found) or "none", ADVICE[kind] if worst else "")
    yield from or_ok(list(_moments(corpus, reading, split)), "shared moments", "none")


def _moments(corpus: Corpus, reading: Reading, split: np.ndarray) -> Iterator[Finding]:
    """Yields what is at the same time of the same session in several splits."""
    moment = np.where(corpus.labelled, reading.moment, 0)
    across = split_across(moment, split)
    if not across.any():
        return
    found = {pair: leaked(moment, split, *pair.split("-")) for pair in PAIRS}
    pairs = ", ".join(
        f"{rows.sum():,} of {' in '.join(reversed(pair.split('-')))}" for pair, rows in found.items() if rows.any()
    )
    others = np.count_nonzero(split_across(np.where(across, moment, 0), corpus.index["label"]))
    bad = found["train-test"].sum() > FEW * np.count_nonzero(split == "test")
    yield Finding(
        "problem" if bad else "note",
        "shared moments",
        "",
        f"utterances at a session and time of another split: {pairs}: "
        f"{first_ids(corpus, np.flatnonzero(across))}; {others:,} with other labels",
        "it is the same clip: take it out of train" if bad else "few: say so, or take them out of train",
    )


def floor_findings(floors: Sequence[Floor]) -> Iterator[Finding]:
    for floor in floors:
        if floor.skipped:
            do = INSTALL if "scikit-learn" in floor.skipped else ""
            yield Finding("note", "floor", floor.modality, f"skipped: {floor.skipped}", do)
            continue
        of_test, always = (SCORES.format(**scores) for scores in (floor.scores, floor.majority_scores))
        text = f"test: {of_test} (C = {floor.strength:g}); always {floor.majority}: {always}"
        text += "" if floor.converged else f"; stopped at {MAX_ITERATIONS} iterations"
        if floor.scores["uar"] > floor.chance:
            yield Finding("ok", "floor", floor.modality, text, "a trained model has to beat this")
        else:
            text += f"; UAR up to {floor.chance:.3f} is chance"
            do = "look whether features and labels belong to the same utterances"
            yield Finding("note", "floor", floor.modality, text, do)
