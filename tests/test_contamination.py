"""What the encoders have seen of a corpus: the table, how it is looked up, and everybody who tells it."""

import contextlib
import io
import json
import re
from types import SimpleNamespace

import pytest
from conftest import small_description, small_utterances
from experiments import of_folds_and_seeds

from data_prep.audit.corpus_audit import audit
from mer_jax import config, experiment
from mer_jax.data import __main__ as data_command
from mer_jax.data import contamination, protocols
from mer_jax.data.contamination import ANY, EVERY, WHAT, corpora, corpus_of, exposure_lines, exposures, table
from mer_jax.data.corpus import SPLITS, Corpus, Manifest
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.leakage import knowing
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import metrics_of
from mer_jax.export import model_card

TUNED = "speechbrain/emotion-recognition-wav2vec2-IEMOCAP"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
OPENSMILE = "openSMILE eGeMAPSv02 low-level descriptors"


def of_hub(name, **more):
    return {"name": name, "revision": "0123abc", "weights_sha256": "00" * 32} | more


def of_folder(name):
    return of_hub(name, revision=None)


@pytest.fixture
def made(tmp_path):
    """Writes a small corpus of this name whose manifest tells of its encoders."""

    def write(name, *, audio=None, text=None, out="corpus", **changes):
        told = {f"{m}_encoder": encoder for m, encoder in (("audio", audio), ("text", text)) if encoder}
        description = small_description(name=name, provenance={"tool": "tests"} | told, **changes)
        write_corpus(tmp_path / out, small_utterances(), description)
        return Corpus(tmp_path / out)

    return write


def test_the_table_is_whole():
    assert len(table()) >= 25
    for row in table():
        assert row.what in WHAT
        assert row.encoders
        assert row.corpora
        assert set(row.corpora) <= {*corpora(), EVERY, ANY}
        assert set(row.parts) <= set(SPLITS)
        assert len(row.source) > 15, row
        assert re.fullmatch(r"https://\S+\.\S+", row.url), row
        if row.what in ("tuned", "pretrained"):  # who has seen something has seen something by name
            assert not {EVERY, ANY} & set(row.corpora), row
        if row.parts:
            assert row.what == "tuned", row


def test_no_two_rows_say_different_things_of_an_encoder_and_a_corpus():
    said = {}
    for encoder in {encoder for row in table() for encoder in row.encoders}:
        for row in contamination.rows_of(encoder):  # a pattern is a name that it matches itself
            for corpus in row.corpora:
                assert said.setdefault((encoder, corpus), row) is row, (encoder, corpus)
            assert not (ANY in row.corpora and len(contamination.rows_of(encoder)) > 1), encoder
    assert len(said) > 80


@pytest.mark.parametrize(
    ("name", "corpus"),
    [
        ("iemocap-6", "iemocap"), ("IEMOCAP_clips", "iemocap"), ("meld", "meld"), ("meld2", "meld"), ("MELD-raw", "meld"),
        ("melding", ""), ("mosi", "mosi"), ("cmu-mosei", "mosei"), ("emodb", "emodb"), ("Emo-DB", "emodb"),
        ("CREMA-D", "crema-d"), ("cremad_de", "crema-d"), ("mine", ""), ("esd-english", "esd"), ("estate", ""),
    ],
)  # fmt: skip
def test_corpora_are_known_by_how_their_names_begin(name, corpus):
    assert corpus_of(name) == corpus
    assert contamination.corpora_of(name) == ({corpus} if corpus else set())
    assert sum(pattern.fullmatch(name) is not None for pattern in corpora().values()) == bool(corpus)


@pytest.mark.parametrize(
    ("name", "encoder", "what", "words"),
    [
        ("meld", of_hub("emotion2vec/emotion2vec_base"), "pretrained", "arxiv.org/abs/2312.15185"),
        ("meld", of_hub("IIC/Emotion2vec_Base"), "pretrained", "262 hours"),  # a hub does not tell cases apart
        ("emodb", of_hub("iic/emotion2vec_base"), "unknown", "what else is not documented"),
        ("emodb", of_hub("iic/emotion2vec_plus_seed"), "tuned", "nobody says which part"),
        ("mosi", of_hub("iic/emotion2vec_plus_seed"), "unknown", "EmoBox"),
        ("iemocap-4", of_hub(TUNED), "tuned", "nobody says which part"),
        ("meld", of_hub(TUNED), "none", "LibriSpeech"),
        ("meld", of_folder("emotion-recognition-wav2vec2-IEMOCAP"), "unknown", "its folder's name alone, which a fine-tuned"),
        ("iemocap-4", of_folder("emotion-recognition-wav2vec2-IEMOCAP"), "tuned", "its folder's name alone"),
        ("meld", of_hub("facebook/wav2vec2-base"), "none", "has not seen meld"),
        ("mine", of_hub("facebook/wav2vec2-base"), "unknown", "no corpus of this name; it was trained on LibriSpeech"),
        ("mine", {"name": OPENSMILE}, "none", "formulas"),
        ("meld", of_hub("microsoft/wavlm-large"), "unknown", "GigaSpeech"),
        ("meld", of_hub("microsoft/wavlm-base"), "none", "LibriSpeech"),
        ("meld", of_hub("me/wav2vec2-base"), "unknown", "the contamination table does not have it"),  # its own training
        ("meld", of_folder("wav2vec2-base"), "unknown", "LibriSpeech"),  # who fine-tunes it may keep the name
        ("meld", of_folder("data2vec-audio-base-meld"), "unknown", "which a fine-tuned model may have, too"),
        ("meld", {"name": "facebook/wav2vec2-base", "adapter_sha256": "00"}, "unknown", "name alone that its adapter gives"),
        ("meld", {"name": "iic/emotion2vec_base", "adapter_sha256": "00"}, "pretrained", "name alone that its adapter gives"),
        ("meld", of_folder("wav2vec2-base-mine"), "unknown", "does not have it"),
        ("iemocap-4", of_hub("superb/hubert-large-superb-er"), "none", "hidden states have not"),
        ("emodb_iemocap", of_hub(TUNED), "tuned", "the labels of emodb_iemocap"),
        ("emodb_iemocap", of_hub("facebook/wav2vec2-base"), "none", "has not seen emodb_iemocap"),
        ("emodb_melding", of_hub("j-hartmann/emotion-english-distilroberta-base"), "unknown", "not documented"),
        ("my_iemocap", of_hub(TUNED), "unknown", "no corpus of this name"),
        ("meld", None, "unknown", "the corpus does not say which encoder made the features"),
    ],
)  # fmt: skip
def test_what_is_known_of_an_encoder(name, encoder, what, words, made):
    (found,) = exposures(made(name, audio=encoder), ["audio"])
    assert (found.what, found.modality, found.encoder) == (what, "audio", (encoder or {}).get("name", ""))
    assert words in found.in_words()
    assert name in found.in_words()
    assert found.tuned_parts() == (SPLITS if what == "tuned" else ())
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_weights_tell_more_than_a_folder_does(made):
    sha256 = next(row for row in table() if row.knows(MINILM)).weights_sha256[0]
    corpus = made("meld", text=of_folder("my-model") | {"weights_sha256": sha256})
    (found,) = exposures(corpus, ["text"])
    assert "Reddit" in found.reason
    assert "folder" not in found.reason


def test_what_the_manifest_says_comes_first(made, framed, demo):
    corpus = made("iemocap-4", audio=of_hub(TUNED), trained_on={"audio": ("train",)})
    (found,) = exposures(corpus, ["audio"])
    assert (found.what, found.parts, found.tuned_parts()) == ("tuned", ("train",), ("train",))
    assert "train: the corpus's manifest says so" in found.in_words()
    named = made("meld", made_by={"audio": "iic/emotion2vec_base"}, out="named")
    assert exposures(named, ["audio"])[0].what == "pretrained"
    assert {one.what for one in exposures(demo, demo.modalities)} == {"none"}
    assert exposure_lines(exposures(demo, demo.modalities)) == []
    filmed = Manifest(json.dumps(framed.manifest | {"provenance": {"tool": "tests"}}), "here")
    assert exposures(filmed, ["visual"])[0].in_words().endswith("the features are the frames themselves")


def test_lines_name_who_has_seen_it_and_whom_nobody_knows(made):
    corpus = made("meld", audio=of_hub("iic/emotion2vec_base"), text=of_hub(MINILM))
    lines = exposure_lines(exposures(corpus, ("text", "audio")))
    assert len(lines) == 2
    assert lines[0].startswith(
        "the audio encoder iic/emotion2vec_base was trained on recordings or sentences of meld: 262"
    )
    assert lines[1].startswith(f"not known whether the encoders have seen meld: text ({MINILM}: a billion pairs")
    assert exposure_lines(exposures(made("meld", audio={"name": OPENSMILE}, out="other"), ["audio"])) == []


def test_a_test_of_what_an_encoder_was_trained_on_is_refused(made, monkeypatch):
    corpus = made("iemocap-4", audio=of_hub(TUNED))
    official = protocols.split(corpus, "official", 0)
    with pytest.raises(
        UserError, match=r"tests 16 utterances whose labels the features may know: the audio encoder .* nobody says"
    ):
        protocols.refuse_retest(corpus, official, ("text", "audio"))
    protocols.refuse_retest(corpus, official, ("text",))
    assert protocols.told_retest(corpus, official, ("text",)) == official
    told = protocols.told_retest(corpus, official, ("text", "audio"))
    assert told.title() == (
        "official (leaky: the audio features were trained, nobody says on which part, on labels of the test part)"
    )
    alone = Corpus(corpus.path)
    alone.index["dialogue"][:] = ""  # else training knows what shares a dialogue with it
    assert knowing(alone, official.folds[0], ("audio",)).all()
    assert not knowing(alone, official.folds[0], ("text",)).any()
    # Of an encoder that has seen the training part alone, as a row of the table may say:
    row = next(row for row in table() if row.knows(TUNED))
    rows = (contamination.dataclasses.replace(row, parts=("train",)),)
    monkeypatch.setattr(contamination, "table", lambda: rows)
    protocols.refuse_retest(corpus, official, ("audio",))
    assert protocols.told_retest(corpus, official, ("audio",)) == official
    with pytest.raises(UserError, match="of train, on whose labels the corpus's audio features were trained"):
        protocols.refuse_retest(corpus, protocols.split(corpus, "kfold_dialogue:3", 0), ("audio",))
    published = protocols.told_retest(corpus, protocols.split(corpus, "published", 0), ("audio",))
    assert published.leaky.endswith("same dialogues; the audio features were trained on labels of the test part")


@pytest.mark.parametrize(
    ("audio", "level", "do"),
    [
        (of_hub(TUNED), "problem", "--trained-on"),
        (of_hub("iic/emotion2vec_base"), "note", "not new to the encoder"),
        (of_hub("facebook/wav2vec2-base"), "ok", ""),
        (None, "note", "--made-by"),
    ],
)
def test_the_audit_tells(audio, level, do, made):
    found = audit(made("iemocap-4", audio=audio).path, floor=False)
    (one,) = [x for x in found.findings if x.name == "seen by encoder" and x.about == "audio"]
    assert one.level == level
    assert do in one.do
    assert "iemocap-4" in one.text


def test_the_audit_has_no_problem_with_an_encoder_trained_on_the_training_part(made):
    found = audit(made("iemocap-4", audio=of_hub(TUNED), trained_on={"audio": ("train",)}).path, floor=False)
    (one,) = [x for x in found.findings if x.name == "seen by encoder" and x.about == "audio"]
    assert (one.level, one.do) == ("note", "test on other parts: a test on these is refused")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose audio encoder was trained on the labels of its corpus, forced; with what it printed."""
    folder = tmp_path_factory.mktemp("contaminated")
    provenance = {"tool": "tests", "audio_encoder": of_hub(TUNED), "text_encoder": of_hub(MINILM)}
    write_corpus(folder / "corpus", small_utterances(), small_description(name="iemocap-4", provenance=provenance))
    corpus = Corpus(folder / "corpus")
    settings = of_folds_and_seeds(seeds=1, folds=(0, 1))
    settings.train.epochs, settings.train.inspect = 1, False
    settings = config.validate(settings)
    with pytest.raises(UserError, match="whose labels the features may know"):
        experiment.check(settings, corpus)
    settings.data.test_on_trained = True
    with contextlib.redirect_stdout(io.StringIO()) as out:
        experiment.run(settings, corpus, folder / "run")
    return folder / "run", " ".join(out.getvalue().split())


@pytest.mark.slow
def test_a_run_tells_beside_its_figures(run):
    workdir, printed = run
    protocol = metrics_of(workdir / "metrics.json")["protocol"]
    why = "the audio features were trained, nobody says on which part, on labels of the test part"
    assert protocol["leaky"].endswith(why)
    assert why in protocol["title"]
    assert {one["modality"]: one["what"] for one in protocol["contamination"]} == {"text": "unknown", "audio": "tuned"}
    assert why in printed
    assert f"the audio encoder {TUNED} was trained on the labels of iemocap-4" in printed
    assert f"not known whether the encoders have seen iemocap-4: text ({MINILM}" in printed
    page = (workdir / "report.html").read_text()
    assert "What the encoders have seen of the corpus:" in page
    assert f'<li class="problem">the audio encoder {TUNED} was trained on' in page
    assert "https://huggingface.co/speechbrain/" in page
    assert "Leaky protocol" in page


@pytest.mark.slow
def test_the_model_card_tells(run):
    metrics = metrics_of(run[0] / "metrics.json")
    manifest = SimpleNamespace(manifest=json.loads((run[0] / "manifest.json").read_text()))
    model = SimpleNamespace(metrics=metrics, manifest=manifest)
    card = "\n".join(model_card._data(model, metrics["replicas"][0]))
    assert f"- the audio encoder {TUNED} was trained on the labels of iemocap-4, nobody says which part" in card
    assert "- the text encoder" in card
    del metrics["protocol"]["contamination"]  # a run from before 0.12
    assert TUNED not in "\n".join(model_card._data(model, metrics["replicas"][0]))


def command(capsys, *arguments):
    data_command.main([*map(str, arguments)])
    return capsys.readouterr().out


def test_the_command_prints_the_table_and_what_a_corpus_has(made, capsys):
    whole = command(capsys, "--contamination")
    assert all(row.url in whole and row.source in whole for row in table())
    assert "has not seen any other corpus of the table" in command(capsys, "--contamination", TUNED)
    one = command(capsys, "--contamination", "emotion2vec_base")  # a folder's name
    assert "meld" in one
    assert "LibriSpeech" not in one
    assert "it is not known what it has seen" in command(capsys, "--contamination", "me/mine")
    corpus = made("meld", audio=of_hub("iic/emotion2vec_base"))
    described = command(capsys, corpus.path)
    assert "the audio encoder iic/emotion2vec_base was trained on recordings or sentences of meld" in described
    assert "the text encoder: not known whether it has seen meld" in described
    for wrong in ([], [str(corpus.path), "--contamination"]):
        with pytest.raises(SystemExit):
            data_command.main(wrong)
        assert "give a corpus folder, or --contamination" in capsys.readouterr().err
