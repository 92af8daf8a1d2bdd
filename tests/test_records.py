import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile

import grain
import numpy as np
import pytest
from conftest import ROOT, SMALL_LABELS, small_description, small_utterances
from damage import DAMAGES, damage_flipped_bit

from mer_jax import files
from mer_jax.data import records
from mer_jax.data.__main__ import main as describe
from mer_jax.data.corpus import Corpus, soft_label
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError


def test_round_trip(small_corpus):
    corpus = Corpus(small_corpus)
    wanted = {u.id: u for u in small_utterances()}
    assert len(corpus) == len(wanted) == 48
    for i in range(len(corpus)):
        found = corpus[i]
        want = wanted[found.id]
        for name in ("split", "dialogue", "turn", "speaker", "session", "label", "sentence", "start", "end", "votes"):
            assert getattr(found, name) == getattr(want, name)
        for modality, value in want.features.items():
            np.testing.assert_array_equal(found.features[modality], value)
            assert found.features[modality].dtype == value.dtype
        assert corpus.index["label"][i] == want.label
        assert corpus.index["length/text"][i] == len(want.features["text"])
        np.testing.assert_array_equal(corpus.soft_labels(np.array([i]))[0], soft_label(want.votes, SMALL_LABELS))
    assert corpus.manifest["voted"] == 36


@pytest.mark.parametrize(
    ("votes", "wanted"),
    [
        ((), (0, 0, 0)),
        ((("a", "other"), ("b", "fear")), (0, 0, 0)),
        ((("a", "x"), ("b", "x"), ("c", "z")), (2 / 3, 0, 1 / 3)),
        ((("a", "x"), ("a", "y"), ("b", "z")), (1 / 4, 1 / 4, 1 / 2)),  # one who chose two classes counts once
        ((("a", "x"), ("a", "x"), ("b", "y"), ("c", "other")), (1 / 2, 1 / 2, 0)),
        ((("a", "x"), ("a", "other"), ("b", "y")), (1 / 2, 1 / 2, 0)),
    ],
)
def test_raters_count_alike(votes, wanted):
    found = soft_label(votes, ("x", "y", "z"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def with_other_indexes(corpus, write):
    """The corpus, whose indexes are what write(path, columns) makes of them."""
    manifest = json.loads((corpus / "manifest.json").read_text())
    for shard in manifest["shards"]:
        path = corpus / shard["index"]
        write(path, dict(np.load(path)))
        shard["index_sha256"] = files.sha256_of(path)
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    return corpus


def test_a_corpus_written_before_there_were_votes_is_read(small_corpus):
    def without_votes(path, columns):
        np.savez(path, **{name: x for name, x in columns.items() if name != "soft"})

    corpus = Corpus(with_other_indexes(small_corpus, without_votes))
    assert not corpus.soft_labels(np.arange(len(corpus))).any()


def test_a_corpus_that_an_older_numpy_wrote_is_read(small_corpus):
    """NumPy before 2.2 took savez's `allow_pickle` for a column."""

    def with_a_column_more(path, columns):
        with zipfile.ZipFile(path, "a") as file, file.open("allow_pickle.npy", "w") as member:
            np.lib.format.write_array(member, np.array(False))

    wanted = Corpus(small_corpus)
    found = Corpus(with_other_indexes(small_corpus, with_a_column_more))
    assert found.index.keys() == wanted.index.keys()
    assert found[0].id == wanted[0].id


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path, x: path.write_bytes(np.lib.format.magic(1, 0) + bytes(99)), "not a zip file"),
        (
            lambda path, x: np.savez_compressed(path, **x, more=np.zeros(10**7)),
            "bytes in memory, and may take 1,300,000",
        ),
        (lambda path, x: np.savez(path, **x | {"turn": x["turn"][:2]}), "column 'turn' is int32.2., not one value"),
    ],
)
def test_what_is_no_index_is_told(small_corpus, write, words):
    with pytest.raises(UserError, match=rf"index.* is no index of this mer_jax: .*{words}"):
        Corpus(with_other_indexes(small_corpus, write))


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/shard", "sub/shard", "..", "", 3])
@pytest.mark.parametrize("field", ["file", "index"])
def test_a_shard_is_beside_its_manifest(small_corpus, field, name):
    path = small_corpus / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0][field] = name
    path.write_text(json.dumps(manifest))
    words = r": a shard or index is .*; it must be a file of the same folder"
    with pytest.raises(UserError, match=r"manifest\.json" + (words if name and name != 3 else f".*'shards.0.{field}'")):
        Corpus(small_corpus)


def test_manifest_counts_what_was_written(small_corpus):
    corpus = Corpus(small_corpus)
    by_split = {s: [u.label for u in small_utterances() if u.split == s] for s in ("train", "valid", "test")}
    for split, labels in by_split.items():
        entry = corpus.manifest["splits"][split]
        assert entry["count"] == len(labels)
        assert entry["classes"] == {n: labels.count(n) for n in SMALL_LABELS}
    assert corpus.manifest["modalities"]["text"]["width"] == 6
    assert [s["count"] for s in corpus.manifest["shards"] if s["split"] == "train"] == [10, 10, 4]


def test_standard_readers_read_the_shards(small_corpus):
    """Grain's TFRecord reader and the official protocol buffer, neither of them ours."""
    proto = pytest.importorskip("tensorflow_datasets.proto.tf_example_generated_pb2", reason="needs the test extra")
    wanted = {u.id: u for u in small_utterances()}
    seen = 0
    for shard in json.loads((small_corpus / "manifest.json").read_text())["shards"]:
        for raw in grain.experimental.TFRecordIterDataset(str(small_corpus / shard["file"])):
            feature = proto.Example.FromString(raw).features.feature
            want = wanted[feature["id"].bytes_list.value[0].decode()]
            assert feature["turn"].int64_list.value[0] == want.turn
            assert feature["start"].float_list.value[0] == want.start
            assert [v.decode() for v in feature["votes/label"].bytes_list.value] == [label for _, label in want.votes]
            assert feature["sentence"].bytes_list.value[0].decode() == want.sentence
            shape = tuple(feature["text/shape"].int64_list.value)
            text = np.frombuffer(
                feature["text/data"].bytes_list.value[0], feature["text/dtype"].bytes_list.value[0].decode()
            )
            np.testing.assert_array_equal(text.reshape(shape), want.features["text"])
            seen += 1
    assert seen == 48


def test_reads_what_a_standard_writer_writes():
    proto = pytest.importorskip("tensorflow_datasets.proto.tf_example_generated_pb2", reason="needs the test extra")
    example = proto.Example()
    example.features.feature["a"].int64_list.value.extend([3, -2, 1 << 40])
    example.features.feature["b"].float_list.value.extend([0.5, -1.25])
    example.features.feature["c"].bytes_list.value.append(b"\x00\xff")
    found = records.decode_example(example.SerializeToString())
    assert found["a"] == [3, -2, 1 << 40]
    assert found["b"] == [0.5, -1.25]
    assert bytes(found["c"][0]) == b"\x00\xff"
    again = proto.Example.FromString(
        records.encode_example({"a": [3, -2, 1 << 40], "b": [0.5, -1.25], "c": b"\x00\xff"})
    )
    assert again == example


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_corpus(tmp_path / name, small_utterances(), small_description())
    assert Corpus(tmp_path / "a").manifest_sha256 == Corpus(tmp_path / "b").manifest_sha256


def read_all(folder):
    corpus = Corpus(folder)
    return [corpus[i] for i in range(len(corpus))]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damage_is_named(small_corpus, damage):
    words = damage(small_corpus)
    with pytest.raises(UserError) as caught:
        read_all(small_corpus)
    assert words in str(caught.value)
    assert str(small_corpus) in str(caught.value)


def test_every_flipped_bit_of_a_record_is_found(small_corpus):
    """Length field, both checksums and content alike: one bit anywhere in the first record's frame."""
    path = small_corpus / "valid-00000.tfrecord"
    good = path.read_bytes()
    corpus = Corpus(small_corpus)
    row = int(corpus.rows("valid")[0])
    for at in range(0, int(corpus.index["size"][row]) + 16, 5):
        raw = bytearray(good)
        raw[at] ^= 1 << (at % 8)
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"record 0 \(u003\)"):
            Corpus(small_corpus)[row]


def test_index_of_another_shard_is_noticed(small_corpus):
    corpus = Corpus(small_corpus)
    corpus.index["id"][3] = "someone"
    with pytest.raises(UserError, match="does not belong to this shard"):
        corpus[3]


def test_pickles_without_open_files(small_corpus):
    corpus = Corpus(small_corpus)
    first = corpus[0]
    assert pickle.loads(pickle.dumps(corpus))[0].id == first.id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda us: [*us, us[0]], "occurs twice"),
        (lambda us: [_with(us[0], label="bored")], "label 'bored'"),
        (lambda us: [_with(us[0], split="dev")], "split 'dev'"),
        (lambda us: [us[0], _with(us[1], features={"text": np.zeros((2, 5), np.float16)})], "5 wide"),
        (lambda us: [_with(us[0], features={"text": np.zeros((0, 6), np.float16)})], "time >= 1"),
        (lambda us: [_with(us[0], features={"smell": np.zeros((1, 6), np.float16)})], "'smell' is not declared"),
        (lambda us: [], "nothing to write"),
    ],
)
def test_writer_refuses(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        write_corpus(tmp_path / "out", change(list(small_utterances())), small_description())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tokens", [{"text": 4}, {"text": 0}, {"smell": 2}])
def test_tokens_must_share_the_width(tmp_path, tokens):
    with pytest.raises(UserError, match="token"):
        write_corpus(tmp_path / "out", small_utterances(), small_description(tokens=tokens))
    assert not (tmp_path / "out").exists()


def test_tokens_are_written(tmp_path):
    write_corpus(tmp_path / "out", small_utterances(), small_description(tokens={"text": 3}))
    assert Corpus(tmp_path / "out").modalities["text"]["tokens"] == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"layers": {"text": (1, 2, 3, 4)}}, "text is 6 wide and has 4 layers"),
        ({"layers": {"text": ()}}, "different numbers from 0"),
        ({"layers": {"text": (4, 4)}}, "different numbers from 0"),
        ({"layers": {"text": (-1, 4)}}, "different numbers from 0"),
        ({"layers": {"smell": (1,)}}, "layers are given for 'smell'"),
        ({"layers": {"text": (4, 8)}, "tokens": {"text": 2}}, "text has layers and tokens"),
        ({"layers": {"text": (4, 8)}, "label_embeddings": np.eye(3, 4)}, "shape"),
    ],
)
def test_layers_must_share_the_width(tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        write_corpus(tmp_path / "out", small_utterances(), small_description(**given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("width", [6, 2])  # of the label words: all layers side by side, or one of them
def test_layers_are_written_and_told(tmp_path, capsys, width):
    description = small_description(layers={"text": (4, 8, 11)}, label_embeddings=np.eye(3, width))
    write_corpus(tmp_path / "out", small_utterances(), description)
    assert Corpus(tmp_path / "out").modalities["text"]["layers"] == [4, 8, 11]
    describe([str(tmp_path / "out")])
    assert "text: 6 wide of float16, layers 4, 8, 11 of 2 each, up to" in capsys.readouterr().out


@pytest.mark.parametrize("layers", [[1, 2, 3, 4], "12", [True, 2], None])
def test_layers_of_a_manifest_are_checked(small_corpus, layers):
    manifest = json.loads((small_corpus / "manifest.json").read_text())
    manifest["modalities"]["text"]["layers"] = layers
    (small_corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest.json: (layers of text|text is 6 wide)"):
        Corpus(small_corpus)


def _with(utterance, **changes):
    return dataclasses.replace(utterance, **changes)


def test_an_existing_corpus_is_never_overwritten(small_corpus):
    before = {p.name: p.read_bytes() for p in small_corpus.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        write_corpus(small_corpus, small_utterances(seed=1), small_description())
    assert {p.name: p.read_bytes() for p in small_corpus.iterdir()} == before


def test_a_killed_writer_leaves_nothing_that_looks_complete(tmp_path):
    script = f"""
import sys, time; sys.path.insert(0, {str(os.path.dirname(__file__))!r})
from conftest import small_description, small_utterances
from mer_jax.data.corpus_writer import write_corpus
from pathlib import Path
def slow():
    for u in small_utterances():
        yield u
        print(u.id, flush=True)
        time.sleep(0.05)
write_corpus(Path({str(tmp_path / "out")!r}), slow(), small_description(), shard_records=4)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while process.stdout.readline().strip() != "u020":
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out").exists()
    partial = tmp_path / ".out.partial"
    assert any(partial.glob("*.tfrecord"))
    assert not (partial / "manifest.json").exists()
    began = time.monotonic()
    write_corpus(tmp_path / "out", small_utterances(), small_description())  # the dead writer's lock and files are gone
    assert time.monotonic() - began < 5
    assert len(Corpus(tmp_path / "out")) == 48
    assert not partial.exists()


def test_verify_command(small_corpus, run_cli):
    done = run_cli(small_corpus, module="mer_jax.data")
    assert done.returncode == 0, done.stderr
    assert "every record and sha256 verified" in done.stdout
    words = damage_flipped_bit(small_corpus)
    done = run_cli(small_corpus, module="mer_jax.data")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_corpus_alive_at_exit_says_nothing(small_corpus):
    script = "import sys; from mer_jax.data.corpus import Corpus; sys.kept = Corpus(sys.argv[1]); sys.kept[0]"
    done = subprocess.run([sys.executable, "-c", script, str(small_corpus)], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
