"""The baselines that read whole dialogues against references that read one dialogue turn by turn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import class_targets, corpus_of
from experiments import in_float64
from talks import conversations, features, known
from test_dialogue_baselines import NETWORKS, SIZES, WAYS, laid, make

from mer_jax.data.corpus import Corpus
from mer_jax.models.baselines import graph_smile, mmgcn, sdt
from mer_jax.models.layers import sinusoids
from mer_jax.tasks import task_of
from mer_jax.training.compiled import model_of

torch = pytest.importorskip("torch", reason="needs pip install -e '.[prep]'")
import dialogue_references  # noqa: E402

pytestmark = pytest.mark.slow  # they compile in float64, a program for each case

ONE, THREE = {"audio": 10}, {"text": 4, "audio": 3, "visual": 3}
CASES = [(name, hears, SIZES) for name, hears in WAYS]
CASES += [(name, "both", ONE) for name in ("mmgcn", "graph_smile")]
CASES += [(name, "both", THREE) for name in ("mmgcn", "sdt", "graph_smile")]
IDS = ["-".join((name, hears, *sizes)) for name, hears, sizes in CASES]


def positions(turn, width):
    """The paper's, in float64; ours are float32: see `test_positions_are_the_papers`."""
    table = [dialogue_references.position(t, width).numpy() for t in range(64)]
    return jnp.asarray(np.stack(table))[turn]


@pytest.fixture(autouse=True)
def exact_positions(monkeypatch):
    monkeypatch.setattr(sdt, "sinusoids", positions)


def tensors(tree):
    """float64, and asked for their gradients."""
    return jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf, np.float64), requires_grad=True), tree)


def reference(name, hears, sizes, params, x, some):
    """Of every utterance, in the order of x."""
    network, settings = getattr(dialogue_references, name), NETWORKS[name][1]
    if name == "mmgcn":
        network = functools.partial(network, nearly_one=mmgcn.NEARLY_ONE)
    said = dict(zip(sizes, x.split(list(sizes.values()), dim=1), strict=True))
    whole = [(rows, {m: y[rows] for m, y in said.items()}) for rows in some.rows]
    return torch.cat([network(params, y, some.speaker[rows].tolist(), hears, settings) for rows, y in whole])


def order_of(rows, count):
    return np.array([int(np.flatnonzero(rows.rows == row)[0]) for row in range(count)])


def check_gradients(found, tree):
    for (path, ours), leaf in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(tree), strict=True):
        np.testing.assert_allclose(ours, leaf.grad, rtol=1e-7, atol=1e-12, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(("name", "hears", "sizes"), CASES, ids=IDS)
def test_features_and_gradients_are_the_papers(name, hears, sizes):
    x, some = features(), known()
    params, apply = make(name, hears, sizes)
    theirs, said = tensors(params), tensors(x)
    wanted = reference(name, hears, sizes, theirs, said, some)
    weights = np.random.default_rng(2).normal(size=wanted.shape)
    (wanted * torch.from_numpy(weights)).sum().backward()
    batch, rows = conversations(some, turns=13, more_rows=8)
    order = order_of(rows, len(x))

    def total(params, x, batch):
        y = apply(params, x, batch)[0][order]
        return (y * weights).sum(), y

    ours = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, y), (of_params, of_x) = in_float64(ours, params, laid(x, rows), batch)
    np.testing.assert_allclose(y, wanted.detach(), rtol=1e-9, atol=1e-12)
    check_gradients(of_x[order], said)
    check_gradients(of_params, theirs)


def test_positions_are_the_papers():
    """Ours are float32."""
    ours = np.asarray(sinusoids(jnp.arange(64), 8))
    np.testing.assert_allclose(ours, positions(np.arange(64), 8), atol=1e-5)


def test_likeness_is_nearly_the_papers():
    """Ours is of cosines that are never one, where it would have no gradient."""
    x, some = features(), known()
    params = tensors(make("mmgcn", "both")[0])
    said = dict(zip(SIZES, torch.tensor(x, dtype=torch.float64).split(list(SIZES.values()), dim=1), strict=True))
    rows, settings = some.rows[2], NETWORKS["mmgcn"][1]
    arguments = params, {m: y[rows] for m, y in said.items()}, some.speaker[rows].tolist(), "both", settings
    exact, ours = (dialogue_references.mmgcn(*arguments, nearly_one=factor) for factor in (1.0, mmgcn.NEARLY_ONE))
    np.testing.assert_allclose(ours.detach(), exact.detach(), atol=1e-5)


WINDOW, TEMPERATURE = 3, 2.0
FACTORS = {
    "sdt": {"classification": 0.7, "students": 0.5, "distillation": 0.3},
    "graph_smile": {"classification": 1.0, "sentiment": 0.9, "shift": 0.7},
}


def whole_model(name, hears):
    """(config, family, model) on the small corpus."""
    config = {"sdt": sdt.SDTExperiment, "graph_smile": graph_smile.GraphSmileExperiment}[name]()
    config.data.modalities, config.data.context = tuple(SIZES), hears
    config.model = dataclasses.replace(NETWORKS[name][1], dropout=0.0, input_dropout=0.0)
    config.loss.label_smoothing = 0.0
    first, second, third = FACTORS[name].values()
    if name == "sdt":
        config.loss.teacher, config.loss.students, config.loss.distillation = first, second, third
        config.loss.temperature = TEMPERATURE
    else:
        config.loss.sentiment, config.loss.shift, config.model.shift_window = second, third, WINDOW
    corpus = Corpus(corpus_of(48))
    return config, *model_of(config, corpus, task_of(corpus))


def batch_of(x, some, label, weight):
    """The utterances of x, said in one time step, in two lines of dialogues; rows behind them hold rubbish."""
    batch, rows = conversations(some, turns=14, more_rows=8)
    there, row = rows.rows >= 0, np.maximum(rows.rows, 0)
    of_text, of_audio = np.split(np.asarray(laid(x, rows))[:, None], [SIZES["text"]], axis=2)
    [group] = batch.groups
    group = dataclasses.replace(
        group,
        features={"text": jnp.asarray(of_text), "audio": jnp.asarray(of_audio)},
        mask={m: jnp.asarray(there[:, None]) for m in SIZES},
        targets=jax.tree.map(jnp.asarray, class_targets(np.where(there, label[row], 0).astype(np.int32), 3)),
        weight=jnp.asarray(np.where(there, weight[row], 0).astype(np.float32)),
    )
    return dataclasses.replace(batch, groups=(group,))


def terms_of(name, hears, params, x, some, label, weight):
    said = reference(name, hears, SIZES, params["network"], x, some)
    if name == "sdt":
        learnt = np.flatnonzero(weight)
        return dialogue_references.sdt_terms(params, said[learnt], label[learnt], SIZES, TEMPERATURE)
    dialogues = [(said[rows], [int(label[row]) if weight[row] else None for row in rows]) for rows in some.rows]
    calm, glad, cross = 2, 0, 1
    return dialogue_references.graph_smile_terms(params, dialogues, WINDOW, sentiment_of=(calm, glad, cross))


@pytest.mark.parametrize(("name", "hears"), [("sdt", "both"), ("graph_smile", "past")])
def test_objectives_and_gradients_are_the_papers(name, hears):
    config, family, model = whole_model(name, hears)
    params, state = jax.jit(model.init)(jax.random.key(0))
    rng, x, some = np.random.default_rng(3), features(), known()
    params = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), params)
    label, weight = rng.integers(0, 3, len(x)), (rng.random(len(x)) < 0.7).astype(np.float32)

    def loss(params, batch):
        outputs = model.apply(params, state, batch, jax.random.key(1))[0]
        return family.objective(config, outputs, batch, jnp.full(3, 1 / 3))

    theirs = tensors(params)
    wanted = terms_of(name, hears, theirs, torch.tensor(x, dtype=torch.float64), some, label, weight)
    total = sum(factor * wanted[term] for term, factor in FACTORS[name].items())
    total.backward()
    (found, terms), gradient = in_float64(
        jax.jit(jax.value_and_grad(loss, has_aux=True)), params, batch_of(x, some, label, weight)
    )
    assert terms.keys() == wanted.keys()
    for term, value in wanted.items():
        np.testing.assert_allclose(terms[term], value.item(), rtol=1e-9, err_msg=term)
    np.testing.assert_allclose(found, total.item(), rtol=1e-9)
    check_gradients(gradient, theirs)
