"""The test part locked while tuning, scored once later, and the ledger of all looks at it."""

import concurrent.futures
import contextlib
import io
import json
import os
import shutil

import pytest
from conftest import ROOT, small_description, small_utterances
from etils import epath
from experiments import of_folds_and_seeds
from runs import snapshot, without_looks

import mer_jax
from mer_jax import compare, config, experiment
from mer_jax.data import ledger, protocols
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation import final, summary
from mer_jax.evaluation.finished_run import metrics_of, read_run
from mer_jax.evaluation.score_table import looks
from mer_jax.export.model_card import _scores
from mer_jax.predict import command as predict_command
from mer_jax.report import render
from mer_jax.runtime.console import console
from mer_jax.tasks import task_of

OF_TEST = ("predictions.jsonl", "map.json", "explain.json")


def settings(**train):
    """Two of three folds, and two points of a sweep."""
    found = of_folds_and_seeds(seeds=1, folds=(0, 1), grid="model.dropout=0.1,0.3")
    found.train.epochs = 1
    for name, value in train.items():
        setattr(found.train, name, value)
    return config.validate(found)


def said(function, *arguments, **named):
    """What the function returns, and what it prints, in one line."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        found = function(*arguments, **named)
    return found, " ".join(out.getvalue().split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus; a run that scores the test part at its end, and one that does not, with what they printed."""
    folder = tmp_path_factory.mktemp("locked")
    write_corpus(folder / "corpus", small_utterances(), small_description())
    corpus = Corpus(folder / "corpus")
    printed = {}
    for name, score_test in (("locked", False), ("open", True)):
        _, printed[name] = said(experiment.run, settings(score_test=score_test), corpus, folder / name)
        printed[f"{name} looks"] = counted(folder)
    return folder, printed


@pytest.fixture
def copy(made, tmp_path):
    """The folder again, to be changed, as if the runs had been made there: only the ledger says where."""
    shutil.copytree(made[0], tmp_path / "copy")
    path = tmp_path / "copy" / "corpus" / ledger.FILE
    path.write_text(path.read_text().replace(str(made[0]), str(tmp_path / "copy")))
    return tmp_path / "copy"


def counted(folder):
    path = folder / "corpus" / ledger.FILE
    return len(path.read_text().splitlines()) if path.exists() else 0


def places(tree, name, where=""):
    """Where the name is a key of the tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if key == name:
            yield f"{where}{key}"
        yield from places(value, name, f"{where}{key}.")


@pytest.mark.slow
def test_a_locked_run_tells_nothing_of_its_test_part(made):
    folder, printed = made
    known = json.loads((folder / "locked" / "metrics.json").read_text())
    assert set(places(known, "test")) == {"protocol.test", *(f"data.counts.{fold}.test" for fold in "123")}
    assert known["data"]["counts"]["1"]["test"].keys() == {"utterances", "truncated", "nonfinite_zeroed"}
    for name in ("test_scaled", "pooled", "interval", "ensemble", "test_looks"):
        assert not list(places(known, name)), name
    assert not [name for name in (*OF_TEST, "robustness.json") if (folder / "locked" / name).exists()]
    assert printed["locked looks"] == 0
    assert "the test part is locked, until --mode=test scores it" in printed["locked"]
    assert "validation of small, protocol kfold_dialogue:3" in printed["locked"]
    assert "chosen by validation: model.dropout=" in printed["locked"]
    assert "test of small" not in printed["locked"]
    scored = json.loads((folder / "open" / "metrics.json").read_text())
    assert known["valid"] == scored["valid"]
    for mine, its in zip(known["replicas"], scored["replicas"], strict=True):
        assert mine["valid"] == its["valid"]
        for name in ("temperature", "scaling"):
            assert mine["calibration"][name] == its["calibration"][name]
    assert printed["open looks"] == 1
    assert "test (looked at once) of small" in printed["open"]


@pytest.mark.slow
def test_what_reads_a_run_says_that_the_test_part_is_locked(made, tmp_path):
    folder, _ = made
    page = (folder / "locked" / "report.html").read_text()
    assert "Validation scores" in page
    assert "Validation utterances" in page
    assert "test: locked, until --mode=test scores it." in page
    for left_out in ("The map of the utterances", "What each modality adds", "The most confident mistakes"):
        assert left_out in page
    assert "Test scores" not in page
    assert "<td>-</td></tr>" not in page.partition("What the parts share")[2].partition("Points")[0]
    render.write([folder / "locked", folder / "open"], tmp_path / "both.html")
    both = (tmp_path / "both.html").read_text()
    assert "<td>locked</td>" in both
    assert "test part locked" in both
    assert "looked at once" in both
    with pytest.raises(UserError, match=r"nothing to compare: the test part of .*locked is locked, until"):
        compare.compare(read_run(folder / "open"), read_run(folder / "locked"))


@pytest.mark.slow
def test_predictions_of_a_locked_test_part_are_not_scored(copy, capsys, monkeypatch):
    """Its folds test the whole corpus together."""
    monkeypatch.setattr(console, "stderr", False)  # what the command sets is undone
    for name, told in (("locked", False), ("open", True)):
        given = [copy / name, copy / "corpus", "--out", copy / f"{name}.jsonl"]
        assert predict_command.predict(predict_command.flags().parse_args(list(map(str, given)))) == 0
        printed = " ".join(capsys.readouterr().err.split())
        assert ("with a known label" in printed) is told
        assert ("are of the run's test part, which is locked, until --mode=test scores it" in printed) is not told
    assert (copy / "locked.jsonl").read_text().count("\n") == len(Corpus(copy / "corpus"))


@pytest.mark.slow
def test_a_locked_run_predicts_as_the_scored_one(made):
    folder, _ = made
    corpus = Corpus(folder / "corpus")
    features = corpus[int(corpus.rows("valid")[0])].features
    found, wanted = (next(mer_jax.load(folder / name).predict(dict(features))) for name in ("locked", "open"))
    assert found.probabilities == wanted.probabilities
    locked, scored = (mer_jax.load(folder / name) for name in ("locked", "open"))
    with pytest.raises(UserError, match=r"--only-test: the test part of .*locked is locked"):
        predict_command.tested_ids(locked, None)
    assert predict_command.tested_ids(scored, None)
    cards = {}
    for model in (locked, scored):
        result = model.metrics["replicas"][0]
        task = model.task.card(list(model.modalities), result, "validation")
        cards[model is locked] = "\n".join(_scores(model, result, task))
    assert "## Scores on the validation part" in cards[True]
    assert "The test part is locked" in cards[True]
    assert "Calibration on the test part" not in cards[True]
    assert "The test part was looked at once when this run scored it." in cards[False]


@pytest.mark.slow
def test_scored_later_it_is_the_run_that_was_never_locked(copy):
    corpus, run = Corpus(copy / "corpus"), copy / "locked"
    for name in OF_TEST:
        assert not (run / name).exists()
    found, printed = said(experiment.score_test, settings(score_test=False), corpus, run)
    assert "test (looked at 2 times) of small" in printed
    assert "these figures are not those of the run" not in printed
    assert found["protocol"]["test_looks"] == counted(copy) == 2
    for name in ("metrics.json", *OF_TEST):
        ours, wanted = (without_looks(name, (folder / name).read_bytes()) for folder in (run, copy / "open"))
        assert ours == wanted, name
    assert "Test scores" in (run / "report.html").read_text()
    before = snapshot(run)
    _, printed = said(experiment.score_test, settings(), corpus, run)
    assert "without another look" in printed
    assert "test (looked at 2 times) of small" in printed
    assert snapshot(run) == before
    assert counted(copy) == 2
    for line in map(json.loads, (copy / "corpus" / ledger.FILE).read_text().splitlines()):
        assert line["replicas"] == 4
    assert line["mode"] == "test"
    assert line["workdir"] == str(run)


@pytest.mark.slow
def test_eval_looks_only_at_what_is_not_locked(copy):
    corpus = Corpus(copy / "corpus")
    code, printed = said(final.score_again, settings(), corpus, epath.Path(copy / "locked"))
    assert code == 0
    assert "the same figures as in metrics.json" in printed
    assert counted(copy) == 1
    before = snapshot(copy / "open")
    code, printed = said(final.score_again, settings(score_test=False), corpus, epath.Path(copy / "open"))
    assert code == 0
    assert "test (looked at 2 times) of small" in printed
    assert counted(copy) == 2
    assert snapshot(copy / "open") == before
    path = copy / "locked" / "metrics.json"
    text = json.loads(path.read_text())
    text["replicas"][0]["valid"]["accuracy"] += 0.01
    path.write_text(json.dumps(text))
    code, printed = said(final.score_again, settings(), corpus, epath.Path(copy / "locked"))
    assert code == 1
    assert "valid.accuracy" in printed


@pytest.mark.slow
def test_robustness_is_a_look_and_refused_while_locked(copy):
    corpus = Corpus(copy / "corpus")
    with pytest.raises(UserError, match=r"--mode=robustness looks at the test part; that of .*locked is locked"):
        experiment.measure_robustness(settings(), corpus, epath.Path(copy / "locked"), None)
    assert counted(copy) == 1
    _, printed = said(experiment.measure_robustness, settings(), corpus, epath.Path(copy / "open"), None)
    assert "the test part was looked at 2 times" in printed
    assert counted(copy) == 2


@pytest.mark.slow
def test_the_same_command_on_a_finished_locked_run_leaves_it_locked(copy):
    before = {name: content for name, content in snapshot(copy / "locked").items() if name != "report.html"}
    _, printed = said(experiment.run, settings(), Corpus(copy / "corpus"), copy / "locked")
    assert "its test part is locked, --mode=test scores it" in printed
    assert {name: content for name, content in snapshot(copy / "locked").items() if name != "report.html"} == before
    assert counted(copy) == 1


@pytest.mark.slow
def test_a_command_that_is_killed_at_its_look_looks_again(copy, monkeypatch):
    """Nothing of the test part is told meanwhile, whatever files it had written."""
    corpus, run = Corpus(copy / "corpus"), copy / "locked"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(final, "print_result", killed)
        patched.setattr(final.run_log, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            experiment.score_test(settings(), corpus, run)
    assert (run / "predictions.jsonl").exists()
    assert counted(copy) == 2
    assert len(read_run(run).predictions.ids) == 0
    found, _ = said(experiment.score_test, settings(), corpus, run)
    assert found["protocol"]["test_looks"] == counted(copy) == 2


@pytest.mark.slow
def test_carrying_on_locked_removes_what_a_killed_command_had_told(copy, monkeypatch):
    corpus, run = Corpus(copy / "corpus"), copy / "open"
    (run / "metrics.json").unlink()  # as if it had been killed just before
    known = said(experiment.run, settings(score_test=False), corpus, run)[0]
    assert known["protocol"]["locked"]
    assert not [name for name in OF_TEST if (run / name).exists()]
    assert without_looks_of(known) == without_looks_of(metrics_of(copy / "locked" / "metrics.json"))


def without_looks_of(metrics):
    return {name: metrics[name] for name in ("valid", "points", "replicas", "protocol")}


@pytest.mark.slow
def test_a_ledger_that_cannot_be_written_ends_no_run(copy):
    path = copy / "corpus" / ledger.FILE
    path.unlink()
    path.mkdir()
    found, printed = said(experiment.score_test, settings(), Corpus(copy / "corpus"), copy / "locked")
    assert found["protocol"]["test_looks"] is None
    assert (
        f"note: {path}: Is a directory. This look at the test part is not counted; how many there were is not"
        in printed
    )
    assert "test (looked at an unknown number of times) of small" in printed
    assert "looked at an unknown number of times" in (copy / "locked" / "report.html").read_text()


def test_the_test_part_that_chooses_cannot_be_locked():
    found = of_folds_and_seeds()
    found.data.protocol, found.train.score_test = "published", False
    with pytest.raises(
        UserError, match=r"--config.train.score_test=False: must be True: under data.protocol=published"
    ):
        config.validate(found)


def test_whether_the_test_part_is_locked_is_no_part_of_what_a_run_computes():
    free = config.fields_without_result(settings())
    assert "train.score_test" in free


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["points"][0].update(test={}), "field 'points.0.test' is there, though field 'protocol.locked'"),
        (lambda m: m["replicas"][1].update(test={}), "field 'replicas.1.test' is there"),
        (lambda m: m["points"][0].update(conversation={"positions": {}}), "field 'points.0.conversation' is there"),
        (lambda m: m["protocol"].pop("locked"), "field 'points.0.test' is missing"),
        (lambda m: m["protocol"].update(test_looks=-1), "protocol.test_looks"),
        (lambda m: m["replicas"][0]["calibration"].pop("temperature"), "replicas.0.calibration.temperature"),
    ],
)
def test_metrics_that_contradict_the_lock_are_refused(copy, change, message):
    path = copy / "locked" / "metrics.json"
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=message):
        read_run(copy / "locked")


@pytest.mark.slow
def test_the_table_of_a_sweep_says_whose_scores_it_shows(made):
    folder, _ = made
    task = task_of(Corpus(folder / "corpus"))
    locked, scored = (metrics_of(folder / name / "metrics.json") for name in ("locked", "open"))
    table = summary.markdown(task, {"a": locked, "b": locked})
    assert "Validation scores: the test part is locked." in table
    assert "| 95 % |" not in table
    value = task.metrics[task.main_metric].format_mean(locked["valid"][task.main_metric])
    assert f"| {value} |" in table
    mixed = summary.markdown(task, {"a": locked, "b": scored})
    assert "The test part was looked at once." in mixed
    assert "| locked | - | locked |" in mixed


# ---- the ledger ----


def look(**changes):
    found = {
        "time": "2026-11-29T12:00:00+00:00", "mer_jax": "0", "mode": "train", "protocol": "official", "split_sha256": "s",
        "test_sha256": "t", "workdir": "/runs/a", "experiment": "a", "config_sha256": "c", "checkpoint_sha256": "k",
        "replicas": 1,
    }  # fmt: skip
    return found | changes


def test_looks_at_one_test_part_are_counted(tmp_path):
    assert ledger.add(tmp_path, look()).count == 1
    assert ledger.add(tmp_path, look()).count == 2
    assert ledger.add(tmp_path, look(test_sha256="other")).count == 1
    assert ledger.add(tmp_path, look(), once=True).count == 2
    assert ledger.add(tmp_path, look(mode="test", config_sha256="d"), once=True).count == 2
    assert ledger.add(tmp_path, look(workdir="/runs/b"), once=True).count == 3
    assert ledger.add(tmp_path, look(checkpoint_sha256="l"), once=True).count == 4
    assert len((tmp_path / ledger.FILE).read_text().splitlines()) == 5


def test_damaged_lines_are_told_and_count(tmp_path):
    good = json.dumps(look())
    lines = [
        good,
        '{"time": "2',
        "",
        "\xff",
        json.dumps(look(replicas=-1)),
        "[" * 100_000,
        "[]",
        json.dumps(look(mode=3)),
    ]
    (tmp_path / ledger.FILE).write_bytes("\n".join([*lines, good[:40]]).encode("latin-1"))
    found = ledger.add(tmp_path, look())
    assert found == ledger.Looks(count=2 + 7, damaged=(2, 4, 5, 6, 7, 8, 9))
    assert ledger.add(tmp_path, look()).count == 10


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "dangling"])
def test_what_is_no_file_is_neither_followed_nor_waited_for(tmp_path, kind):
    path, other = tmp_path / "corpus" / ledger.FILE, tmp_path / "other"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
        if kind == "link":
            other.write_text("mine")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one depends on the kind
        ledger.add(path.parent, look())
    assert caught.value.filename == str(path)
    assert not other.exists() or other.read_text() == "mine"


def test_a_full_disk_leaves_the_lines_as_they_were(tmp_path, monkeypatch):
    ledger.add(tmp_path, look())
    before = (tmp_path / ledger.FILE).read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:7]))
    with pytest.raises(OSError, match="No space left"):
        ledger.add(tmp_path, look())
    assert (tmp_path / ledger.FILE).read_bytes() == before


def add_many(folder, number):
    about = [look(workdir=f"/runs/{number}-{i}", experiment="x" * 5000) for i in range(20)]
    return [ledger.add(folder, one, once=True).count for one in about]


def test_many_count_at_the_same_time(tmp_path):
    """Threads stand for processes: flock keeps apart who opens a file, whoever that is."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        counts = [count for found in pool.map(add_many, [tmp_path] * 4, range(4)) for count in found]
    assert sorted(counts) == list(range(1, 81))
    assert ledger.add(tmp_path, look()) == ledger.Looks(count=81, damaged=())


def test_a_lock_that_is_never_released_is_not_waited_for(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(ledger, "WAIT_SECONDS", 0.1)
    with open(tmp_path / ledger.FILE, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            ledger.add(tmp_path, look())


def test_looks_are_told_and_those_of_every_epoch_where_the_test_part_chooses():
    honest = {"locked": False, "selects_on": "validation"}
    assert looks(honest) == ""
    told = {count: looks(honest | {"test_looks": count}) for count in (1, 2, None)}
    assert told == {1: "looked at once", 2: "looked at 2 times", None: "looked at an unknown number of times"}
    assert looks({"selects_on": "test", "test_looks": 1}) == "looked at once, and in every epoch"


def test_a_test_part_is_its_utterances_however_they_are_folded(demo, dialogue_folder):
    corpus = Corpus(dialogue_folder)
    part = lambda protocol, seed: ledger.test_part(corpus, protocols.split(corpus, protocol, seed))  # noqa: E731
    assert part("kfold_dialogue:3", 0) == part("kfold_dialogue:3", 1) == part("loso", 0)
    assert part("dialoguernn", 0) == part("dialoguernn", 1) != part("loso", 0)
    drawn = {protocols.sha256(corpus, protocols.split(corpus, "loso", seed)) for seed in range(9)}
    assert len(drawn) > 1, "else the seed draws no validation part here"


@pytest.mark.slow
def test_a_ledger_is_no_part_of_the_corpus(made, run_cli):
    folder, _ = made
    assert counted(folder) >= 1
    done = run_cli(folder / "corpus", module="mer_jax.data")
    assert done.returncode == 0, done.stderr
    assert "every record and sha256 verified" in done.stdout


@pytest.mark.slow
def test_the_command(run_cli, tmp_path, small_corpus):
    flags = [f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny", f"--config.data.path={small_corpus}"]
    flags += ["--config.train.batch_size=8", "--config.train.epochs=1", f"--workdir={tmp_path / 'w'}"]
    refused = run_cli(*flags, "--mode=test")
    assert refused.returncode == 2
    assert "w holds no finished run; the same command without --mode=test finishes it" in refused.stderr
    locked = run_cli(*flags, "--config.train.score_test=False")
    assert locked.returncode == 0, locked.stderr
    assert "locked, until --mode=test scores it" in locked.stdout
    scored = run_cli(*flags, "--mode=test")
    assert scored.returncode == 0, scored.stderr
    assert "test (looked at once) of small" in " ".join(scored.stdout.split())
