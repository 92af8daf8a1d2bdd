"""The baselines that read single utterances against references that read one utterance without padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import in_float64
from test_baselines import LENGTHS, Made, config_of, manifest  # noqa: F401

from mer_jax.config import validate
from mer_jax.models.baselines import mult

torch = pytest.importorskip("torch", reason="needs pip install -e '.[prep]'")
import utterance_references  # noqa: E402
from test_dialogue_references import check_gradients, tensors  # noqa: E402
from test_dialogue_references import positions as exact_positions  # noqa: E402

pytestmark = pytest.mark.slow  # they compile in float64, a program for each case

TWO, THREE = ("text", "audio"), ("text", "audio", "visual")
# Sizes that differ, so that none stands for another, and layers behind one another.
SIZES = {
    "ef": {"width": 7},
    "lf_dnn": {"width": 5, "layers": 2, "fusion_layers": 2},
    "tfn": {"text_width": 4, "width": 3, "inference_width": 6},
    "lmf": {"text_width": 4, "width": 3, "fusion_width": 6, "rank": 3},
    "mult": {"width": 4},
    "misa": {"width": 6},
}
CASES = [("ef", THREE, {"cell": cell}) for cell in ("gru", "lstm")]
CASES += [(name, modalities, {}) for name in ("lf_dnn", "tfn", "lmf") for modalities in (THREE, ("text",))]
CASES += [("misa", modalities, {}) for modalities in (THREE, ("audio",))]
CASES += [("ef", ("audio",), {"cell": "lstm"}), ("tfn", ("audio",), {}), ("lmf", ("audio",), {})]
CASES += [
    ("mult", THREE, {"layers": 1}),
    ("mult", TWO, {"layers": 2}),
    ("mult", ("visual",), {"kernel": 4}),
]
IDS = ["-".join((name, *modalities, *map(str, more.values()))) for name, modalities, more in CASES]
ADDED = 1e-12  # by ours to the squared lengths that MISA divides by, so that a vector of zeros has one
# Steps of text, audio and visual. Three utterances lack one modality, one has audio alone.
SPOKEN = LENGTHS.copy()
SPOKEN[0, 0] = SPOKEN[1, 1] = SPOKEN[2, 2] = SPOKEN[4, 0] = SPOKEN[4, 2] = 0


@pytest.fixture(autouse=True)
def positions(monkeypatch):
    """The paper's, in float64; how near ours are is tested beside the dialogues' references."""
    monkeypatch.setattr(mult, "sinusoids", exact_positions)


def make(name, modalities, path, **more):
    config = config_of(name, modalities=modalities)
    for size, value in {**SIZES[name], **more}.items():
        setattr(config.model, size, value)
    return Made(validate(config), path)


def utterances(batch, modalities):
    """Of every row the real steps, tensors that are asked for their gradients."""
    lengths = {m: np.asarray(batch.mask[m]).sum(axis=1) for m in modalities}
    return [
        {m: tensors(batch.features[m][row, : lengths[m][row]]) for m in modalities} for row in range(len(batch.weight))
    ]


def go_back(number, *trees):
    """Gradients of this number alone, zeros where it does not depend on a tensor."""
    for leaf in jax.tree.leaves(trees):
        leaf.grad = torch.zeros_like(leaf)
    number.backward(retain_graph=True)


def check_features(found, said):
    """The gradients; padding has none."""
    for m, ours in found.items():
        wanted = np.zeros(ours.shape)
        for row, utterance in enumerate(said):
            wanted[row, : len(utterance[m])] = utterance[m].grad
        np.testing.assert_allclose(ours, wanted, rtol=1e-7, atol=1e-12, err_msg=m)


@pytest.mark.parametrize(("name", "modalities", "more"), CASES, ids=IDS)
def test_features_logits_and_gradients_are_the_papers(name, modalities, more, manifest):  # noqa: F811
    made = make(name, modalities, manifest, **more)
    batch = made.batch(SPOKEN)
    theirs, said = tensors(made.params), utterances(batch, modalities)
    network = getattr(utterance_references, name)
    found = [network(theirs, utterance, made.config.model) for utterance in said]
    features, logits = (torch.stack(rows) for rows in zip(*found, strict=True))
    weights = np.random.default_rng(2).normal(size=logits.shape)
    go_back((logits * torch.from_numpy(weights)).sum(), theirs, said)

    def total(params, features, batch):
        outputs, _ = made.model.apply(params, made.state, dataclasses.replace(batch, features=features))
        return (outputs["logits"] * weights).sum(), outputs

    ours = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, outputs), (of_params, of_features) = in_float64(ours, made.params, batch.features, batch)
    np.testing.assert_allclose(outputs["feature"], features.detach(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(outputs["logits"], logits.detach(), rtol=1e-9, atol=1e-12)
    check_features(of_features, said)
    check_gradients(of_params, theirs)


@pytest.mark.parametrize("modalities", [THREE, ("audio",)], ids="-".join)
def test_terms_and_gradients_of_misa_are_the_papers(modalities, manifest):  # noqa: F811
    """Of twelve utterances, three of which do not count."""
    made = make("misa", modalities, manifest)
    factors = {"similarity": 0.7, "difference": 0.4, "reconstruction": 1.3}
    made.config.loss = dataclasses.replace(made.config.loss, **factors)
    batch = jax.tree.map(lambda *x: jnp.concatenate(x), made.batch(SPOKEN), made.batch(SPOKEN[::-1], seed=4))
    batch = batch.with_weight(batch.weight.at[jnp.array([2, 3, 11])].set(0.0))
    theirs, said = tensors(made.params), utterances(batch, modalities)
    counted = [said[row] for row in np.flatnonzero(batch.weight)]
    wanted = utterance_references.misa_terms(theirs, counted, ADDED)
    for term, exact in utterance_references.misa_terms(theirs, counted).items():
        assert wanted[term].item() == pytest.approx(exact.item(), rel=1e-7)

    def numbers(params, features, batch):
        total, (terms, _) = made.loss(params, dataclasses.replace(batch, features=features))
        return {**terms, "total": total}, terms | {"total": total}

    ours = jax.jit(jax.jacrev(numbers, argnums=(0, 1), has_aux=True))
    gradients, found = in_float64(ours, made.params, batch.features, batch)
    assert found.keys() == {"classification", "total", *wanted}
    for term, value in wanted.items():
        np.testing.assert_allclose(found[term], value.item(), rtol=1e-9, atol=1e-12, err_msg=term)
        if value.requires_grad:
            go_back(value, theirs, said)
            of_params, of_features = gradients[term]
            check_features(of_features, said)
            check_gradients(of_params, theirs)
    extra = sum(factor * wanted[term] for term, factor in factors.items())
    np.testing.assert_allclose(found["total"] - found["classification"], extra.item(), rtol=1e-9)
