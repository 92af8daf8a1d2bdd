"""The audit tells of numbers, split by split, and of groups; it does without classes."""

import dataclasses

import numpy as np
import pytest
from conftest import small_description
from test_targets import AFFECT, asked_description, asked_utterances

from data_prep.audit.__main__ import main
from data_prep.audit.corpus_audit import audit
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.targets import Target

pytestmark = pytest.mark.usefixtures("calls_unchecked")
NO_CLASSES = {"labels": (), "label_words": (), "label_embeddings": np.zeros((0, 6), np.float32)}


def written(folder, utterances, description):
    write_corpus(folder / "c", utterances, description)
    return folder / "c"


def number(result, name):
    (found,) = (f for f in result.findings if f.name in ("number", "group") and f.about == name)
    return found


def test_numbers_are_told_split_by_split(tmp_path):
    utterances = list(asked_utterances())
    result = audit(written(tmp_path, utterances, asked_description()), floor=False)
    train = [u.values["valence"] for u in utterances if u.split == "train"]
    told = number(result, "valence")
    assert told.level == "ok"
    assert f"train 24 of 24 (100.0 %), mean {np.mean(train):.3g}, sd {np.std(train):.3g}" in told.text
    assert told.text.endswith("range 1 to 5")
    assert "train 8 of 24 (33.3 %)" in number(result, "arousal").text
    people = [u.groups.get("gender", "") for u in utterances]
    assert number(result, "gender").text == (
        f"f {people.count('f')}, m {people.count('m')}; not known of {people.count('')}"
    )


def test_a_split_without_a_number_is_a_problem(tmp_path):
    def without(u):
        values = {name: x for name, x in u.values.items() if name != "valence" or u.split != "test"}
        return dataclasses.replace(u, values=values | ({"arousal": 2.0} if u.split == "train" else {}), spreads={})

    result = audit(written(tmp_path, map(without, asked_utterances()), asked_description()), floor=False)
    assert number(result, "valence").level == number(result, "arousal").level == "problem"
    assert "test has no value" in number(result, "valence").text
    assert "all of train are 2" in number(result, "arousal").text
    assert number(result, "polarity").level == "ok"


def test_a_corpus_without_classes_is_audited_whole(tmp_path, capsys):
    present = Target(
        "mood", "multilabel", ("sad", "glad"), ("sad", "glad"), ((0, 3),) * 2, ("sad", "glad"), AFFECT.embeddings
    )
    utterances = [
        dataclasses.replace(u, label="", votes=(), spreads={}, groups={}, values={"sad": i % 3, "glad": 3.0 * (i % 2)} if i else {})
        for i, u in enumerate(asked_utterances())
    ]  # fmt: skip
    folder = written(tmp_path, utterances, small_description(targets=(present,), **NO_CLASSES))
    result = audit(folder, tmp_path / "audit.html")
    said = {f.name: f for f in result.findings}
    assert said["splits"].text == "train 23, valid 8, test 16"
    assert said["no number"].text.startswith("1 of 48 (2.1 %) utterances have no sad or glad: u000; they are heard")
    assert {f.skipped for f in result.floors} == {"the corpus has no classes"}
    sad = [u.values["sad"] for u in utterances[1:] if u.split == "train"]
    told = f"mean {np.mean(sad):.3g}, sd {np.std(sad):.3g}, above 0 in {np.count_nonzero(sad)}"
    assert f"train 23 of 24 (95.8 %), {told}; valid" in number(result, "sad").text
    assert "Utterances per class" not in (tmp_path / "audit.html").read_text()
    assert not {"empty class", "known corpus", "label order"} & said.keys()
    with pytest.raises(SystemExit, match="1"):  # dialogues are in train and test
        main([str(folder)])
    assert "have no sad or glad" in capsys.readouterr().out.replace("\n", " ")
