import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from mer_jax.models import vsc

RNG = np.random.default_rng(0)
DIM, LENGTH = 6, 12
SETTINGS = {"keep": 0.5, "threshold": 0.3, "alpha": 0.9}  # at 0.3 some tokens merge, some do not, some share a target
LENGTHS = (12, 7, 1, 2)


def make(lengths=LENGTHS, length=LENGTH, rubbish=0.0):
    x = np.full((len(lengths), length, DIM), rubbish, np.float32)
    mask = np.arange(length)[None] < np.array(lengths)[:, None]
    x[mask] = np.random.default_rng(1).normal(size=(int(mask.sum()), DIM))
    guide = np.random.default_rng(2).normal(size=(len(lengths), DIM)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(mask), jnp.asarray(guide)


def compress(x, mask, guide, published=False, **changes):
    return vsc.compress(x, mask, guide, published=published, **(SETTINGS | changes))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_vsc_is_the_formula(published, guided):
    x, mask, guide = make()
    found = compress(x, mask, guide if guided else None, published=published)
    merged = 0
    for i, length in enumerate(LENGTHS):
        sample, toward = np.asarray(x[i, :length], np.float64), np.asarray(guide[i], np.float64) * guided
        keep = -(-length // 2)
        wanted = (
            reference.vsc_published(sample, toward, keep)
            if published
            else reference.vsc_fixed(sample, toward, keep, SETTINGS["threshold"], SETTINGS["alpha"])
        )
        assert found.mask[i].tolist() == [n < keep for n in range(6)]
        np.testing.assert_allclose(found.tokens[i, :keep], wanted, atol=1e-5)
        np.testing.assert_array_equal(found.tokens[i, keep:], 0)
        merged += (np.abs(wanted - sample[np.asarray(found.kept.place[i, :keep])]).max(1) > 1e-6).sum()
    assert published or merged > 3, "nothing was merged: the test shows nothing"


@pytest.mark.parametrize("published", [False, True])
def test_what_became_of_each_token(published):
    """A kept token went into itself, a merged one into the kept one that it is most like, a dropped one nowhere."""
    x, mask, guide = make()
    found = compress(x, mask, guide, published=published)
    kept, none, merged = found.kept, found.tokens.shape[1], 0
    for i, length in enumerate(LENGTHS):
        place = [p for p in kept.place[i].tolist() if p < LENGTH]
        for t, into in enumerate(kept.into[i].tolist()):
            if t in place:
                assert place[into] == t
            elif published or t >= length:
                assert into == none
            else:
                like = [reference.cosine(np.asarray(x[i, t]), np.asarray(x[i, p])) for p in place]
                assert into == (int(np.argmax(like)) if max(like) > SETTINGS["threshold"] else none)
                merged += into < none
    assert published or merged


def test_two_compressions_one_after_the_other():
    first = vsc.Kept(jnp.array([[0, 2, 3]]), jnp.array([[0, 0, 1, 2, 3]]))  # 1 into 0, 4 nowhere
    second = vsc.Kept(jnp.array([[1, 2]]), jnp.array([[2, 0, 1]]))  # the first goes nowhere
    both = first.compose(second)
    assert both.place.tolist() == [[2, 3]]
    assert both.into.tolist() == [[2, 2, 0, 1, 2]]


def test_kept_tokens_stay_in_order_only_when_fixed():
    x, mask, guide = make()
    assert (np.diff(compress(x, mask, guide).kept.place[0]) > 0).all()
    assert not (np.diff(compress(x, mask, guide, published=True).kept.place[0]) > 0).all()


def test_tokens_that_share_a_target_are_both_merged():
    """Two dropped tokens lie close to one kept token: the mean of both goes into it."""
    kept = np.array([1.0, 0.2, 0, 0, 0, 0])
    a, b = np.array([0.9, 0, 0, 0, 0, 0.3]), np.array([0.9, 0, 0, 0.3, 0, 0])
    far = np.array([0, 0, 3.0, 0, 0, 0])
    x = jnp.asarray(np.stack([kept, a, b, far])[None], jnp.float32)
    r = jnp.asarray(np.stack([kept, far])[None], jnp.float32)
    dropped = jnp.array([[False, True, True, False]])
    found, into = vsc.merge(r, jnp.ones((1, 2), bool), x, dropped, threshold=0.6, alpha=0.9)
    assert into.tolist() == [[2, 0, 0, 2]]
    theta = [reference.softmax(np.array([reference.cosine(n, kept), reference.cosine(n, far)]))[0] for n in (a, b)]
    mean = (theta[0] * a + theta[1] * b) / sum(theta)
    np.testing.assert_allclose(found[0], [0.9 * kept + 0.1 * mean, far], atol=1e-6)


@pytest.mark.parametrize("published", [False, True])
def test_padding_changes_nothing(published):
    short = compress(*make(), published=published)
    long = compress(*make(length=LENGTH + 5, rubbish=1e3), published=published)
    most = short.tokens.shape[1]
    np.testing.assert_allclose(long.tokens[:, :most][short.mask], short.tokens[short.mask], atol=1e-6)
    np.testing.assert_array_equal(long.mask[:, :most], short.mask)
    assert not long.mask[:, most:].any()


@pytest.mark.parametrize("published", [False, True])
def test_the_guide_learns_only_when_fixed(published):
    x, mask, guide = make()
    gradient = jax.grad(lambda g: jnp.square(compress(x, mask, g, published=published).tokens).sum())(guide)
    assert (np.abs(gradient[0]).max() > 1e-6) != published
    assert np.isfinite(gradient).all()


def test_the_score_weighs_by_one():
    """Straight through: the factor is 1 in value, so nothing of the score is seen going forward."""
    x, mask, guide = make()
    found = compress(x, mask, guide, threshold=1.0)
    for i, length in enumerate(LENGTHS):
        keep = -(-length // 2)
        np.testing.assert_allclose(found.tokens[i, :keep], x[i][found.kept.place[i, :keep]], rtol=1e-6)


def test_everything_kept_is_the_input():
    x, mask, guide = make()
    found = compress(x, mask, guide, keep=1.0)
    np.testing.assert_allclose(found.tokens, x, rtol=1e-6)
    np.testing.assert_array_equal(found.mask, mask)


@pytest.mark.slow
def test_a_guide_finds_what_it_points_at():
    x, mask, _ = make((12,))
    for t in (0, 5, 11):
        found = compress(x, mask, 100 * x[:, t], keep=1 / 12)
        assert found.kept.place.tolist() == [[t]]
