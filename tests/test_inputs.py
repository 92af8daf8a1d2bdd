"""What is asked for and what is given, before anything is encoded."""

import csv
import json
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import ROOT, small_description, small_utterances, user_env
from recordings import needs_prep

from mer_jax.data.corpus import Corpus, Manifest
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.predict import encoder_client, inputs
from mer_jax.predict import requests as requests_lib
from mer_jax.predict.item import InputOptions, Item


class Lengths(encoder_client.EncoderClient):
    """Stands for the encoders: every clip is ten seconds long, but the one that cannot be read."""

    def __init__(self):
        pass

    def seconds(self, file):
        if file.stem == "broken":
            raise UserError(f"{file} cannot be decoded")
        return 10.0


def requests(path, window=0.0, hop=0.0, sentence=None):
    options = InputOptions(sentence=sentence, window=window, hop=hop)
    found = requests_lib.requests_of(path, inputs.kind_of(path), options, Lengths())
    return [request for some in found for request in some]


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.wav", "b.wav", "broken.wav", "c.wav"):
        (folder / name).touch()
    (folder / "b.srt").write_bytes("1\n00:00:00,000 --> 00:00:01,000\nJa, schön.\n".encode("latin-1"))
    (folder / "c.txt").write_text("No times.")
    return folder


def test_one_bad_transcript_costs_one_clip(clips):
    found = requests(clips)
    assert [request["id"] for request in found] == ["a.wav", "b.wav", "broken.wav", "c.wav"]
    assert [request.get("error", "") != "" for request in found] == [False, True, False, False]
    assert "b.srt, line 3: the byte 0xf6 is not UTF-8" in found[1]["error"]
    assert found[3]["sentence"] == "No times."
    windows = requests(clips, window=5.0)
    assert [request["id"] for request in windows] == ["a.wav@0", "a.wav@5", "b.wav", "broken.wav", "c.wav"]
    for request, words in zip(windows[2:], ("not UTF-8", "cannot be decoded", "c.txt has no times"), strict=True):
        assert words in request["error"]


def test_one_bad_row_costs_one_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,sentence,start\na,Oh.,\nb,Oh.,soon\nc,Oh.\nd,Oh.,1\n")
    found = requests(path)
    failed = [(request["id"], "error" in request) for request in found]
    assert failed == [("a", False), ("b", True), ("c", True), ("d", False)]
    assert "t.csv, line 3: start is 'soon', not a number" in found[1]["error"]
    assert "line 4: it has another number of fields" in found[2]["error"]
    path.write_bytes(b"id,sentence\na,sch\xf6n\n")
    with pytest.raises(UserError, match=r"t\.csv, line 2: the byte 0xf6 is not UTF-8"):
        requests(path)
    path.write_text("id,words\na,b\n")
    with pytest.raises(UserError, match="it needs the column file or sentence"):
        requests(path)
    for rest in ("two\nc,three\n", "x" * 200_000):
        path.write_text(f'id,sentence\na,Oh.\nb,"Hello\nc,{rest}')
        with pytest.raises(UserError, match=r"t\.csv, line 3: .*a quote that is opened must be closed"):
            requests(path)


NO_MODEL = types.SimpleNamespace(manifest=None, modalities={})


class Sentences(encoder_client.EncoderClient):
    """Stands for the encoders: a sentence is an item, and so is what is wrong with a request."""

    def __init__(self):
        pass

    def items(self, requests):
        for request in requests:
            if request.get("sentence") == "end":
                raise encoder_client.EncodersUnavailable("the encoders' process ended with 1")
            yield Item(request["id"], sentence=request.get("sentence") or "", error=request.get("error", ""))


def test_one_bad_input_costs_itself(tmp_path):
    for name, text in (
        ("a.txt", "One.\nTwo."),
        ("empty.txt", ""),
        ("t.csv", 'sentence\nOne.\n"Two.\n'),
        ("b.txt", "Three."),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "none").mkdir()
    paths = [str(tmp_path / name) for name in ("a.txt", "empty.txt", "t.csv", "none", "b.txt")]
    found = list(inputs.items_of(paths, NO_MODEL, encoders=Sentences()))
    assert [item.sentence for item in found] == ["One.", "Two.", "", "One.", "", "", "Three."]
    assert [item.id for item in found if item.error] == paths[1:4]
    for path, words in (
        (paths[1], "holds no sentence"),
        (paths[2], "a quote that is opened"),
        (paths[3], "neither a corpus"),
    ):
        with pytest.raises(UserError, match=words):
            list(inputs.items_of(path, NO_MODEL, encoders=Sentences()))
    found = inputs.items_of(iter([tmp_path / "gone", paths[4]]), NO_MODEL, encoders=Sentences())
    assert [bool(item.error) for item in found] == [True, False]
    (tmp_path / "a.txt").write_text("end")
    with pytest.raises(UserError, match="process ended"):
        list(inputs.items_of(paths, NO_MODEL, encoders=Sentences()))


def test_a_transcript_may_be_a_string(clips):
    with pytest.raises(UserError, match=r"none\.srt does not exist"):
        next(inputs.items_of(str(clips / "a.wav"), NO_MODEL, InputOptions(transcript_file=str(clips / "none.srt"))))


def test_a_pack_s_sentences_go_through_the_run_s_text_encoder(tmp_path):
    def flags(name, text="", **manifest):
        write_corpus(tmp_path / name, small_utterances(12), small_description(**manifest))
        found = Manifest((tmp_path / name / "manifest.json").read_text(), "run")
        return inputs.pack_encoder_flags(found, encoder_client.EncoderLocations(text=text))

    encoder = {"name": "FacebookAI/roberta-base", "layers": [10, 12], "pooling": "mean"}
    of_it = ["--text-layers=10,12", "--text-pool=mean", "--device=auto"]
    assert flags("a", provenance={"tool": "clips", "text_encoder": encoder}) == [
        "--text-encoder=FacebookAI/roberta-base",
        *of_it,
    ]
    short = encoder | {"name": "roberta-base", "revision": "e2da8e2f811d1448a5b465c236feacd80ffbac7b"}
    assert flags("e", provenance={"tool": "clips", "text_encoder": short}) == ["--text-encoder=roberta-base", *of_it]
    words = {"tool": "import", "label_word_encoder": encoder | {"name": "mine"}}
    assert flags("b", "/at/mine", provenance=words, label_space="text") == ["--text-encoder=/at/mine", *of_it]
    assert flags("c", provenance=words, label_space="text") == []
    assert flags("d", provenance=words, label_space="FacebookAI/roberta-base") == []


@pytest.mark.parametrize(
    ("whole", "window", "step", "wanted"),
    [
        (10, 5, 5, [(0, 5), (5, 10)]),
        (11, 5, 5, [(0, 5), (5, 10), (10, 11)]),
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (3, 5, 5, [(0, 3)]),
        (10, 2, 5, [(0, 2), (5, 7)]),
        (9, 2, 5, [(0, 2), (5, 7)]),
        (60, 3, 20, [(0, 3), (20, 23), (40, 43)]),
        (10.0000001, 5, 5, [(0, 5), (5, 10)]),
    ],
)
def test_windows_cover_a_clip_and_none_lies_beyond_it(whole, window, step, wanted):
    assert list(requests_lib.window_spans(float(whole), float(window), float(step))) == wanted


def test_what_would_be_of_no_use_is_refused(clips, tmp_path):
    for name in ("t.csv", "s.txt", "x.tfrecord", "p.pkl", "x.xyz", "c.srt"):
        (tmp_path / name).touch()
    table, said, shard, pack, told = (tmp_path / name for name in ("t.csv", "s.txt", "x.tfrecord", "p.pkl", "c.srt"))
    refused = [
        ([clips], {"sentence": "Hi"}, "is of one clip"),
        ([clips], {"transcript_file": told}, "is of one clip"),
        ([table], {"sentence": "Hi"}, "is of one clip"),
        ([clips / "a.wav", clips / "c.wav"], {"sentence": "x"}, "is of one clip"),
        ([clips / "a.wav"], {"sentence": "x", "transcript_file": told}, "not both"),
        ([clips / "a.wav"], {"sentence": "x", "window": 1.0}, "not of its windows"),
        ([clips / "a.wav"], {"transcript_file": tmp_path / "none.srt"}, "none.srt does not exist"),
        ([clips, table], {"window": 5.0}, "t.csv is a table"),
        ([said], {"window": 5.0}, "s.txt is a list of sentences"),
        ([clips], {"hop": 5.0}, "give that, too"),
        ([shard, clips], {"only": ["a"]}, "clips is a folder"),
        ([shard], {"pack": ["--labels=a"]}, "are of a pack"),
        ([tmp_path / "x.xyz"], {}, "x.xyz: what to do with a .xyz"),
        ([tmp_path / "none"], {}, "none does not exist"),
    ]
    for paths, more, words in refused:
        with pytest.raises(UserError, match=words):
            inputs.check_flags_apply(paths, InputOptions(**more))
    for paths, more in (
        ([clips, said, pack, shard, table], {}),
        ([clips / "a.wav"], {"sentence": "Hi"}),
        ([clips / "a.wav"], {"transcript_file": told, "window": 2.0, "hop": 1.0}),
        ([clips, clips / "a.wav"], {"window": 2.0}),
        ([shard, pack], {"only": ["a"], "pack": ["--labels=a"]}),
    ):
        inputs.check_flags_apply(paths, InputOptions(**more))


def test_weights_tell_encoders_of_one_name_apart(tmp_path):
    """The extractor's name holds the last part of a path; a fine-tuned model in another folder has the same."""

    def description(sha256):
        made = {"audio_encoder": {"name": "hubert", "weights_sha256": sha256}} if sha256 else {}
        return small_description(provenance={"tool": "tests"} | made)

    for name, sha256 in (("then", "12"), ("tuned", "34"), ("untold", "")):
        write_corpus(tmp_path / name, small_utterances(12), description(sha256), shard_records=10)
    manifest = Manifest((tmp_path / "then" / "manifest.json").read_text(), "then")
    model = types.SimpleNamespace(manifest=manifest, modalities=dict(manifest.modalities))
    assert len(list(inputs.of_corpus(tmp_path / "then", model, InputOptions()))) == 12
    assert len(list(inputs.of_corpus(tmp_path / "untold", model, InputOptions()))) == 12
    assert len(list(inputs.of_corpus(tmp_path / "tuned", model, InputOptions(any_extractor=True)))) == 12
    made = "audio features were made by 'weights of sha256 34', the run's by 'weights of sha256 12'"
    with pytest.raises(UserError, match=made):
        list(inputs.of_corpus(tmp_path / "tuned", model, InputOptions()))


@pytest.mark.slow
@needs_prep
def test_a_pack_is_predicted_as_its_corpus_is(tmp_path, cache_home):
    """The pack that a run was trained on, whose labels are numbers: by the flags that its import was given."""
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        label = i % 3
        text = (rng.normal(size=6) + 2 * np.eye(6)[label]).tolist()
        part = ("train", "train", "train", "valid", "test")[i // 3 % 5]
        rows.append({"id": f"u{i}", "dialogue": f"d{i // 4}", "split": part, "label": label, "text": text})
    pack = tmp_path / "pack.npz"
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    np.savez(pack, **columns)

    def command(module, *arguments):
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=user_env(cache_home),
            capture_output=True,
            text=True,
            timeout=170,
        )

    labels = "--labels=calm,glad,cross"
    made = command("data_prep.import_pack", pack, "--out", tmp_path / "corpus", labels)
    assert made.returncode == 0, made.stderr
    trained = command(
        "mer_jax.main",
        "--config=configs/lsgmer.py:tiny",
        f"--config.data.path={tmp_path / 'corpus'}",
        "--config.train.batch_size=8",
        "--config.data.modalities=('text',)",
        "--config.train.epochs=2",
        f"--workdir={tmp_path / 'run'}",
    )
    assert trained.returncode == 0, trained.stderr
    unnamed = command("mer_jax.predict", tmp_path / "run", pack)
    assert (unnamed.returncode, "say which is which with --labels" in unnamed.stderr) == (0, True)
    assert "accuracy" not in unnamed.stderr, "labels without names are not scored"
    del columns["label"], columns["split"]
    np.savez(tmp_path / "bare.npz", **columns)
    bare = command("mer_jax.predict", tmp_path / "run", tmp_path / "bare.npz")
    assert bare.returncode == 0, bare.stderr
    assert bare.stdout.replace('"bare.npz', '"pack.npz') == unnamed.stdout
    out = tmp_path / "p.csv"
    done = command("mer_jax.predict", tmp_path / "run", pack, labels, "--only-test", "--out", out)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"accuracy {metrics['replicas'][0]['test']['accuracy']:.4f}" in done.stderr
    with open(out) as file:
        assert len(list(csv.DictReader(file))) == len(Corpus(tmp_path / "corpus").rows("test"))
    reader = subprocess.Popen(
        [sys.executable, "-m", "mer_jax.predict", str(tmp_path / "run"), str(tmp_path / "corpus"), "--batch-size=1"],
        cwd=ROOT,
        env=user_env(cache_home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with reader.stderr:
        reader.stdout.close()  # as `head` does, when it has enough
        assert "Traceback" not in reader.stderr.read()
        assert reader.wait(60) == 141
