"""A finished run is loaded and predicts: from the package and from the command."""

import copy
import csv
import json
import runpy
import shutil

import numpy as np
import pytest
import store
from conftest import ROOT, small_description, small_utterances, user_env

import mer_jax
from mer_jax.data import loader
from mer_jax.data.corpus import Corpus, Manifest
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation import attribution
from mer_jax.metrics.calibration import temperature_scale
from mer_jax.models import vsc
from mer_jax.predict import command, output, predictor
from mer_jax.predict.item import Item
from mer_jax.predict.prediction import Prediction, empty_output
from mer_jax.runtime import checkpoint
from mer_jax.tasks.classification import Classification

CONFIG = f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny"


@pytest.fixture(scope="module")
def run(cache_home):
    """The workdir of a run on a small corpus, which lies beside it."""

    def command(workdir):
        write_corpus(workdir.parent / "small", small_utterances(240), small_description(), shard_records=50)
        return [
            CONFIG,
            f"--workdir={workdir}",
            f"--config.data.path={workdir.parent / 'small'}",
            "--config.train.batch_size=16",
            "--config.replicas.seeds=2",
        ]

    workdir, _ = store.finished_run("two-seeds", command, user_env(cache_home))
    assert (workdir / "report.html").stat().st_size > 10_000
    return workdir


def known(run, replica=0):
    """The run's own test: probabilities by id, temperature-scaled as predictions are."""
    metrics = json.loads((run / "metrics.json").read_text())["replicas"][replica]
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    mine = [row for row in rows if row["replica"] == metrics["name"]]
    p = temperature_scale(
        np.array([list(row["probabilities"].values()) for row in mine]), metrics["calibration"]["temperature"]
    )
    return {row["id"]: values for row, values in zip(mine, p, strict=True)}, metrics


@pytest.mark.slow
def test_a_run_is_loaded_by_a_relative_path(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    model = mer_jax.load(run.name)
    (found,) = model.predict({"text": np.ones((3, 6), np.float32)})
    assert found.prediction in model.task.outputs


@pytest.mark.slow
def test_three_lines_give_the_figures_of_the_runs_own_test(run):
    model = mer_jax.load(run)
    wanted, metrics = known(run)
    found = {p.id: p for p in model.predict(run.parent / "small", attribution=True, batch_size=16)}
    assert len(found) == 240
    for name, p in wanted.items():
        np.testing.assert_allclose(list(found[name].probabilities.values()), p, atol=2e-5)
    right = [found[name].prediction == found[name].label for name in wanted]
    assert np.mean(right) == pytest.approx(metrics["test"]["accuracy"])
    corpus = Corpus(run.parent / "small")
    for row in range(0, 240, 17):
        one = found[str(corpus.index["id"][row])]
        length = corpus.index["length/text"][row]
        assert one.attribution.integrated_gradients["text"].shape == (length,)
        assert one.attribution.attention["text"].shape == (3, length)
        np.testing.assert_allclose(one.attribution.attention["text"].sum(-1), 1, atol=1e-5)
        told = json.loads(json.dumps(one.to_json()))["attribution"]
        assert set(told["shapley"]) == {"text", "audio"}
        assert set(told) == {"shapley", "evidence", "attention", "gap"}
        assert one.sentence.startswith("Sentence “")
    both = {p.id: p for p in model.predict(run.parent / "small", replica="all")}
    name = next(iter(wanted))
    mean = (wanted[name] + known(run, 1)[0][name]) / 2
    np.testing.assert_allclose(list(both[name].probabilities.values()), mean, atol=2e-5)


@pytest.mark.slow
def test_bad_items_among_good_ones(run):
    model = mer_jax.load(run)
    text, long = (
        np.ones((3, 6), np.float32),
        np.random.default_rng(0).normal(size=(5000, 6)) + np.arange(5000)[:, None] / 500,
    )
    items = [
        Item("good", {"text": text, "audio": np.ones((1, 4))}),
        Item("wide", {"text": np.ones((3, 7))}),
        Item("nan", {"text": text * np.nan}),
        Item("nothing", {}),
        Item("half", {"text": text}),
        Item("long", {"text": long, "audio": np.ones((1, 4))}),
        Item("cut", {"text": long[:4096], "audio": np.ones((1, 4))}),
    ]
    found = list(model.predict(iter(items)))
    assert (found[1].prediction, found[1].probabilities) == ("", {})
    assert [p.id for p in found] == [item.id for item in items]
    assert [bool(p.error) for p in found] == [False, True, True, True, False, False, False]
    assert "[time, 6]" in found[1].error
    assert found[4].notes == ("predicted without audio",)
    assert "5,000 steps, the first 4,096 steps of which are read (data.max_length)" in found[5].notes[0]
    assert found[5].probabilities == pytest.approx(found[6].probabilities, abs=1e-6)
    (alone,) = model.predict({"text": text, "audio": np.ones((1, 4))})
    np.testing.assert_allclose(list(alone.probabilities.values()), list(found[0].probabilities.values()), atol=1e-6)
    with pytest.raises(UserError, match="replica 9"):
        next(model.predict(items, replica=9))


@pytest.mark.slow
def test_the_command_writes_tables_and_scores(run, run_cli, tmp_path):
    out = tmp_path / "p.csv"
    done = run_cli(run, run.parent / "small", "--only-test", "--out", out, module="mer_jax.predict")
    assert done.returncode == 0, done.stderr
    with open(out) as file:
        rows = list(csv.DictReader(file))
    wanted, metrics = known(run)
    assert {row["id"] for row in rows} == wanted.keys()
    assert f"accuracy {metrics['test']['accuracy']:.4f}" in done.stderr
    assert "probabilities are as the model gives them: temperature scaling is left out, since" in done.stderr
    shard = next((run.parent / "small").glob("test-*.tfrecord"))
    lines = run_cli(run, shard, module="mer_jax.predict")
    assert lines.returncode == 0, lines.stderr
    shown = [json.loads(line) for line in lines.stdout.splitlines()]
    assert len(shown) == 50
    for one in shown[:5]:
        np.testing.assert_allclose(list(one["probabilities"].values()), wanted[one["id"]], atol=2e-5)


def damaged(run, tmp_path, change):
    shutil.copytree(run, tmp_path / "copy")
    change(tmp_path / "copy")
    return tmp_path / "copy"


def other_version(copy):
    text = json.loads((copy / "config.json").read_text())
    text["versions"]["mer_jax"] = "0.3.0"
    del text["config"]["train"]["patience"]
    (copy / "config.json").write_text(json.dumps(text))


def flipped(copy):
    newest = max((p for p in (copy / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    for path in (newest / "state").rglob("d/*"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)


def other_sum(copy):
    """Of one array, as if a bit of it had changed and the file still were readable."""
    newest = max((p for p in (copy / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    path = newest / "info" / "metadata"
    text = json.loads(path.read_text())
    name = next(name for name in text["sums"] if name.startswith("best/params"))
    text["sums"][name] ^= 1
    path.write_text(json.dumps(text))


def other_digest(copy):
    """As if the checkpoint were of another run with the same steps."""
    text = json.loads((copy / "metrics.json").read_text())
    text["checkpoint"]["sha256"] = "0" * 64
    (copy / "metrics.json").write_text(json.dumps(text))


def other_config(copy):
    """Whose models these arrays fit, too."""
    text = json.loads((copy / "config.json").read_text())
    text["config"]["loss"]["temperature"] = 3.0
    (copy / "config.json").write_text(json.dumps(text))


BROKEN = [
    (other_config, r"loss\.temperature: .* -> 3\.0"),
    (other_digest, "is not the one that metrics.json tells of"),
    (lambda copy: (copy / "metrics.json").unlink(), "unfinished run"),
    (lambda copy: (copy / "config.json").unlink(), "holds no run"),
    (lambda copy: (copy / "config.json").write_text("{"), "not valid JSON"),
    (other_version, "written by mer_jax 0.3.0"),
    (
        lambda copy: (copy / "manifest.json").write_text(
            (copy / "manifest.json").read_text().replace('"small"', '"other"')
        ),
        "not the manifest",
    ),
    (lambda copy: shutil.rmtree(copy / "checkpoints"), "holds no checkpoint"),
    (flipped, "is damaged"),
    (other_sum, "is not what was saved"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_run_that_cannot_be_loaded_says_why(run, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        mer_jax.load(damaged(run, tmp_path, change))


@pytest.mark.slow
def test_arrays_of_another_model_are_refused(run, monkeypatch):
    """As where an earlier version's model had other layers."""
    read = checkpoint.best_models

    def without_one(folder):
        info, best, digest = read(folder)
        return info, best | {"params": dict([*best["params"].items()][1:])}, digest

    monkeypatch.setattr(checkpoint, "best_models", without_one)
    with pytest.raises(UserError, match=r"another model than this version's: array params/\S+ is missing"):
        mer_jax.load(run)


@pytest.mark.slow
def test_features_of_another_extractor_are_refused(run, tmp_path):
    write_corpus(
        tmp_path / "other", small_utterances(12), small_description(extractors={"text": "random", "audio": "else"})
    )
    model = mer_jax.load(run)
    with pytest.raises(UserError, match="made by 'else'"):
        next(model.predict(tmp_path / "other"))
    assert len(list(model.predict(tmp_path / "other", any_extractor=True))) == 12
    with pytest.raises(UserError, match="random"):  # an extractor that nobody can run
        list(model.predict(text_of(tmp_path)))


def text_of(folder):
    path = folder / "said.txt"
    path.write_text("One.\nTwo.\n")
    return path


REFUSED = [
    (["--out", "x.xml"], "must end in .jsonl or .csv"),
    (["--out", "x.csv", "--attribution"], "no columns"),
    (["--hop", "1"], "--window"),
    (["--sentence", "a"], "is of one clip"),
    (["--labels", "a,b"], "are of a pack"),
    (["--batch-size", "0"], "at least 1"),
    (["nowhere.wav"], "does not exist"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_what_the_command_refuses_before_it_loads(more, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "said.txt").write_text("x")
    with pytest.raises(SystemExit) as left:
        command.main([str(tmp_path / "run"), *(["said.txt"] if "nowhere.wav" not in more else []), *more])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_no_such_run():
    with pytest.raises(UserError, match="does not exist"):
        mer_jax.load("/nowhere/run")


def test_a_batch_without_pictures_has_their_shape():
    specs = {
        "text": {"width": 6, "dtype": "float16", "longest": 7, "extractor": "drawn"},
        "visual": {
            "width": 3,
            "dtype": "uint8",
            "longest": 4,
            "extractor": "drawn",
            "pixels": [40, 40],
            "coding": "jpeg",
        },
    }
    manifest = Manifest(
        json.dumps(
            {
                "schema_version": 1,
                "name": "drawn",
                "labels": ["a", "b"],
                "label_space": "text",
                "label_embeddings": np.eye(2, 6).tolist(),
                "modalities": specs,
                "protocol": {"name": "official"},
                "splits": {"train": {"count": 2, "classes": {"a": 1, "b": 1}}},
                "shards": [],
            }
        ),
        "drawn",
    )
    config = runpy.run_path(str(ROOT / "configs" / "deepmsi_mer_frames.py"))["get_config"]("tiny")
    config.data.modalities, config.data.max_length, config.frames.size = ("text", "visual"), (9, 9), 48
    model = predictor.Predictor(config, manifest, {"replicas": [], "protocol": {}}, None)
    words = {"text": np.ones((3, 6), np.float32)}
    pictures = words | {"visual": np.ones((2, 48, 48, 3), np.uint8)}
    for items, steps in (
        ([Item("a", words)], 1),
        ([Item("a", words), Item("b", pictures)], 2),
    ):
        batch = model.batch_of(items)
        assert batch.features["visual"].shape[1:] == (loader.bucket_length(steps), 48, 48, 3)
        assert batch.features["visual"].dtype == np.uint8
        assert batch.mask["visual"].sum() == steps * (len(items) - 1)


def test_what_vsc_dropped_is_the_number_of_what_it_kept_however_long_the_padding():
    # Three of five frames, padded to eight.
    kept = vsc.Kept(np.array([[1, 3, 4, 8, 8, 8]]), np.array([[6, 0, 6, 1, 2, 6, 6, 6]]))
    found = attribution.BatchAttribution(
        np.zeros((1, 2)), {"visual": np.zeros((1, 2))}, {"visual": np.ones((1, 8))}, {}, kept
    )
    one = predictor.attribution_of(found, 0, Item("a", {"visual": np.ones((5, 3))}), 0)
    assert (one.kept.tolist(), one.into.tolist()) == ([1, 3, 4], [3, 0, 3, 1, 2])


def test_windows_do_not_wait_for_more_than_there_is():
    def slow():
        for i in range(5):
            if i == 2:
                import time

                time.sleep(predictor.MAX_WAIT_SECONDS + 0.1)
            yield [Item(str(i))]

    found = [[item.id for [item] in window] for window in predictor.windows(slow(), 4)]
    assert found == [["0", "1", "2"], ["3", "4"]]
    long = [[Item("a")], [Item("b"), Item("c"), Item("d")], [Item("e")]]
    assert list(predictor.windows(long, 3)) == [long[:2], long[2:]], "no conversation is cut"


GOOD = {"prediction": "glad", "probabilities": {"calm": 0.25, "glad": 0.7500001}}


def predictions():
    yield Prediction("a", GOOD, label="glad", start=0.0, end=1.5)
    yield Prediction("b", empty_output(GOOD), error="it is broken")
    yield Prediction("c", GOOD, label="calm", notes=("cut", "quiet"))
    yield Prediction("d", GOOD, label="else")


def test_a_prediction_has_what_the_task_says():
    first, second, *_ = predictions()
    assert (first.prediction, first.probabilities["calm"]) == ("glad", 0.25)
    assert (second.prediction, second.probabilities) == ("", {})
    with pytest.raises(AttributeError, match="has no 'arousal'"):
        _ = first.arousal
    assert copy.copy(first) == first
    told = {"id": "a", "prediction": "glad", "probabilities": {"calm": 0.25, "glad": 0.75}, "label": "glad"}
    assert list(first.to_json().items()) == list((told | {"start": 0.0, "end": 1.5}).items())
    assert second.to_json() == {"id": "b", "error": "it is broken"}


def test_a_table_has_the_columns_of_the_task(tmp_path):
    path = tmp_path / "t.csv"
    with output.open_output(path, Classification(["calm", "glad"])) as write:
        for found in predictions():
            write(found)
        assert not path.exists(), "it appears when it is whole"
    assert path.read_text().splitlines() == [
        "id,start,end,prediction,calm,glad,label,sentence,notes,error",
        "a,0,1.5,glad,0.250000,0.750000,glad,,,",
        "b,,,,,,,,,it is broken",
        "c,,,glad,0.250000,0.750000,calm,,cut; quiet,",
        "d,,,glad,0.250000,0.750000,else,,,",
    ]


def test_known_labels_are_scored(capsys):
    report = output.PredictionReport(Classification(["calm", "glad"]))
    for found in predictions():
        report.add(found)
    report.close()
    told = capsys.readouterr().err
    assert "3 utterances predicted" in told
    assert "; 1 could not be used" in told
    assert "of 2 with a known label: weighted_f1 0.3333, macro_f1 0.3333, accuracy 0.5000, uar 0.5000" in told
