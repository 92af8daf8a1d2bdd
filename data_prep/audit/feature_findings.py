"""Faults of the features themselves are found by one check after the other over all modalities."""

from collections.abc import Iterator

import numpy as np

from data_prep.audit.finding import FEW, Finding, first_ids, or_ok, share
from data_prep.audit.reading import HUGE, Reading, Stream, leaked, split_across
from mer_jax.data.corpus import Corpus

FAR = 100  # standard deviations


def features(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    """Yields the faults of the arrays themselves."""
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
        found += same_sounds(corpus) if name == "duplicates" else []
        yield from or_ok(found, name, fine)


def _nonfinite(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    if len(rows := np.flatnonzero(stream.nonfinite)):
        yield Finding(
            "problem",
            "not finite",
            modality,
            f"NaN or infinite values in {share(len(rows), len(corpus))} utterances: {first_ids(corpus, rows)}",
            "repair the extractor; or train with --config.data.nonfinite=zero",
        )


def _lacking(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    gone = corpus.index[f"length/{modality}"] == 0
    if not gone.any():
        return
    ids = first_ids(corpus, np.flatnonzero(gone))
    text = f"{share(int(gone.sum()), len(corpus))} utterances do not have it: {ids}"
    if whole := [s for s in corpus.manifest["splits"] if gone[corpus.index["split"] == s].all()]:
        text += f"; {' and '.join(whole)} not at all"
        yield Finding("problem", "lacking", modality, text, "extract it for every split")
    else:
        yield Finding("note", "lacking", modality, text, "look whether files were lost; models see them as missing")


def _silent(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    if len(rows := np.flatnonzero(stream.silent)):
        yield Finding(
            "note",
            "silent",
            modality,
            f"{share(len(rows), len(corpus))} utterances are all zeros: {first_ids(corpus, rows)}",
            "an extractor that failed often writes zeros: extract again, or leave the modality out of those utterances",
        )


def _constant(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    same = stream.bounds[0] == stream.bounds[1]
    if not len(dimensions := np.flatnonzero(same)):
        return
    first = ", ".join(map(str, dimensions[:5])) + ", …" * (len(dimensions) > 5)
    text = f"{share(len(dimensions), len(same))} dimensions have one value everywhere: {first}"
    if same.all():
        yield Finding("problem", "constant", modality, text, "the modality says nothing: extract it again")
    else:
        yield Finding("note", "constant", modality, text, "harmless, but ask why: a column may be lost")


def _extreme(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    found = []
    if len(rows := np.flatnonzero(stream.huge)):
        ids = first_ids(corpus, rows)
        found.append(f"{share(len(rows), len(corpus))} utterances have values over {HUGE:g}: {ids}")
    away = stream.deviations()
    if count := np.count_nonzero((away > FAR).any(0)):
        side, dimension = np.unravel_index(away.argmax(), away.shape)
        worst, name = away[side, dimension], corpus.index["id"][stream.bound_rows[side, dimension]]
        far = f"{worst:,.0f} of them away" if np.isfinite(worst) else "where all others are the same"
        found.append(
            f"dimensions that reach over {FAR} standard deviations: {count:,}; "
            f"dimension {dimension} is {stream.bounds[side, dimension]:.4g} in {name}, {far}"
        )
    if found:
        yield Finding(
            "note",
            "extreme",
            modality,
            "; ".join(found),
            "one such value outweighs all others: look at these utterances, "
            "clip or take logarithms in the extractor; keep data.standardize",
        )


def same_sounds(corpus: Corpus) -> list[Finding]:
    """Returns a finding on the clips that were heard to be the same sound when they were imported."""
    rows = {name: row for row, name in enumerate(corpus.index["id"].tolist())}
    listed = (corpus.manifest.get("provenance") or {}).get("same_sound") or []
    pairs = np.array([[rows[a], rows[b]] for a, b in listed if a in rows and b in rows], int).reshape(-1, 2)
    if not len(pairs):
        return []
    split, label = corpus.index["split"][pairs], corpus.index["label"][pairs]
    of_parts = corpus.labelled[pairs].all(1)  # what has no class is in no part
    of_test = pairs[(np.sort(split, axis=1) == ("test", "train")).all(1) & of_parts]
    leaked_rows = np.unique(of_test[corpus.index["split"][of_test] == "test"])
    across, other = (np.count_nonzero(of_parts & (values[:, 0] != values[:, 1])) for values in (split, label))
    return [
        Finding(
            "problem"
            if len(leaked_rows) > FEW * np.count_nonzero((corpus.index["split"] == "test") & corpus.labelled)
            else "note",
            "duplicates",
            "sound",
            f"{len(pairs):,} pairs of clips are the same sound, maybe in another codec: "
            f"{first_ids(corpus, np.unique(pairs))}; {across:,} across splits "
            f"({len(leaked_rows):,} of test in train), {other:,} with other labels",
            "a clip is in twice: keep one, and none of train's in test",
        )
    ]


def _duplicates(corpus: Corpus, reading: Reading, modality: str, stream: Stream) -> Iterator[Finding]:
    code = stream.digest.copy()
    if modality == "text":  # equal sentences have equal states: told among the shared sentences
        code[~split_across(code, reading.sentence) & (reading.sentence != 0)] = 0
    _, group, counts = np.unique(code, return_inverse=True, return_counts=True)
    again = (counts[group] > 1) & (code != 0)
    if not (rows := int(again.sum())):
        return
    split, label = corpus.index["split"], corpus.index["label"]
    of_parts = np.where(corpus.labelled, code, 0)  # what has no class is in no part
    in_train, test = leaked(of_parts, split, "train", "test"), (split == "test") & corpus.labelled
    ids = first_ids(corpus, np.flatnonzero(again))
    yield Finding(
        "problem" if in_train.sum() > FEW * test.sum() else "note",
        "duplicates",
        modality,
        f"{share(rows, len(corpus))} utterances have another's features, bit for bit: {ids}; "
        f"{np.count_nonzero(split_across(of_parts, split)):,} across splits ({in_train.sum():,} of test in train), "
        f"{np.count_nonzero(split_across(of_parts, label)):,} with other labels",
        "features went to the wrong utterances, or a clip is in twice: keep one, and none of train's in test",
    )
