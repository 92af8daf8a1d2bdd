"""Explanations obey their axioms."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import class_targets
from experiments import hearing

from mer_jax import config as config_lib
from mer_jax.data import pool as pool_lib
from mer_jax.data.batch import Batch, Conversations, Turns
from mer_jax.data.corpus import Corpus, Manifest
from mer_jax.evaluation import attribution, inspection, path_integral
from mer_jax.models import vsc
from mer_jax.models.deepmsi_mer import DeepMSIExperiment
from mer_jax.models.family import Family, utterance_means
from mer_jax.models.lsgmer import LSGMERExperiment
from mer_jax.tasks import task_of
from mer_jax.tasks.classification import Classification
from mer_jax.training import compiled, step

RNG = np.random.default_rng(0)
LABELS = ["a", "b", "c"]
WIDTHS = {"text": 5, "audio": 4, "visual": 6}
LINEAR = Family(module=print, objective=print, sentence="")


def test_shapley_weights_are_the_mean_over_all_orders():
    for count in (1, 2, 3, 4):
        worth = {tuple(s): RNG.normal() for s in attribution.subsets(count).tolist()}
        wanted = np.zeros(count)
        for order in itertools.permutations(range(count)):
            there = [False] * count
            for i in order:
                before = worth[tuple(there)]
                there[i] = True
                wanted[i] += (worth[tuple(there)] - before) / math.factorial(count)
        found = attribution.shapley_weights(count) @ np.array(
            [worth[tuple(s)] for s in attribution.subsets(count).tolist()]
        )
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def manifest(modalities):
    specs = {m: {"width": WIDTHS[m], "dtype": "float32", "longest": 7, "extractor": "drawn"} for m in modalities}
    fields = {
        "schema_version": 1,
        "name": "drawn",
        "labels": LABELS,
        "label_space": "text",
        "label_embeddings": np.eye(3, 5).tolist(),
        "modalities": specs,
        "protocol": {"name": "official"},
        "splits": {"train": {"count": 2, "classes": {}}},
        "shards": [],
    }
    return Manifest(json.dumps(fields), "drawn")


def batch_of(modalities, time=7):
    lengths = {m: np.array([7, 3, 1, 0 if m == "audio" else 5]) for m in modalities}
    mask = {m: np.arange(time)[None] < n[:, None] for m, n in lengths.items()}
    features = {
        m: np.where(mask[m][..., None], RNG.normal(1, 2, (4, time, WIDTHS[m])), 0).astype(np.float32)
        for m in modalities
    }
    return jax.tree.map(
        jnp.asarray, Batch(features, mask, class_targets(np.zeros(4, np.int32), 3), np.ones(4, np.float32))
    )


def small(family):
    if family == "lsgmer":
        found = LSGMERExperiment()
        found.model.width, found.model.heads = 8, 2
    else:
        found = DeepMSIExperiment()
        found.data.modalities = ("text", "audio", "visual")
        found.model.early_width = found.model.projection = 8
        found.model.tcn_widths, found.model.late_widths = (8,), (8,)
    return config_lib.validate(found)


@pytest.fixture(scope="module", params=["lsgmer", "deepmsi_mer"])
def explained(request):
    """(a drawn model's function, the model, a batch, its explanation)"""
    config = small(request.param)
    about = manifest(config.data.modalities)
    task = task_of(about)
    family, made = compiled.model_of(config, about, task)
    params, model_state = jax.jit(made.init)(jax.random.key(1))
    stats = {
        m: {"mean": np.full(WIDTHS[m], 0.5, np.float32), "scale": np.full(WIDTHS[m], 2, np.float32)}
        for m in config.data.modalities
    }
    model, batch = step.EvalState(params, model_state, stats), batch_of(config.data.modalities)
    explain = jax.jit(lambda m, b: attribution.attribute(made.apply, m, b, task=task, family=family))
    found = explain(model, batch)
    return made.apply, model, batch, found


def steps_at(places, sharpness):
    """A function of rows that rises by 1 at a place of the path of each, over about 1/sharpness of it."""
    return lambda x: jax.nn.sigmoid(sharpness * (x["text"].mean((1, 2)) - places))


def test_the_path_is_refined_where_the_function_changes():
    start, end = {"text": jnp.zeros((3, 4, 2))}, {"text": jnp.ones((3, 4, 2))}
    places = jnp.array([0.1234, 0.5021, 0.87])
    function = steps_at(places, jnp.float32(800))
    shares = (np.arange(32) + 0.5) / 32
    slope = jax.vmap(jax.grad(lambda s: jax.nn.sigmoid(800 * (s - 0.5021))))(jnp.float32(shares))
    assert abs(slope.mean() - 1) > 0.5, "32 points, as far apart as each other, miss most of it"
    gradients, gap, points = jax.jit(lambda s, e: path_integral.integrate(function, s, e))(start, end)
    change = function(end) - function(start)
    np.testing.assert_allclose(gradients["text"].sum((1, 2)), change, rtol=path_integral.COMPLETE)
    np.testing.assert_allclose(gap, np.abs(gradients["text"].sum((1, 2)) - change) / change, atol=1e-5)
    assert points.max() <= 512
    assert (points > 32).any()


def test_what_is_smooth_takes_32_gradients_and_a_jump_is_told():
    start, end = {"text": jnp.zeros((2, 4, 2))}, {"text": jnp.ones((2, 4, 2))}

    def function(x):
        share = x["text"].mean((1, 2))
        return share**2 + jnp.where(jnp.array([False, True]) & (share > 0.4), 0.5, 0)

    gradients, gap, points = path_integral.integrate(function, start, end)
    np.testing.assert_allclose(gradients["text"].sum((1, 2)), [1, 1], rtol=1e-3)
    np.testing.assert_allclose(gap, [0, 0.5 / 1.5], atol=1e-3)
    assert points.tolist() == [32, 512]


def test_completeness_is_put_in_words():
    found = {"utterances": 16, "median_gap": 0.02, "largest_gap": 0.54, "incomplete": 3, "most_gradients": 512}
    words = inspection.completeness_in_words(found)
    assert "miss 2.0 % of what they explain (median; at most 54.0 %), with up to 512 gradients; 3 of them" in words
    assert inspection.completeness_in_words(found | {"incomplete": 0}).endswith("all are below 5 %")
    assert "not tried" in inspection.completeness_in_words({"utterances": 0, "left_out": "frames"})


@pytest.mark.slow
def test_modalities_sum_to_the_difference_of_logits(explained):
    apply, model, batch, found = explained
    nothing = attribution.without(
        step.standardize(batch, model.input_stats), {m: jnp.zeros((1, 1), bool) for m in batch.mask}
    )
    alone = apply(model.params, model.model_state, nothing)[0]["logits"]
    np.testing.assert_allclose(sum(found.shapley.values()), found.logits - alone, atol=1e-5)
    np.testing.assert_allclose(found.shapley["audio"][3], 0, atol=1e-6)  # it has none: a player who adds nothing
    assert np.abs(found.shapley["audio"][:3]).max() > 1e-3


@pytest.mark.slow
def test_rows_of_attention_sum_to_one(explained):
    _, _, batch, found = explained
    for m, weight in found.attention.items():
        there = np.asarray(batch.mask[m].any(1))
        np.testing.assert_allclose(np.asarray(weight.sum(-1))[there], 1, atol=1e-5)
        assert not jnp.where(batch.mask[m][:, None] if weight.ndim > 2 else batch.mask[m], 0, weight).any()


@pytest.mark.slow
def test_integrated_gradients_lie_on_real_steps_and_sum_up(explained):
    apply, model, batch, found = explained
    standard = step.standardize(batch, model.input_stats)
    start = {m: jnp.zeros_like(x) for m, x in standard.features.items()}
    if found.kept is None:
        start = utterance_means(standard.features, batch.mask)
    at = Batch(start, batch.mask, batch.targets, batch.weight)
    before, predicted = apply(model.params, model.model_state, at)[0]["logits"], np.asarray(found.logits).argmax(1)
    wanted = (found.logits - before)[np.arange(4), predicted]
    total = sum(x.sum(1) for x in found.integrated_gradients.values())
    if found.kept is None:  # VSC's choices are jumps, over which no integral of a gradient can go
        np.testing.assert_allclose(total, wanted, atol=0.02 * np.abs(wanted).max())
    change = np.maximum(np.abs(wanted), path_integral.LEAST_CHANGE)
    np.testing.assert_allclose(found.gap, np.abs(total - wanted) / change, atol=1e-3)
    assert (found.gap < path_integral.COMPLETE)[found.points < 512].all()
    for m, x in found.integrated_gradients.items():
        assert not jnp.where(batch.mask[m], 0, x).any()
        assert np.abs(np.asarray(x)[:3]).max() > 1e-4


def test_integrated_gradients_of_a_linear_model_are_exact():
    weight = RNG.normal(size=(5, 3)).astype(np.float32)

    def apply(params, model_state, batch):
        logits = jnp.einsum("btf,fc->bc", batch.features["text"], weight)
        return {"logits": logits, "attention": {}, "kept": None}, model_state

    batch = batch_of(["text"])
    stats = {"text": {"mean": np.zeros(5, np.float32), "scale": np.ones(5, np.float32)}}
    found = attribution.attribute(
        apply, step.EvalState({}, {}, stats), batch, task=Classification(LABELS), family=LINEAR
    )
    predicted = np.asarray(found.logits).argmax(1)
    wanted = np.einsum("btf,fb->bt", batch.features["text"], weight[:, predicted])
    np.testing.assert_allclose(found.integrated_gradients["text"], wanted, atol=1e-4)


def test_own_mean_is_of_the_real_steps():
    batch = batch_of(["text"])
    x, mask = batch.features["text"], batch.mask["text"]
    found = np.asarray(utterance_means({"text": x}, {"text": mask})["text"])
    np.testing.assert_allclose(found[1, :3], np.tile(x[1, :3].mean(0), (3, 1)), atol=1e-6)
    assert not found[1, 3:].any()


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_map_of_few_utterances(count, small_corpus):
    feature = RNG.normal(size=(count, 4)).astype(np.float32)
    corpus = Corpus(small_corpus)
    pool = pool_lib.select_utterances(corpus, np.arange(len(corpus)), {"text": 9, "audio": 1}, {})
    found = inspection.pca_projection(corpus, pool, np.arange(count), {"feature": feature})
    at = np.stack([found["x"], found["y"]], 1)
    assert at.shape == (count, 2)
    wanted = np.linalg.norm(feature[:, None] - feature[None], axis=-1)
    seen = np.linalg.norm(at[:, None] - at[None], axis=-1)
    if count < 3:  # two points have one direction
        np.testing.assert_allclose(seen, wanted, atol=1e-3)
    assert (seen <= wanted + 1e-3).all()
    assert sum(found["explained"]) <= 1


def test_what_vsc_made_of_the_frames_in_words():
    # Two are kept of five real frames; 7 stands for none.
    kept = vsc.Kept(np.array([1, 4, 7]), np.array([3, 0, 0, 1, 1, 3, 3]))
    assert inspection.frames_of(kept, 5) == {"kept": [1, 4], "merged": [[2, 1], [3, 4]], "dropped": [0]}


@pytest.fixture(scope="module", params=["past", "both"])
def talk(request):
    """The same of two dialogues of three and one turns, whose rows come in two groups."""
    config = hearing(small("lsgmer"), request.param)
    about = manifest(config.data.modalities)
    task = task_of(about)
    family, made = compiled.model_of(config_lib.validate(config), about, task)
    params, model_state = jax.jit(made.init)(jax.random.key(1))
    stats = {m: {"mean": np.zeros(WIDTHS[m], np.float32), "scale": np.ones(WIDTHS[m], np.float32)} for m in WIDTHS}
    model, four = step.EvalState(params, model_state, stats), batch_of(config.data.modalities)
    turns = Turns(*(jnp.array(x, jnp.int32) for x in ([2, 0, 3, 1], [1, 1, 2, 1], [1, 1, 1, 2])))
    rows = dataclasses.replace(four, turns=turns)
    groups = tuple(jax.tree.map(lambda x, at=at: x[at], rows) for at in (slice(0, 1), slice(1, 4)))
    batch = Conversations(groups, 2, 3)
    return made.apply, model, batch, attribution.attribute(made.apply, model, batch, task=task, family=family), task


@pytest.mark.slow
def test_modalities_and_context_sum_to_the_difference_of_logits(talk):
    apply, model, batch, found, _ = talk
    nothing = batch.map(lambda rows: attribution.without(rows, {m: jnp.zeros((1, 1), bool) for m in rows.mask}))
    for row, (group, at) in enumerate([(0, 0), (1, 0), (1, 1), (1, 2)]):
        one = jax.tree.map(lambda x, at=at: x[at : at + 1], nothing.groups[group])
        turns = Turns(jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32), one.turns.speaker)
        alone = apply(model.params, model.model_state, Conversations((dataclasses.replace(one, turns=turns),), 1, 3))[
            0
        ]["logits"][0]
        np.testing.assert_allclose(sum(x[row] for x in found.shapley.values()), found.logits[row] - alone, atol=1e-5)
    assert set(found.shapley) == {"text", "audio", "context"}
    np.testing.assert_allclose(found.shapley["context"][2], 0, atol=1e-6)  # a dialogue of one turn
    assert (found.gap < path_integral.COMPLETE).all()


@pytest.mark.slow
def test_the_influence_of_a_turn_is_what_the_logit_loses_without_it(talk):
    apply, model, batch, found, task = talk
    explained = task.explained(found.logits)
    where = {2: (0, 0), 0: (1, 0), 1: (1, 2)}  # place -> group, row in it
    rows = {2: 0, 0: 1, 1: 3}
    for turn, (group, at) in where.items():
        gone = batch.groups[group]
        place = gone.turns.place.at[at].set(-1)
        gone = dataclasses.replace(gone, turns=dataclasses.replace(gone.turns, place=place))
        groups = tuple(gone if i == group else one for i, one in enumerate(batch.groups))
        logits = apply(model.params, model.model_state, dataclasses.replace(batch, groups=groups))[0]["logits"]
        for other, row in rows.items():
            wanted = 0 if other == turn else ((found.logits[row] - logits[row]) * explained[row]).sum()
            np.testing.assert_allclose(found.turns[row, turn], wanted, atol=1e-5)
    assert not np.asarray(found.turns[2]).any(), "of another dialogue"
    assert np.abs(found.turns[0]).max() > 1e-4
