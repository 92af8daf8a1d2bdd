import itertools

import numpy as np

from mer_jax.data.synthetic import PRIOR
from mer_jax.data.synthetic_dialogues import ADOPT, CONTEXTS, LONGEST, REPEAT, SHORTEST, draw_dialogues, posteriors

FEW = np.array([0.5, 0.3, 0.2])  # a prior of three labels, so that all sequences can be listed
SWITCHES = np.array([[0, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 1, 0, 1]], bool)


def chances(own, before, prior):
    """The distribution of a turn's label as the process is defined: own is what the speaker's was last."""
    anew = (1 - REPEAT - ADOPT) * prior
    return [REPEAT * (k == own) + ADOPT * (k == before) + anew[k] for k in range(len(prior))]


def by_enumeration(likelihood, switch, prior):
    """p(label | all turns), [turn, classes], summed over all sequences of labels, the two that are brought among them."""
    turns, classes = likelihood.shape
    found = np.zeros((turns, classes))
    for first, second, *said in itertools.product(range(classes), repeat=turns + 2):
        last, speaker, before = [first, second], 0, first
        weight = prior[first] * prior[second]
        for t, label in enumerate(said):
            speaker = 1 - speaker if switch[t] else speaker
            weight *= chances(last[speaker], before, prior)[label] * likelihood[t, label]
            last[speaker] = before = label
        found[range(turns), said] += weight
    return found / found.sum(1, keepdims=True)


def test_posteriors_are_those_of_enumeration():
    likelihood = np.random.default_rng(0).gamma(0.5, size=(len(SWITCHES), 5, 3))
    likelihood[1, 3:] = 1  # it ends after three turns
    found = posteriors(likelihood, SWITCHES, FEW)
    assert tuple(found) == CONTEXTS
    for i, switch in enumerate(SWITCHES):
        np.testing.assert_allclose(found["both"][i], by_enumeration(likelihood[i], switch, FEW), rtol=0, atol=1e-9)
        for t in range(5):
            past = by_enumeration(likelihood[i, : t + 1], switch, FEW)[t]
            np.testing.assert_allclose(found["past"][i, t], past, rtol=0, atol=1e-9)
            alone = FEW * likelihood[i, t]
            np.testing.assert_allclose(found["none"][i, t], alone / alone.sum(), rtol=0, atol=1e-9)
    short = by_enumeration(likelihood[1, :3], SWITCHES[1, :3], FEW)
    np.testing.assert_allclose(found["both"][1, :3], short, rtol=0, atol=1e-9)


def test_unheard_every_turn_has_the_prior():
    """By algebra: with nothing said of any label, its posterior is its marginal distribution."""
    for switch in SWITCHES:
        np.testing.assert_allclose(by_enumeration(np.ones((5, 3)), switch, FEW), np.tile(FEW, (5, 1)), atol=1e-12)
    rng = np.random.default_rng(0)
    switch = rng.random((50, LONGEST)) < 0.5
    for posterior in posteriors(np.ones((50, LONGEST, len(PRIOR))), switch, PRIOR).values():
        np.testing.assert_allclose(posterior, np.broadcast_to(PRIOR, posterior.shape), atol=1e-12)


def test_what_is_drawn_has_the_prior_in_every_turn():
    drawn = draw_dialogues(20_000, PRIOR, np.random.default_rng(0))
    for t in range(LONGEST):
        there = drawn.labels[drawn.exists[:, t], t]
        expected = PRIOR * len(there)
        found = np.bincount(there, minlength=len(PRIOR))
        assert (np.square(found - expected) / expected).sum() < 22.46  # chi-square of 6 degrees of freedom, p = 0.001


def assert_follows_the_process(dialogues):
    """dialogues: of each the speakers and the labels, turn by turn. Counts how often a label is the speaker's last, that
    of the turn before, both or neither, against what the definition expects, by who speaks."""
    seen, expected, spread = (np.zeros((2, 4)) for _ in range(3))
    for speakers, labels in dialogues:
        last = {}
        for t, (speaker, label) in enumerate(zip(speakers, labels, strict=True)):
            if speaker in last:
                own, before = last[speaker], labels[t - 1]
                kind = [2 * (k == own) + (k == before) for k in range(len(PRIOR))]
                share = np.bincount(kind, chances(own, before, PRIOR), 4)
                goes_on = int(speaker == speakers[t - 1])
                seen[goes_on, kind[label]] += 1
                expected[goes_on] += share
                spread[goes_on] += share * (1 - share)
            last[speaker] = label
    impossible = np.array([[0, 0, 0, 0], [0, 1, 1, 0]], bool)  # who goes on has the turn before as the own last one
    assert not seen[impossible].any()
    assert expected[~impossible].min() > 50
    assert (np.abs(seen - expected)[~impossible] < 4 * np.sqrt(spread[~impossible])).all(), (seen, expected)


def test_labels_follow_each_other_as_defined():
    drawn = draw_dialogues(3_000, PRIOR, np.random.default_rng(0))
    speakers = drawn.switch.cumsum(1) % 2
    assert_follows_the_process([(s[e], y[e]) for s, y, e in zip(speakers, drawn.labels, drawn.exists, strict=True)])


def test_the_corpus_holds_such_dialogues(demo):
    labels, whole = demo.label_ids(np.arange(len(demo))), []
    of = demo.index["dialogue"]
    for name in dict.fromkeys(of.tolist()):
        rows = np.flatnonzero(of == name)
        assert demo.index["turn"][rows].tolist() == list(range(len(rows)))
        whole.append((demo.index["speaker"][rows].tolist(), labels[rows]))
    sizes = sorted(len(speakers) for speakers, _ in whole)
    assert set(sizes[3:]) == set(range(SHORTEST, LONGEST + 1))  # every part's last one may be cut
    assert sizes[-1] <= LONGEST
    assert all(len(set(speakers)) <= 2 for speakers, _ in whole)
    assert_follows_the_process(whole)
