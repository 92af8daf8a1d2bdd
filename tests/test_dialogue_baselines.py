"""The baselines that read whole dialogues: what no packing, no padding and no later turn may change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import remembered
from talks import DIM, conversations, features, known

from mer_jax.data.batch import Batch, NextTurn
from mer_jax.models.baselines import bc_lstm, dialogue_gcn, dialogue_rnn, graph_smile, mmgcn, sdt
from mer_jax.models.conversation import surrounded
from mer_jax.models.functional import functionalize

SIZES = {"text": 6, "audio": DIM - 6}
NETWORKS = {
    "bc_lstm": (bc_lstm.BcLSTM, bc_lstm.BcLSTMSettings(width=8)),
    "dialogue_rnn": (dialogue_rnn.DialogueRNN, dialogue_rnn.DialogueRNNSettings(width=6, hidden=5, scaled=False)),
    "dialogue_gcn": (dialogue_gcn.DialogueGCN, dialogue_gcn.DialogueGCNSettings(width=8, before=3, after=2)),
    "mmgcn": (mmgcn.MMGCN, mmgcn.MMGCNSettings(width=8, speaker_width=3, layers=3)),
    "sdt": (sdt.SDT, sdt.SDTSettings(width=8, heads=2)),
    "graph_smile": (graph_smile.GraphSmile, graph_smile.GraphSmileSettings(width=8, layers=3, before=3, after=2)),
}
WAYS = [(name, hears) for name in NETWORKS for hears in ("past", "both")]
REMEMBERS = 31


@remembered
def make(name, hears, sizes=SIZES):
    """(params moved off their start, apply(params, features, batch, key) -> features and memory)"""
    network, settings = NETWORKS[name]

    class Whole(network):
        def __call__(self, batch, *, key=None):
            return super().__call__(*batch, key=key)

    def module(overrides, rngs):
        made = Whole(settings, sizes, ahead=hears == "both", rngs=rngs)
        made.remembers = REMEMBERS
        return made

    model = functionalize(module)
    params, state = model.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    params = tree.unflatten([leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    return params, jax.jit(lambda params, x, batch, key=None: model.apply(params, state, (x, batch), key)[0])


def laid(x, rows):
    return jnp.asarray(np.where(rows.rows[:, None] >= 0, x[rows.rows], 1e3).astype(np.float32))  # rubbish elsewhere


def outputs(name, hears, x, batch, rows):
    """Of every utterance, in the order of x."""
    params, apply = make(name, hears)
    y = np.asarray(apply(params, laid(x, rows), batch)[0])
    found = np.zeros((len(x), y.shape[1]), y.dtype)
    found[rows.rows[rows.counts]] = y[rows.counts]
    return found


@pytest.mark.parametrize(("name", "hears"), WAYS)
def test_packing_padding_and_order_change_nothing(name, hears):
    x = features()
    wanted = outputs(name, hears, x, *conversations(known()))
    for how in ({"order": [3, 0, 4, 2, 1], "turns": 13}, {"turns": 28, "more_rows": 16}):
        np.testing.assert_allclose(outputs(name, hears, x, *conversations(known(), **how)), wanted, atol=2e-5)


@pytest.mark.parametrize(("name", "hears"), WAYS)
def test_what_a_turn_hears(name, hears):
    """Bit for bit no later turn of the past; of both ends some later one. No other dialogue. A gradient reaches every
    parameter."""
    params, apply = make(name, hears)
    batch, rows = conversations(known())
    x = laid(features(), rows)
    before = np.asarray(apply(params, x, batch)[0])
    members = [int(np.flatnonzero(rows.rows == row)[0]) for row in known().rows[2]]
    changed = np.asarray(apply(params, x.at[members[6]].add(1.0), batch)[0])
    moved = {i for i in np.flatnonzero(rows.counts) if (changed[i] != before[i]).any()}
    assert members[6] in moved
    assert moved <= set(members[6:] if hears == "past" else members)
    assert (hears == "both") == (members[5] in moved)
    gradient = jax.grad(lambda params: (apply(params, x, batch)[0] ** 2)[jnp.asarray(rows.counts)].sum())(params)
    without = [jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(gradient) if not np.abs(g).max() > 0]
    assert not without


@pytest.mark.parametrize(("name", "hears"), WAYS)
def test_a_turn_among_given_ones_and_a_single_one(name, hears):
    params, apply = make(name, hears)
    batch, rows = conversations(known())
    x = laid(features(), rows)
    [piece] = surrounded(batch, x)
    wanted = np.asarray(apply(params, x, batch)[0])
    found = np.asarray(apply(params, x, piece)[0])
    np.testing.assert_allclose(found[rows.counts], wanted[rows.counts], atol=2e-5)
    alone = np.asarray(apply(params, x, Batch({}, {}, {}, jnp.ones(len(x))))[0])
    deaf = dataclasses.replace(piece, heard=jnp.zeros_like(piece.heard), turn=jnp.zeros_like(piece.turn))
    deaf = dataclasses.replace(deaf, speaker=jnp.zeros_like(piece.speaker))
    np.testing.assert_allclose(np.asarray(apply(params, x, deaf)[0])[rows.counts], alone[rows.counts], atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_turns_one_after_the_other_are_the_whole_dialogue(name):
    params, apply = make(name, "past")
    x = features(count=12)
    some = dataclasses.replace(known((12,), hears="past"), speaker=(np.arange(12) % 3 + 1).astype(np.int32))
    wanted = outputs(name, "past", x, *conversations(some))
    memory, one = None, Batch({}, {}, {}, jnp.ones(1))
    for turn in range(12):
        speaker = jnp.asarray(some.speaker[turn : turn + 1])
        y, memory = apply(params, jnp.asarray(x[turn][None]), NextTurn(one, speaker, memory))
        np.testing.assert_allclose(np.asarray(y)[0], wanted[turn], atol=2e-5)
