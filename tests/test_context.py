"""What comes between an utterance's feature and its classification where a dialogue is heard."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import in_float64, remembered
from talks import DIM, SPEAKER, conversations, features, known

from mer_jax.data.batch import Batch, Conversations, NextTurn
from mer_jax.models.context import SPEAKERS, Context
from mer_jax.models.conversation import by_group, surrounded
from mer_jax.models.functional import functionalize
from mer_jax.settings import ContextSettings

WIDTH, HEADS, SPAN = 12, 3, 4
KINDS = ("transformer", "gru", "speakers")
WAYS = [(kind, hears) for kind in KINDS for hears in ("past", "both")]


@remembered
def make(kind, hears, **changes):
    """(params moved off their start, apply(params, features, batch, key))"""
    settings = ContextSettings(kind=kind, width=WIDTH, heads=HEADS, span=SPAN, **changes)

    class Whole(Context):
        def __call__(self, batch, *, key=None):
            return super().__call__(*batch, key=key)[0]

    model = functionalize(lambda overrides, rngs: Whole(settings, hears, DIM, rngs=rngs))
    params, state = model.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    params = tree.unflatten([leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    return params, jax.jit(lambda params, x, batch, key=None: model.apply(params, state, (x, batch), key)[0])


def stepper(kind, **changes):
    """step(params, x, speaker, memory) -> (y, memory)"""
    settings = ContextSettings(kind=kind, width=WIDTH, heads=HEADS, span=SPAN, **changes)

    class Turn(Context):
        def __call__(self, batch, *, key=None):
            return super().__call__(*batch, key=key)

    model = functionalize(lambda overrides, rngs: Turn(settings, "past", DIM, rngs=rngs))
    _, state = model.init(jax.random.key(0))
    one = Batch({}, {}, {}, jnp.ones(1))
    return jax.jit(
        lambda params, x, speaker, memory: model.apply(params, state, (x, NextTurn(one, speaker, memory)))[0]
    )


def outputs(kind, hears, x, batch, rows, **changes):
    """Of every utterance, in the order of x."""
    params, apply = make(kind, hears, **changes)
    laid = jnp.asarray(np.where(rows.rows[:, None] >= 0, x[rows.rows], 1e3).astype(np.float32))  # rubbish elsewhere
    y = np.asarray(apply(params, laid, batch))
    found = np.zeros_like(x)
    found[rows.rows[rows.counts]] = y[rows.counts]
    return found


def plain_layer_norm(x, p):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def plain_linear(x, p):
    return x @ p["kernel"] + p["bias"]


def plain_softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def plain_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def plain_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_attention(h, speakers, p, kind, hears):
    """Turn by turn and head by head, from the words of the docstring."""
    y = plain_layer_norm(h, p["attention_norm"])
    q, k, v = (plain_linear(y, p[name]).reshape(len(h), HEADS, -1) for name in ("query", "key", "value"))
    found = np.zeros_like(q)
    for i in range(len(h)):
        for head in range(HEADS):
            heard, score = [], []
            for j in range(len(h)):
                same = i == j or (speakers[i] == speakers[j] and speakers[i] > 0)
                if abs(i - j) > SPAN or (j > i and hears == "past"):
                    continue
                if kind == "speakers" and ((head % 3 == 1 and not same) or (head % 3 == 2 and same and i != j)):
                    continue
                bias = p["distance"][head, i - j + (SPAN if hears == "both" else 0)]
                heard.append(j)
                score.append(q[i, head] @ k[j, head] / np.sqrt(q.shape[-1]) + bias)
            found[i, head] = plain_softmax(np.array(score)) @ v[heard, head]
    h = h + plain_linear(found.reshape(len(h), -1), p["out"])
    return h + plain_linear(plain_gelu(plain_linear(plain_layer_norm(h, p["mlp_norm"]), p["mlp_in"])), p["mlp_out"])


def plain_gru(h, p, hears):
    y, parts = plain_layer_norm(h, p["norm"]), []
    for way in range(2 if hears == "both" else 1):
        size = p["recurrent"][str(way)]["kernel"].shape[0]
        state, states = np.zeros(size), np.zeros((len(h), size))
        for i in range(len(h)) if way == 0 else reversed(range(len(h))):
            inputs = np.split(plain_linear(y[i], p["inputs"][str(way)]), 3)
            held = np.split(plain_linear(state, p["recurrent"][str(way)]), 3)
            reset, update = plain_sigmoid(inputs[0] + held[0]), plain_sigmoid(inputs[1] + held[1])
            state = update * state + (1 - update) * np.tanh(inputs[2] + reset * held[2])
            states[i] = state
        parts.append(states)
    return h + np.concatenate(parts, -1)


def plain_context(x, speakers, p, kind, hears):
    h = plain_linear(x, p["enter"]) + p["speakers"][np.minimum(speakers, SPEAKERS - 1)]
    for _, layer in sorted(p["layers"].items()):
        h = plain_gru(h, layer, hears) if kind == "gru" else plain_attention(h, speakers, layer, kind, hears)
    return plain_layer_norm(x + plain_linear(plain_layer_norm(h, p["norm"]), p["leave"]), p["leave_norm"])


@pytest.mark.parametrize(("kind", "hears"), WAYS)
def test_equals_a_reading_turn_by_turn(kind, hears):
    params, apply = make(kind, hears)
    batch, rows = conversations(known())
    x = features()
    laid = np.where(rows.rows[:, None] >= 0, x[rows.rows], 0)
    found = in_float64(lambda params, laid: apply(params, jnp.asarray(laid), batch), params, laid)
    exact = jax.tree.map(np.float64, params)
    for members in known().rows:
        wanted = plain_context(np.float64(x[members]), SPEAKER[members], exact, kind, hears)
        at = [int(np.flatnonzero(rows.rows == row)[0]) for row in members]
        np.testing.assert_allclose(found[at], wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_no_later_turn_changes_an_earlier_one(kind):
    """Bit for bit, and no gradient leads there."""
    params, apply = make(kind, "past")
    batch, rows = conversations(known())
    x = features()
    at = {int(row): i for i, row in enumerate(rows.rows) if row >= 0}
    laid = jnp.asarray(np.where(rows.rows[:, None] >= 0, x[rows.rows], 0))
    before = np.asarray(apply(params, laid, batch))
    for members in known().rows:
        for turn in range(len(members)):
            changed = apply(params, laid.at[at[int(members[turn])]].add(1.0), batch)
            same = [(np.asarray(changed[at[int(row)]]) == before[at[int(row)]]).all() for row in members]
            reach = 2 * SPAN if kind != "gru" else len(members)
            assert same == [i < turn or i > turn + reach for i in range(len(members))]
    dialogue = known().rows[2]
    middle = at[int(dialogue[5])]
    gradient = np.asarray(jax.grad(lambda laid: apply(params, laid, batch)[middle, 0])(laid))
    heard = {int(row) for row in rows.rows[np.abs(gradient).sum(1) > 0]}
    assert heard == {int(row) for row in dialogue[:6]}  # two layers of SPAN 4 hear them all


@pytest.mark.parametrize("kind", KINDS)
def test_both_hears_later_turns(kind):
    params, apply = make(kind, "both")
    batch, rows = conversations(known())
    laid = jnp.asarray(np.where(rows.rows[:, None] >= 0, features()[rows.rows], 0))
    first = int(np.flatnonzero(rows.rows == known().rows[3][0])[0])
    gradient = np.asarray(jax.grad(lambda laid: apply(params, laid, batch)[first, 0])(laid))
    assert set(rows.rows[np.abs(gradient).sum(1) > 0].tolist()) == set(known().rows[3].tolist())


@pytest.mark.parametrize(("kind", "hears"), WAYS)
def test_packing_padding_and_order_change_nothing(kind, hears):
    x = features()
    wanted = outputs(kind, hears, x, *conversations(known()))
    for how in ({"order": [3, 0, 4, 2, 1]}, {"turns": 28}, {"turns": 13, "more_rows": 16}):
        np.testing.assert_allclose(outputs(kind, hears, x, *conversations(known(), **how)), wanted, atol=1e-5)


def test_windows_that_hear_enough_change_nothing():
    """Two layers of SPAN 4 hear 8 turns back: half of a window of 16."""
    sizes, x = (40, 28), features(count=68)
    some = dataclasses.replace(known(sizes, hears="past"), speaker=np.tile([1, 2], 34).astype(np.int32))
    parts = dataclasses.replace(some, max_turns=16)
    wanted = outputs("transformer", "past", x, *conversations(some))
    found = outputs("transformer", "past", x, *conversations(parts))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    too_short = outputs("transformer", "past", x, *conversations(dataclasses.replace(some, max_turns=6)))
    assert np.abs(too_short - wanted).max() > 1e-2


@pytest.mark.parametrize(("kind", "hears"), WAYS)
def test_single_utterances_are_dialogues_of_one_turn(kind, hears):
    x = features(count=6)
    some = dataclasses.replace(known((1,) * 6), speaker=np.zeros(6, np.int32))
    wanted = outputs(kind, hears, x, *conversations(some))
    params, apply = make(kind, hears)
    found = apply(params, jnp.asarray(x), Batch({}, {}, {}, jnp.ones(6)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    # Which is what training makes of all dialogues where `alone` is nearly 1.
    params, apply = make(kind, hears, alone=0.999999, dropout=0.0)
    batch, rows = conversations(known())
    laid = jnp.asarray(np.where(rows.rows[:, None] >= 0, features()[rows.rows], 0))
    apart = np.asarray(apply(params, laid, batch, jax.random.key(0)))
    alone = np.asarray(apply(params, laid, Batch({}, {}, {}, jnp.ones(len(laid)))))
    np.testing.assert_allclose(apart[rows.counts], alone[rows.counts], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_turns_one_after_the_other_are_the_whole_dialogue(kind):
    params, _ = make(kind, "past")
    x = features(count=30)
    some = dataclasses.replace(known((30,), hears="past"), speaker=(np.arange(30) % 3 + 1).astype(np.int32))
    wanted = outputs(kind, "past", x, *conversations(some))
    step, memory = stepper(kind), None
    for turn in range(30):
        y, memory = step(params, jnp.asarray(x[turn][None]), jnp.asarray(some.speaker[turn : turn + 1]), memory)
        np.testing.assert_allclose(np.asarray(y)[0], wanted[turn], atol=1e-5)


@pytest.mark.parametrize(("kind", "hears"), WAYS)
def test_a_turn_among_given_ones_is_the_same_turn(kind, hears):
    params, apply = make(kind, hears)
    batch, rows = conversations(known())
    laid = jnp.asarray(np.where(rows.rows[:, None] >= 0, features()[rows.rows], 0))
    [piece] = surrounded(batch, laid)
    wanted = np.asarray(apply(params, laid, batch))
    found = np.asarray(apply(params, laid, piece))
    np.testing.assert_allclose(found[rows.counts], wanted[rows.counts], atol=1e-5)
    deaf = np.asarray(apply(params, laid, dataclasses.replace(piece, heard=jnp.zeros_like(piece.heard))))
    assert np.abs(deaf - found)[rows.counts].max() > 1e-2
    gradient = jax.grad(lambda x: apply(params, x, piece)[:, 0].sum())(laid)
    for i in np.flatnonzero(rows.counts)[:5]:  # no row depends on another
        own = jax.grad(lambda x, i=i: apply(params, x, piece)[i, 0])(laid)
        np.testing.assert_allclose(own[i], gradient[i], atol=1e-5)


@pytest.mark.parametrize(("kind", "hears"), WAYS)
def test_a_turn_that_is_not_heard_leaves_a_gap(kind, hears):
    """What comes before it is still heard, as far away as it is."""
    params, apply = make(kind, hears)
    batch, rows = conversations(known())
    laid = jnp.asarray(np.where(rows.rows[:, None] >= 0, features()[rows.rows], 0))
    [piece] = surrounded(batch, laid)
    members = [int(np.flatnonzero(rows.rows == row)[0]) for row in known().rows[2]]
    gone, others = members[4], [i for i in members if i != members[4]]
    [group] = batch.groups
    turns = dataclasses.replace(group.turns, place=group.turns.place.at[gone].set(-1))
    without = dataclasses.replace(batch, groups=(dataclasses.replace(group, turns=turns),))
    deaf = dataclasses.replace(piece, heard=piece.heard & (jnp.arange(piece.heard.shape[1])[None] != piece.turn[gone]))
    wanted, found = np.asarray(apply(params, laid, without)), np.asarray(apply(params, laid, deaf))
    np.testing.assert_allclose(found[others], wanted[others], atol=1e-5)
    first = jnp.asarray(laid).at[members[0]].add(1.0)
    moved = np.abs(np.asarray(apply(params, first, without)) - wanted)[members[6]].max()
    assert moved > 1e-6, "over the gap"


def test_speakers_beyond_the_table_are_read():
    x = features(count=40)
    some = dataclasses.replace(known((40,)), speaker=np.arange(1, 41, dtype=np.int32))
    assert np.isfinite(outputs("speakers", "both", x, *conversations(some))).all()


def test_groups_are_joined_in_order():
    groups = tuple(
        Batch({"text": jnp.full((rows, time, 1), float(rows))}, {}, {}, jnp.ones(rows))
        for rows, time in ((3, 2), (2, 5))
    )

    def encode(batch, key):
        x = batch.features["text"]
        return {
            "sum": x.sum((1, 2)),
            "over_time": x[..., 0],
            "place": jnp.zeros(x.shape[:2], jnp.int32),
            "one": jnp.ones(()),
        }

    found = by_group(encode, Conversations(groups, 1, 5), None)
    assert found["sum"].tolist() == [6, 6, 6, 10, 10]
    assert found["over_time"].shape == (5, 5)
    assert found["over_time"][0].tolist() == [3, 3, 0, 0, 0]
    assert found["place"][0, 2:].min() == np.iinfo(np.int32).max
    assert found["one"].shape == ()
