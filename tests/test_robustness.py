"""A finished run without modalities and under noise: draws, noise, curves, the command."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, class_targets, small_description, small_utterances
from etils import epath
from experiments import of_folds_and_seeds as small
from runs import snapshot

from mer_jax import experiment
from mer_jax.data import loader
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation import robustness, robustness_curves
from mer_jax.evaluation.robustness_curves import RATES, SIGMAS, Condition
from mer_jax.metrics.classification import METRICS, scores
from mer_jax.tasks.classification import Classification
from mer_jax.training import resume, step

NAMES = ("text", "audio", "visual")
TASK, SCORES = Classification("abcd"), tuple(METRICS)
HAS = np.random.default_rng(5).random((400, 3)) < 0.7


def test_what_is_lost_at_a_rate_is_lost_at_every_higher_one():
    drawn = robustness_curves.draws(NAMES, np.arange(400))
    for name, of in robustness_curves.losses(NAMES, drawn, HAS).items():
        assert len(of) == len(RATES)
        assert not of[0].any(), name
        for lower, higher in itertools.pairwise(of):
            assert not (lower & ~higher).any()
    for i, m in enumerate(NAMES):
        of = robustness_curves.losses(NAMES, drawn, HAS)[m]
        assert of[-1][:, i].all()
        assert abs(of[3][:, i].mean() - 0.3) < 0.07
        assert not np.delete(of[-1], i, axis=1).any()


def test_all_never_takes_the_last_modality():
    drawn = robustness_curves.draws(NAMES, np.arange(400))
    assert not HAS.any(1).all(), "some have none from the start"
    for rate in RATES:
        gone = robustness_curves.lost(drawn, HAS, rate)
        assert not (gone & ~HAS).any()
        left = HAS & ~gone
        assert left.any(1).tolist() == HAS.any(1).tolist()
        for i in np.flatnonzero(HAS.sum(1) == 3):
            wanted = drawn[i] < rate
            wanted[drawn[i].argmax()] = False
            assert gone[i].tolist() == wanted.tolist()
    assert (left.sum(1) == HAS.any(1)).all(), "at rate 1 one modality is left"


def test_a_draw_belongs_to_seed_row_and_name():
    drawn = robustness_curves.draws(NAMES, np.arange(400))
    rows = np.array([7, 399, 0, 7])
    np.testing.assert_array_equal(robustness_curves.draws(("visual", "text"), rows), drawn[rows][:, [2, 0]])
    for other in (robustness_curves.draws(NAMES, np.arange(400), seed=1), drawn[:, [1, 2, 0]]):
        assert (other != drawn).mean() > 0.99
    assert abs(np.corrcoef(drawn.T)[np.triu_indices(3, 1)]).max() < 0.15


disturbed = jax.jit(robustness.disturbed)


def make_batch(lengths, pad):
    """Text of so many steps, padded to `pad`, and frames of 3 steps."""
    mask = {"text": np.arange(pad)[None] < np.array(lengths)[:, None], "visual": np.ones((len(lengths), 3), bool)}
    rng = np.random.default_rng(0)
    values = {"text": rng.normal(size=(len(lengths), 99, 5)), "visual": rng.normal(size=(len(lengths), 3, 2, 2, 3))}
    features = {}
    for m, x in values.items():
        real = np.expand_dims(mask[m], tuple(range(2, x.ndim)))
        features[m] = np.where(real, x[:, : mask[m].shape[1]], 0).astype(np.float32)
    label = np.zeros(len(lengths), np.int32)
    return jax.tree.map(jnp.asarray, Batch(features, mask, class_targets(label, 2), label.astype(np.float32) + 1))


def call(batch, rows, hidden=(), **sigma):
    named = {m: np.float32(sigma.get(m, 0)) for m in batch.features}
    return disturbed(batch, jnp.asarray(rows, jnp.int32), {m: np.array(m in hidden) for m in batch.features}, named)


LENGTHS, ROWS = [4, 2, 7, *[6] * 17], np.arange(20) * 3 + 10


def test_noise_is_of_the_utterance_and_not_of_the_batch():
    short, long = make_batch(LENGTHS, 7), make_batch(LENGTHS, 12)
    one, other = call(short, ROWS, text=1.0, visual=0.5), call(long, ROWS, text=1.0, visual=0.5)
    np.testing.assert_array_equal(other.features["text"][:, :7], one.features["text"])
    assert not np.asarray(other.features["text"])[~np.asarray(long.mask["text"])].any(), "padding stays zero"
    turned = jax.tree.map(lambda x: x[::-1], short)
    found = call(turned, ROWS[::-1].copy(), text=1.0, visual=0.5)
    for m in short.features:
        np.testing.assert_array_equal(found.features[m][::-1], one.features[m])
    elsewhere = call(short, np.append(9, ROWS[1:]), text=1.0)
    np.testing.assert_array_equal(elsewhere.features["visual"], short.features["visual"])
    assert (elsewhere.features["text"][0, :4] != one.features["text"][0, :4]).all()
    np.testing.assert_array_equal(elsewhere.features["text"][1:], one.features["text"][1:])


def test_noise_is_normal_and_grows_with_sigma():
    batch = make_batch([12] * 20, 12)
    one, two = (np.asarray(call(batch, ROWS, text=s).features["text"] - batch.features["text"]) for s in (1.0, 2.0))
    np.testing.assert_allclose(two, 2 * one, atol=1e-5)
    assert abs(one.mean()) < 0.1
    assert abs(one.std() - 1) < 0.07
    for a, b in ((one[::2], one[1::2]), (one[:, ::2], one[:, 1::2])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.12


def test_a_hidden_modality_is_one_that_the_record_lacks():
    batch = make_batch(LENGTHS, 12)
    found = call(batch, ROWS, hidden=("text",), text=1.0)
    assert not found.mask["text"].any()
    assert not found.features["text"].any()
    same = call(batch, ROWS)
    for m in batch.features:
        np.testing.assert_array_equal(same.features[m], batch.features[m])
        np.testing.assert_array_equal(same.mask[m], batch.mask[m])
    np.testing.assert_array_equal(found.features["visual"], batch.features["visual"])


def hand_made(modalities, replicas=2):
    """Predictions of nobody: (the file's curves, what made them)."""
    rng = np.random.default_rng(1)
    listed = robustness_curves.conditions(modalities)
    gold = [rng.integers(0, 4, 60) for _ in range(replicas)]
    found = [rng.integers(0, 4, (len(listed), 60)).astype(np.int32) for _ in range(replicas)]
    drawn = [robustness_curves.draws(modalities, np.arange(60) + 60 * r) for r in range(replicas)]
    has = [np.ones((60, len(modalities)), bool) for _ in range(replicas)]
    has[0][:5] = np.eye(len(modalities), dtype=bool)[0]
    tested = [
        robustness_curves.Tested(f, {"label": g}, d, h) for f, g, d, h in zip(found, gold, drawn, has, strict=True)
    ]
    made = robustness_curves.curves(TASK, modalities, listed, tested)
    return made, listed, found, gold, drawn


def score_of(gold, predicted, score):
    matrix = np.zeros((4, 4), int)
    np.add.at(matrix, (gold, predicted), 1)
    return scores(matrix, "abcd")[score]


def test_every_condition_is_computed_once():
    listed = robustness_curves.conditions(NAMES)
    assert len(set(listed)) == len(listed) == 7 + 4 * 4
    assert listed[0] == Condition((False,) * 3, (0.0,) * 3)
    assert not any(all(c.hidden) for c in listed)
    assert len(robustness_curves.conditions(("text",))) == 1 + 4


def test_rate_and_sigma_0_are_clean_and_between_every_utterance_counts_by_its_draw():
    made, listed, found, gold, drawn = hand_made(NAMES)
    assert made["missing"].keys() == made["noise"].keys() == {*NAMES, "all"}
    for of in (*made["missing"].values(), *made["noise"].values()):
        for score in METRICS:
            assert of[score][0] == made["clean"][score]
    without = listed.index(Condition((False, True, False), (0.0,) * 3))
    strong = listed.index(Condition((False,) * 3, (0.0, 2.0, 0.0)))
    both = listed.index(Condition((False,) * 3, (2.0,) * 3))
    for score in METRICS:
        for i, rate in enumerate(RATES):
            each = [
                score_of(g, np.where(d[:, 1] < rate, f[without], f[0]), score)
                for g, f, d in zip(gold, found, drawn, strict=True)
            ]
            assert made["missing"]["audio"][score][i] == pytest.approx([np.mean(each), np.std(each, ddof=1)])
        for name, at in (("audio", strong), ("all", both)):
            each = [score_of(g, f[at], score) for g, f in zip(gold, found, strict=True)]
            assert made["noise"][name][score][-1] == pytest.approx([np.mean(each), np.std(each, ddof=1)])
        assert made["missing"]["audio"][score][-1] == made["present"]["text+visual"][score]
        joined = score_of(np.concatenate(gold), np.concatenate([f[without] for f in found]), score)
        assert made["missing"]["audio"]["pooled"][score][-1] == pytest.approx(joined)
    assert [made["missing"][m]["left_with_nothing"] for m in (*NAMES, "all")] == [5, 0, 0, 0]


def test_a_run_of_one_modality_cannot_lose_it():
    made, *_ = hand_made(("audio",), replicas=1)
    assert made["missing"] == {}
    assert made["noise"].keys() == {"audio"}
    assert made["clean"]["uar"][1] is None


def test_retention_and_effective_robustness_are_their_definitions():
    def of(*values):
        return {score: [[v, None] for v in values] for score in METRICS}

    assert robustness_curves.retention(TASK, of(0.8, 0.6, 0.2))["uar"] == pytest.approx((0.75 + 0.25) / 2)
    assert robustness_curves.retention(TASK, of(0.0, 0.6))["uar"] is None
    found = robustness_curves.effective(TASK, of(0.8, 0.6, 0.2), of(0.7, 0.3, 0.0))
    assert found["uar"] == pytest.approx(((-0.2 + 0.4) + (-0.6 + 0.7)) / 2)


def test_the_floor_says_what_training_saw_most():
    found = robustness_curves.floor(
        Classification("abc"), [({"label": np.array([2, 2, 0])}, {"label": np.array([0, 0, 2, 1])})]
    )
    assert found["accuracy"] == [0.25, None]
    assert found["uar"] == [pytest.approx(1 / 3), None]


def test_a_run_beside_must_be_measured_and_of_the_same_utterances(tmp_path):
    about = {"name": "n", "protocol": "p", "manifest_sha256": "m", "split_sha256": "s", "seed": 0}
    folder, here = epath.Path(tmp_path), epath.Path("here")
    with pytest.raises(UserError, match=rf"--workdir={tmp_path} --mode=robustness"):
        robustness.read_beside(folder, about, here, SCORES)
    made, *_ = hand_made(NAMES)
    (tmp_path / robustness.FILE).write_text(json.dumps(about | made))
    assert robustness.read_beside(folder, about, here, SCORES)["clean"] == made["clean"]
    with pytest.raises(UserError, match=r"its split_sha256 is s, that of here other"):
        robustness.read_beside(folder, about | {"split_sha256": "other"}, here, SCORES)
    made["missing"]["all"]["rates"] = made["missing"]["text"]["rates"] = [0, 1]
    (tmp_path / robustness.FILE).write_text(json.dumps(about | made))
    with pytest.raises(UserError, match=r"its missing is \[0, 1\]"):
        robustness.read_beside(folder, about, here, SCORES)
    (tmp_path / robustness.FILE).write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"[Mm]ake it again"):
        robustness.read_beside(folder, about, here, SCORES)


@pytest.mark.slow
def test_the_command(run_cli, tmp_path, small_corpus):
    """Refused before the end, then the run's own figures, bit for bit the same again and streamed, and nothing else is
    written."""
    run = [f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny", f"--config.data.path={small_corpus}"]
    run += ["--config.train.batch_size=8", "--config.train.eval_batch_size=5", f"--workdir={tmp_path / 'run'}"]
    refused = run_cli(*run, "--mode=robustness")
    assert refused.returncode == 2
    assert "run holds no finished run; the same command without --mode=robustness finishes it" in refused.stderr
    assert not (tmp_path / "run").exists()
    assert run_cli(*run).returncode == 0
    before = snapshot(tmp_path / "run")
    done = run_cli(*run, "--mode=robustness")
    assert done.returncode == 0, done.stderr
    after = snapshot(tmp_path / "run")
    text = after.pop(robustness.FILE)
    assert before.pop("report.html") != after.pop("report.html"), "the curves are in it"
    assert after == before
    result, metrics = json.loads(text), json.loads(before["metrics.json"])
    for curve in (*result["missing"].values(), *result["noise"].values()):
        for score in METRICS:
            assert curve[score][0][0] == pytest.approx(metrics["test"][score]["mean"], abs=1e-6)
    assert result["effective"] is None
    assert "note: the clean" not in done.stdout
    assert f"only audio {100 * result['present']['audio']['weighted_f1'][0]:.1f}, text" in done.stdout
    streamed = run_cli(*run, "--mode=robustness", "--config.data.placement=stream")
    assert streamed.returncode == 0, streamed.stderr
    assert (tmp_path / "run" / robustness.FILE).read_bytes() == text


@pytest.mark.slow
def test_replicas_together_and_alone_and_what_another_way_of_scoring_finds(tmp_path):
    """Folds and seeds; some utterances lack audio from the start. The same file from six replicas a call and from one;
    rate 1 and a noise against a batch that is put together by hand."""
    utterances = [
        dataclasses.replace(u, features={"text": u.features["text"]}) if i % 7 == 0 else u
        for i, u in enumerate(small_utterances(120))
    ]
    write_corpus(tmp_path / "corpus", utterances, small_description())
    corpus, run = Corpus(tmp_path / "corpus"), epath.Path(tmp_path / "run")
    experiment.run(small(replicas_per_step=6), corpus, run)
    result = json.loads(json.dumps(robustness.measure(small(replicas_per_step=6), corpus, run)))
    config = small(replicas_per_step=1)
    alone = robustness.measure(config, corpus, run, beside=run)
    of_itself = alone.pop("effective")
    assert {v for kind in ("missing", "noise") for of in of_itself[kind].values() for v in of.values()} == {0.0}
    assert result.pop("effective") is None
    assert alone == result
    known = json.loads((run / "metrics.json").read_text())
    assert result["replicas"] == [r["name"] for r in known["replicas"]]
    assert result["utterances"] == 240
    assert result["missing"]["text"]["left_with_nothing"] == 2 * 18
    for score in METRICS:
        assert result["clean"][score] == pytest.approx([known["test"][score][k] for k in ("mean", "sd")], abs=1e-6)
        assert result["missing"]["text"]["pooled"][score][0] == pytest.approx(known["points"][0]["pooled"][score])
    restored = resume.restore_finished(config, corpus, run)
    apply, pool = restored.steps.apply, restored.data.pool
    predict = jax.jit(lambda model, batch: apply(model.params, model.model_state, batch)[0]["logits"].argmax(-1))
    wanted = {"missing": [], "noise": []}
    for r, replica in enumerate(restored.groups.replicas):
        rows, model = restored.data.folds[replica.fold].test, restored.groups.best(r)
        clean = step.standardize(
            jax.tree.map(jnp.asarray, loader.collate(corpus, pool, rows, (("text", 9), ("audio", 1)), "refuse")),
            model.input_stats,
        )
        gone = {
            "features": clean.features | {"audio": jnp.zeros_like(clean.features["audio"])},
            "mask": clean.mask | {"audio": jnp.zeros_like(clean.mask["audio"])},
        }
        noisy = call(clean, pool.rows[rows], text=SIGMAS[-1])
        for kind, batch in (("missing", dataclasses.replace(clean, **gone)), ("noise", noisy)):
            matrix = np.zeros((3, 3), int)
            np.add.at(matrix, (pool.targets["label"][rows], np.asarray(predict(model, batch))), 1)
            wanted[kind].append(scores(matrix, corpus.labels))
    for kind, m in (("missing", "audio"), ("noise", "text")):
        for score in METRICS:
            values = [of[score] for of in wanted[kind]]
            assert result[kind][m][score][-1] == pytest.approx([np.mean(values), np.std(values, ddof=1)])
    assert wanted["missing"][0]["confusion"] != known["replicas"][0]["test"]["confusion"]
