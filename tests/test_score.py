"""`python -m mer_jax.score`: what it reads of whom, what it finds, and what it refuses in one line."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from sklearn import metrics as sk

from mer_jax.metrics.definitions import DEFINITIONS
from mer_jax.metrics.multilabel import average_precision
from mer_jax.score import command

RNG = np.random.default_rng(0)
ROWS = 120
SENTIMENT = RNG.choice(np.linspace(-3, 3, 31), ROWS).round(1)
GUESS = (SENTIMENT + RNG.normal(size=ROWS)).round(4)
IDS = [f"v{i // 10}$_${i % 10}" for i in range(ROWS)]
EMOTION = RNG.integers(0, 7, ROWS)
LOGITS = RNG.normal(size=(ROWS, 7)) + 2 * np.eye(7)[EMOTION]
MELD = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")


def write_csv(path, **columns):
    lines = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, line)) for line in lines)]) + "\n")
    return path


@pytest.fixture
def score(tmp_path, capsys):
    """Runs the command; returns what it wrote as JSON, or the line on which it ended."""

    def run(*arguments):
        out = tmp_path / "out.json"
        out.unlink(missing_ok=True)
        code = 0
        try:
            command.main([*map(str, arguments), "--out", str(out), "--samples", "100"])
        except SystemExit as stop:
            code = stop.code
        if code:
            told = capsys.readouterr().err
            assert (code, out.exists(), "Traceback" in told) == (2, False, False)
            return told.removeprefix("error: ").strip()
        return json.loads(out.read_text())

    return run


@pytest.fixture
def mosi(tmp_path):
    return write_csv(tmp_path / "mosi.csv", id=IDS, label=SENTIMENT, prediction=GUESS)


def values(result, name):
    return {score: told["value"] for score, told in result["definitions"][name]["scores"].items()}


WANTED = {
    "mae": np.abs(SENTIMENT - GUESS).mean(),
    "acc2_nonneg": ((SENTIMENT >= 0) == (GUESS >= 0)).mean(),
    "acc2_pos": ((SENTIMENT > 0) == (GUESS > 0))[SENTIMENT != 0].mean(),
}


def test_a_file_of_sentiment_is_scored_both_ways_with_what_each_leaves_out(score, mosi, capsys):
    result = score(mosi, "--as", "mosi")
    assert values(result, "mosi").items() >= {name: pytest.approx(value) for name, value in WANTED.items()}.items()
    told = result["definitions"]["mosi"]
    zeros = int((SENTIMENT == 0).sum())
    assert zeros > 0
    assert {name for name, one in told["scores"].items() if "leaves_out" in one} == {"acc2_pos", "f1_pos"}
    assert told["scores"]["acc2_pos"]["leaves_out"] == {"what": "targets of 0", "rows": zeros}
    assert (told["rows"], told["groups"], result["by_utterance"]) == (ROWS, 12, False)
    for one in told["scores"].values():
        assert one["low"] < one["value"] < one["high"]
    printed = capsys.readouterr().out
    assert f"{zeros} of {ROWS} rows: targets of 0" in printed
    assert f"{100 * WANTED['acc2_pos']:.1f}" in printed
    assert "12 groups are few" in printed


@pytest.mark.parametrize(
    "columns",
    [
        {"target": SENTIMENT, "pred": GUESS},
        {"y_true": SENTIMENT, "y_pred": GUESS},
        {"references": SENTIMENT, "predictions": GUESS},
        {"target_sentiment": SENTIMENT, "sentiment": GUESS},
        {"sentiment_true": SENTIMENT, "sentiment_pred": GUESS},
        {"Label": SENTIMENT, "Prediction": GUESS, "sentence": ["word"] * ROWS},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_columns_are_found_by_their_names(score, tmp_path, columns):
    result = score(write_csv(tmp_path / "p.csv", **columns), "--as", "mosi")
    assert values(result, "mosi")["mae"] == pytest.approx(WANTED["mae"])
    assert result["by_utterance"]


def test_a_column_that_is_not_found_or_not_alone_is_asked_for(score, tmp_path):
    path = write_csv(tmp_path / "p.csv", truth_value=SENTIMENT, a=GUESS, b=GUESS)
    assert score(path, "--as", "mosi") == (
        f"--as mosi: {path}: no targets are found; name the column with --target COLUMN. It has truth_value, a, b"
    )
    result = score(path, "--as", "mosi", "--target", "truth_value", "--prediction", "b")
    assert result["definitions"]["mosi"]["columns"] == {"targets": ["truth_value"], "predictions": ["b"]}
    two = write_csv(tmp_path / "two.csv", label=SENTIMENT, pred=GUESS, output=GUESS)
    assert "several columns may be the predictions: pred, output; name the column" in score(two, "--as", "mosi")
    assert "--target=x: " in score(path, "--as", "mosi", "--target", "x", "--prediction", "a")
    assert "has no column 'x'; it has truth_value, a, b" in score(path, "--as", "mosi", "--group", "x", "--target", "a")


def test_dimensions_may_be_missing_and_stand_beside_their_targets(score, tmp_path):
    true = RNG.normal(3, 1, (ROWS, 3)).round(3)
    guess = true + RNG.normal(size=(ROWS, 3))
    cells = true.astype(str)
    cells[::7, 1] = ""
    names = ("valence", "arousal", "dominance")
    targets = {f"target_{name}": cells[:, i] for i, name in enumerate(names)}
    guesses = {name: guess[:, i] for i, name in enumerate(names)}
    result = score(write_csv(tmp_path / "vad.csv", **targets, **guesses), "--as", "vad")
    known = np.arange(ROWS) % 7 != 0
    for i, name in enumerate(names):
        of = known if i == 1 else np.ones(ROWS, bool)
        wanted = np.abs(true - guess)[of, i].mean()
        assert values(result, "vad")[f"mae_{name}"] == pytest.approx(wanted)
    swapped = write_csv(tmp_path / "v.csv", **dict(zip(names, true.T, strict=True)), pred_v=guess[:, 0],
                        pred_a=guess[:, 1], pred_d=guess[:, 2])  # fmt: skip
    assert values(score(swapped, "--as", "vad"), "vad")["mae_valence"] == pytest.approx(
        np.abs(true - guess)[:, 0].mean()
    )
    only_targets = write_csv(tmp_path / "t.csv", **dict(zip(names, true.T, strict=True)))
    assert "no targets are found of valence, arousal, dominance" in score(only_targets, "--as", "vad")


def test_arrays_in_two_files_and_in_one(score, tmp_path):
    np.save(tmp_path / "p.npy", GUESS[:, None].astype(np.float32))
    np.save(tmp_path / "t.npy", SENTIMENT)
    result = score(tmp_path / "p.npy", "--labels", tmp_path / "t.npy", "--as", "mosi")
    assert values(result, "mosi")["mae"] == pytest.approx(WANTED["mae"], abs=1e-6)
    np.save(tmp_path / "short.npy", SENTIMENT[:-1])
    assert f"has {ROWS} rows and {tmp_path / 'short.npy'} has {ROWS - 1}" in score(
        tmp_path / "p.npy", "--labels", tmp_path / "short.npy", "--as", "mosi"
    )
    np.savez(tmp_path / "both.npz", predictions=GUESS, labels=SENTIMENT[:-1])
    assert f"differs in length (predictions {ROWS}, labels {ROWS - 1})" in score(tmp_path / "both.npz", "--as", "mosi")


def test_what_hugging_face_leaves(score, tmp_path):
    wanted = sk.f1_score(EMOTION, LOGITS.argmax(1), average="weighted")
    np.savez(tmp_path / "trainer.npz", predictions=LOGITS, label_ids=EMOTION, loss=np.array(0.3))
    result = score(tmp_path / "trainer.npz", "--as", "meld")
    assert values(result, "meld")["weighted_f1"] == pytest.approx(wanted)
    assert "told by number" in result["definitions"]["meld"]["note"]
    for text in (
        json.dumps({"references": EMOTION.tolist(), "predictions": LOGITS.argmax(1).tolist(), "f1": wanted}),
        json.dumps([{"label": MELD[a], "logits": b} for a, b in zip(EMOTION, LOGITS.tolist(), strict=True)]),
    ):
        (tmp_path / "e.json").write_text(text)
        assert values(score(tmp_path / "e.json", "--as", "meld"), "meld")["weighted_f1"] == pytest.approx(wanted)
    lines = [f"{i}\t{MELD[k]}" for i, k in enumerate(LOGITS.argmax(1))]
    (tmp_path / "predict_results.txt").write_text("\n".join(["index\tprediction", *lines]) + "\n")
    order = RNG.permutation(ROWS)
    labels = write_csv(tmp_path / "labels.csv", index=order, emotion=[MELD[k].title() for k in EMOTION[order]])
    result = score(tmp_path / "predict_results.txt", "--labels", labels, "--as", "meld")
    assert values(result, "meld")["weighted_f1"] == pytest.approx(wanted)
    assert not result["definitions"]["meld"]["note"]


def test_what_mmsa_leaves(score, tmp_path):
    """Its label.csv with the parts of a corpus, its ids, and the table of scores that its runs end with."""
    video, clip = zip(*(name.split("$_$") for name in IDS), strict=True)
    labels = write_csv(tmp_path / "label.csv", video_id=[*video, "x"], clip_id=[*clip, 0], text=["t"] * (ROWS + 1),
                       label=[*SENTIMENT, 1], label_T=[0] * (ROWS + 1), mode=["test"] * ROWS + ["train"])  # fmt: skip
    order = RNG.permutation(ROWS)
    np.savez(tmp_path / "p.npz", id=np.array(IDS)[order], pred=GUESS[order])
    result = score(tmp_path / "p.npz", "--labels", labels, "--part", "test", "--as", "mosi")
    assert values(result, "mosi")["mae"] == pytest.approx(WANTED["mae"])
    assert result["definitions"]["mosi"]["groups"] == 12
    np.save(tmp_path / "p.npy", np.append(GUESS, 0))  # no ids: rows in the order of the labels, whose videos are known
    assert score(tmp_path / "p.npy", "--labels", labels, "--as", "mosi")["definitions"]["mosi"]["groups"] == 13
    by_text = score(tmp_path / "p.npy", "--labels", labels, "--as", "mosi", "--group", "text")
    assert (by_text["definitions"]["mosi"]["groups"], by_text["resampled"]) == (1, "the column text")
    assert f"{labels}, line {ROWS + 2}: " in score(tmp_path / "p.npz", "--labels", labels, "--as", "mosi")
    table = write_csv(tmp_path / "mosi.csv", Model=["tfn"], Has0_acc_2=[80], MAE=[90], Corr=[70])
    assert "is a table of scores, as MMSA writes it" in score(table, "--as", "mosi")
    (tmp_path / "p.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "is a pickle, which is not read" in score(tmp_path / "p.pkl", "--as", "mosi")
    np.save(tmp_path / "o.npy", np.array([{"label": 1}], object))
    assert "objects are not read" in score(tmp_path / "o.npy", "--as", "mosi")


def our_lines(seeds=(0, 1), folds=("a", "b"), values=""):
    """predictions.jsonl of a run with folds and seeds; the second seed is always wrong."""
    for seed in seeds:
        for i, label in enumerate(("hap", "sad", "neu", "ang", "exc", "fru") * 10):
            shares = {"ang": 0.1, "hap": 0.1, "sad": 0.1, "neu": 0.1, "exc": 0.1, "fru": 0.1}
            guess = label if seed == 0 else "sad" if label == "hap" else "hap"
            shares[guess] = 0.5
            yield {
                "replica": f"fold {folds[i % 2]}, seed {seed}{values and values[seed]}", "id": f"u{i}",
                "dialogue": f"d{i // 6}", "label": label, "prediction": guess, "probabilities": shares,
                "sentence": "x",
            }  # fmt: skip


def write_jsonl(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_our_own_predictions_are_scored_as_the_mean_over_seeds(score, tmp_path):
    result = score(write_jsonl(tmp_path / "p.jsonl", our_lines()), "--as", "iemocap")
    told = result["definitions"]["iemocap"]
    assert (told["members"], told["groups"], told["rows"]) == (2, 10, 60)
    assert values(result, "iemocap")["accuracy"] == pytest.approx(0.5)
    assert result["resampled"] == "the column dialogue"
    one = score(tmp_path / "p.jsonl", "--as", "iemocap", "--replica", "fold a, seed 0")
    assert (one["definitions"]["iemocap"]["rows"], values(one, "iemocap")["uar"]) == (30, 1)
    by_share = score(tmp_path / "p.jsonl", "--as", "iemocap", "--prediction", "probabilities")
    assert values(by_share, "iemocap") == values(result, "iemocap")
    write_jsonl(tmp_path / "p.jsonl", our_lines(values=(", rate=1", ", rate=2")))
    assert "are of several settings" in score(tmp_path / "p.jsonl", "--as", "iemocap")
    write_jsonl(tmp_path / "p.jsonl", list(our_lines())[:-1])
    assert "did not test the same utterances" in score(tmp_path / "p.jsonl", "--as", "iemocap")
    assert "--replica=x: " in score(tmp_path / "p.jsonl", "--as", "iemocap", "--replica", "x")


def test_iemocap_has_the_classes_that_the_file_names(score, tmp_path):
    four = write_csv(tmp_path / "4.csv", label=["happy", "Sad", "neutral", "anger"] * 5, prediction=["hap"] * 20)
    assert "one of 4 classes" in score(four, "--as", "iemocap")["definitions"]["iemocap"]["title"]
    six = write_csv(tmp_path / "6.csv", label=["happy", "Sad", "neutral", "excited"] * 5, prediction=["hap"] * 20)
    assert "one of 6 classes" in score(six, "--as", "iemocap")["definitions"]["iemocap"]["title"]
    odd = write_csv(tmp_path / "o.csv", label=["happy", "sad", "bored"], prediction=["hap"] * 3)
    assert score(odd, "--as", "iemocap").startswith(
        f"--as iemocap: {odd}, line 4: label is 'bored', which is none of the classes hap, sad, neu, ang, exc, fru"
    )
    odd = write_csv(tmp_path / "o.csv", label=["3", "2.0", "4"], prediction=["0", "1", "7"])
    assert f"{odd}, line 4: prediction is '7'" in score(odd, "--as", "iemocap")
    np.savez(tmp_path / "w.npz", logits=LOGITS[:, :5], labels=EMOTION % 4)
    assert "have 5 values in a row; here they must have 4 or 6" in score(tmp_path / "w.npz", "--as", "iemocap")


def test_emotions_are_scored_under_three_meanings_of_present(score, tmp_path):
    true = RNG.choice([0, 1 / 3, 0.5, 2 / 3, 1, 2], (ROWS, 6))
    share = 1 / (1 + np.exp(-RNG.normal(true, 2)))
    np.savez(tmp_path / "e.npz", targets=true, probabilities=share)
    names = [name for name in DEFINITIONS if name.startswith("mosei-emotions")]
    result = score(tmp_path / "e.npz", *(word for name in names for word in ("--as", name)))
    for name, present in zip(names, (true > 0, true >= 0.5, true >= 1), strict=True):
        wanted = np.mean([sk.f1_score(present[:, i], share[:, i] > 0.5) for i in range(6)])
        assert values(result, name)["macro_f1"] == pytest.approx(wanted)
        exact = average_precision(present[:, 0], share[:, 0])
        assert values(result, name)["ap_happy"] == pytest.approx(exact, abs=0.02)
    logits = np.log(share / (1 - share))
    np.savez(tmp_path / "l.npz", targets=true, logits=logits)
    assert "which is no probability; --logits says" in score(tmp_path / "l.npz", "--as", "mosei-emotions")
    of_logits = score(tmp_path / "l.npz", "--as", "mosei-emotions", "--logits")
    assert values(of_logits, "mosei-emotions") == pytest.approx(values(result, "mosei-emotions"))


def test_all_that_fits_stands_side_by_side_and_the_rest_says_why_not(score, tmp_path, capsys):
    path = write_csv(tmp_path / "p.csv", label=SENTIMENT / 4, prediction=GUESS)
    result = score(path, "--as", "all")
    assert list(result["definitions"]) == ["mosi", "mosei", "sims"]
    assert result["do_not_fit"].keys() == DEFINITIONS.keys() - result["definitions"].keys()
    assert re.search(r"sims +Acc-3 \(%\)", capsys.readouterr().out)
    assert score(write_csv(tmp_path / "n.csv", x=[1], y=[2]), "--as", "all").startswith("no definition fits:\n  mosi: ")


@pytest.mark.parametrize(
    ("row", "wrong", "said"),
    [
        (4, {"prediction": "nan"}, "line 6: the prediction prediction is nan; it must be a number"),
        (4, {"prediction": ""}, "line 6: the prediction prediction is '', not a number"),
        (4, {"prediction": "high"}, "line 6: the prediction prediction is 'high', not a number"),
        (4, {"prediction": "inf"}, "line 6: the prediction prediction is inf; it must be a number"),
        (7, {"label": "4"}, "line 9: the target label is 4; here it must be from -3 to 3"),
        (7, {"label": "-3.5"}, "line 9: the target label is -3.5; here it must be from -3 to 3"),
        (7, {"label": "good"}, "line 9: label is 'good', not a number"),
        (9, {"id": IDS[3]}, "line 11: the id 'v0$_$3' is that of line 5, too; each must be there once"),
        (9, {"id": ""}, "line 11: the id is empty"),
    ],
)
def test_a_wrong_cell_is_told_with_its_line(score, tmp_path, row, wrong, said):
    columns = {"id": list(IDS), "label": [str(x) for x in SENTIMENT], "prediction": [str(x) for x in GUESS]}
    for name, cell in wrong.items():
        columns[name][row] = cell
    path = write_csv(tmp_path / "p.csv", **columns)
    told = score(path, "--as", "mosi")
    assert f"{path}, {said}" in told
    assert "\n" not in told


def test_a_target_that_is_not_known_is_not_scored(score, tmp_path):
    cells = [str(x) for x in SENTIMENT]
    cells[0], cells[5] = "", "NaN"
    result = score(write_csv(tmp_path / "p.csv", label=cells, prediction=["", *GUESS[1:]]), "--as", "mosi")
    known = ~np.isin(np.arange(ROWS), [0, 5])
    assert values(result, "mosi")["mae"] == pytest.approx(np.abs(SENTIMENT - GUESS)[known].mean())
    assert result["definitions"]["mosi"]["without_target"] == 2
    none = write_csv(tmp_path / "n.csv", label=["", ""], prediction=[1, 2])
    assert "no row has a target in label" in score(none, "--as", "mosi")


def test_two_files_are_joined_by_id_and_must_be_of_the_same_utterances(score, tmp_path):
    predictions = write_csv(tmp_path / "p.csv", id=IDS[:-1], prediction=GUESS[:-1])
    labels = write_csv(tmp_path / "l.csv", id=IDS[::-1], label=SENTIMENT[::-1])
    assert score(predictions, "--labels", labels, "--as", "mosi").startswith(
        f"{labels}, line 2: {predictions} has no prediction of the id {IDS[-1]!r}."
    )
    whole = write_csv(tmp_path / "w.csv", id=IDS, prediction=GUESS)
    result = score(whole, "--labels", labels, "--as", "mosi")
    assert values(result, "mosi")["mae"] == pytest.approx(WANTED["mae"])
    fewer = write_csv(tmp_path / "f.csv", id=IDS[:-2], label=SENTIMENT[:-2])
    assert f"line {ROWS}: the id {IDS[-2]!r} is not in {fewer}, nor are 1 more" in score(
        whole, "--labels", fewer, "--as", "mosi"
    )
    doubled = write_csv(tmp_path / "d.csv", id=[IDS[0], *IDS], label=[1, *SENTIMENT])
    assert f"{doubled}, line 3: the id {IDS[0]!r} is that of line 2" in score(
        whole, "--labels", doubled, "--as", "mosi"
    )


def test_groups_make_intervals_wider_where_their_rows_are_alike(score, tmp_path):
    right = np.repeat(RNG.random(24) < 0.5, 5)
    columns = {"label": np.ones(ROWS), "prediction": np.where(right, 1, -1), "clip": [i // 5 for i in range(ROWS)]}
    path = write_csv(tmp_path / "p.csv", **columns)
    alone, grouped = score(path, "--as", "mosi"), score(path, "--as", "mosi", "--group", "clip")
    width = [
        one["high"] - one["low"] for one in (r["definitions"]["mosi"]["scores"]["acc2_pos"] for r in (alone, grouped))
    ]
    assert width[1] > 1.5 * width[0]
    assert (alone["by_utterance"], grouped["by_utterance"]) == (True, False)
    assert grouped["resampled"] == "the column clip"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "", "has no rows"),
        ("p.csv", "label,prediction\n", "has no rows"),
        ("p.csv", "label,label,prediction\n1,2,3\n", "line 1: the column 'label' is there 2 times"),
        ("p.csv", "label,prediction\n1\n", "line 2: it has another number of fields than the header"),
        ("p.jsonl", '{"label": 1, "prediction": 1}\n{"label"\n', "line 2 is not valid JSON"),
        ("p.jsonl", "[1, 2]\n", "line 1: it is [1, 2]; it must be an object"),
        ("p.jsonl", '{"logits": [1, 2]}\n{"logits": [1]}\n', "line 2: logits has logits[0]; other rows have"),
        ("p.json", '{"references": [1], "predictions": [1, 2]}', "differs in length (references 1, predictions 2)"),
        ("p.json", '{"accuracy": 0.5}', "must be a list of objects"),
        ("p.json", "{\n", "line 2 is not valid JSON"),
        ("p.npz", "no archive", "cannot be read as npz"),
        ("p.xlsx", "", "must end in .csv"),
    ],
)
def test_a_file_that_is_no_table_is_refused(score, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    told = score(tmp_path / name, "--as", "mosi")
    assert told.startswith(str(tmp_path / name))
    assert said in told


def test_flags_that_cannot_be_are_refused(score, mosi, tmp_path):
    assert score(mosi, "--as", "most").startswith("--as most: must be one of mosi, mosei, sims, vad")
    assert score(tmp_path / "none.csv", "--as", "mosi") == f"{tmp_path / 'none.csv'} does not exist"
    assert "--part is of the file that --labels names" in score(mosi, "--as", "mosi", "--part", "test")
    with pytest.raises(SystemExit):
        command.main([str(mosi), "--as", "mosi", "--samples", "5"])


def test_the_command_starts_without_jax_and_at_once(mosi):
    code = (
        "import sys; from mer_jax.score.command import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    began = time.monotonic()
    line = [sys.executable, "-c", code, str(mosi), "--as", "mosi"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 5  # a second alone; machines that test are busy
    assert not {"jax", "flax", "optax", "torch", "sklearn"} & set(done.stderr.split())
    shown = subprocess.run([sys.executable, "-m", "mer_jax.score", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert "python -m mer_jax.score FILE --as mosi" in shown.stdout


def test_every_definition_says_whose_it_is():
    for name, row in DEFINITIONS.items():
        for names in row.names:
            definition = row.make(names)
            assert definition.source, name
            assert definition.excluded.keys() <= definition.metrics.keys()
