"""The dialogues of the demo corpora: who speaks, how labels follow each other, and the exact posterior of a label given
what was said around it.

The process [ours]: two speakers, 6 to 14 turns. After a turn the other one speaks with probability SWITCH, otherwise
the same one goes on. Both come with a label drawn from the prior. In each turn the speaker's label
  stays what it was last, with probability REPEAT,
  becomes that of the turn before, with probability ADOPT (in the first turn there is none, and it stays what it was),
  or is drawn anew from the prior.
Which of the three it is depends on no label. So the label of every turn, by itself, has the prior's distribution.

What follows depends on the past only through the last labels of the two speakers: a hidden Markov model of classes²
states, whose forward and backward pass are exact. A state is held as [own, other, dialogue], where own is the label of
who speaks and other that of the other one.
"""

import dataclasses

import numpy as np

SHORTEST, LONGEST = 6, 14  # turns
SWITCH, REPEAT, ADOPT = 0.75, 0.6, 0.2
CONTEXTS = ("none", "past", "both")  # what else is heard: nothing, the turns before, those before and after


@dataclasses.dataclass(frozen=True)
class Dialogues:
    """Each array is [dialogue, LONGEST]. exists: the dialogue has that turn; labels: of whoever speaks; switch: another
    one than in the turn before."""

    exists: np.ndarray
    labels: np.ndarray
    switch: np.ndarray


def draw_dialogues(count: int, prior: np.ndarray, rng: np.random.Generator) -> Dialogues:
    shape = (count, LONGEST)
    exists = np.arange(LONGEST) < rng.integers(SHORTEST, LONGEST + 1, count)[:, None]
    switch = (rng.random(shape) < SWITCH) & (np.arange(LONGEST) > 0)
    chance, labels = rng.random(shape), rng.choice(len(prior), shape, p=prior)
    own, other = rng.choice(len(prior), (2, count), p=prior)
    for t in range(LONGEST):
        before = own
        own, other = np.where(switch[:, t], (other, own), (own, other))
        repeat, adopt = chance[:, t] < REPEAT, chance[:, t] < REPEAT + ADOPT
        own = labels[:, t] = np.where(repeat, own, np.where(adopt, before, labels[:, t]))
    return Dialogues(exists, labels, switch)


def posteriors(likelihood: np.ndarray, switch: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    """p(label of a turn | what is heard) by context, each [dialogue, turn, classes].

    likelihood: [dialogue, turn, classes], p(features of the turn | its label) up to a factor; 1 where there is no turn.
    """
    told = np.ascontiguousarray(likelihood.transpose(1, 2, 0))
    alone = prior[:, None] * told
    forward = _forward(told, switch, prior)
    both = [state * later for state, later in zip(forward, _backward(told, switch, prior), strict=True)]
    found = (alone, np.stack(forward).sum(2), np.stack(both).sum(2))
    return {c: (p / p.sum(1, keepdims=True)).transpose(2, 0, 1) for c, p in zip(CONTEXTS, found, strict=True)}


def _forward(told: np.ndarray, switch: np.ndarray, prior: np.ndarray) -> list[np.ndarray]:
    """p(state | turns up to and with this one), by turn."""
    same = np.arange(len(prior))
    state = np.broadcast_to(np.multiply.outer(prior, prior)[..., None], (len(prior), len(prior), len(switch)))
    found = []
    for t, (stays, adopts) in enumerate(_weights(switch)):
        state = np.where(switch[:, t], state.swapaxes(0, 1), state)
        of_other = state.sum(0)
        state = stays * state + (1 - REPEAT - ADOPT) * prior[:, None, None] * of_other
        state[same, same] += adopts * of_other  # who spoke last is the other one now
        state *= told[t][:, None]
        state /= state.sum((0, 1))
        found.append(state)
    return found


def _backward(told: np.ndarray, switch: np.ndarray, prior: np.ndarray) -> list[np.ndarray]:
    """p(all turns after this one | state) up to a factor, by turn."""
    same = np.arange(len(prior))
    later = np.ones((len(prior), len(prior), len(switch)))
    found = [later]
    for t, (stays, adopts) in reversed(list(enumerate(_weights(switch)))[1:]):
        state = later * told[t][:, None]
        anew = np.tensordot((1 - REPEAT - ADOPT) * prior, state, 1)
        state = stays * state + anew + adopts * state[same, same]
        later = np.where(switch[:, t], state.swapaxes(0, 1), state)
        later /= later.sum((0, 1))
        found.append(later)
    return found[::-1]


def _weights(switch: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """By turn: the probability that the speaker's label stays, and that it becomes the other speaker's. Who goes on was
    also the turn before."""
    return [(np.where(s, REPEAT, REPEAT + ADOPT), np.where(s, ADOPT, 0.0)) for s in switch.T]
