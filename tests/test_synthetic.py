import itertools

import numpy as np
import pytest

from mer_jax.data import synthetic as synthetic_lib
from mer_jax.data.corpus import Corpus
from mer_jax.data.synthetic_dialogues import CONTEXTS, LONGEST, posteriors
from mer_jax.evaluation.final import bayes_accuracy
from mer_jax.models.lsgmer import LSGMERExperiment


def test_same_seed_same_corpus_other_seed_other_corpus(tmp_path):
    counts = {"train": 40, "valid": 10, "test": 10}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        synthetic_lib.write_demo(tmp_path / name, seed, counts)
    one, same, other = (Corpus(tmp_path / name).manifest_sha256 for name in ("one", "same", "other"))
    assert one == same
    assert one != other


def drawn(specs):
    """The class means and bases that the corpus of seed 0 was made with."""
    rng = np.random.default_rng([synthetic_lib.DRAW, 0, 0])
    means = {m: synthetic_lib.class_means(s, rng) for m, s in specs.items()}
    return means, {m: np.linalg.qr(rng.normal(size=(s.width, s.width)))[0] for m, s in specs.items()}


@pytest.mark.slow
def test_bayes_accuracy_is_reached_by_the_exact_posterior_on_the_records(demo):
    """Cues are read back from the shards; the exact posterior must reach the stated accuracy, for every set of
    modalities and every context."""
    means, bases = drawn(synthetic_lib.MODALITIES)
    labels = demo.label_ids(np.arange(len(demo)))
    cues = {m: [] for m in synthetic_lib.MODALITIES}
    for i in range(len(demo)):
        for m, features in demo[i].features.items():
            frames = features.astype(np.float64) @ bases[m].T
            cues[m].append(
                frames[np.argmax(frames[:, synthetic_lib.CUE])][: synthetic_lib.CUE]
            )  # the frame with the marker
    told = {
        m: synthetic_lib.cue_log_likelihood(np.array(cues[m]), means[m], s.noise)
        for m, s in synthetic_lib.MODALITIES.items()
    }
    _, dialogue = np.unique(demo.index["dialogue"], return_inverse=True)
    at = (dialogue, demo.index["turn"])
    likelihood = np.ones((dialogue.max() + 1, LONGEST, len(demo.labels)))  # 1 where there is no turn
    speaker = np.zeros((dialogue.max() + 1, LONGEST), demo.index["speaker"].dtype)
    speaker[at] = demo.index["speaker"]
    switch = np.pad(speaker[:, 1:] != speaker[:, :-1], ((0, 0), (1, 0)))
    for count in (1, 2, 3):
        for subset in itertools.combinations(sorted(synthetic_lib.MODALITIES), count):
            likelihood[at] = np.exp(sum(told[m] for m in subset))
            for context, posterior in posteriors(likelihood, switch, synthetic_lib.PRIOR).items():
                stated = demo.manifest["bayes_accuracy"][synthetic_lib.bayes_key(subset, context)]
                error = np.sqrt(stated * (1 - stated) / len(demo))
                assert abs(np.mean(posterior[at].argmax(1) == labels) - stated) < 4 * error, (subset, context)


def test_clutter_hides_the_cue_among_frames_that_say_nothing(tmp_path):
    counts = {"train": 60, "valid": 10, "test": 10}
    synthetic_lib.write_demo(tmp_path / "c", 0, counts, "clutter")
    corpus = Corpus(tmp_path / "c")
    _, bases = drawn(synthetic_lib.VARIANTS["clutter"])
    shares, places = [], []
    for i in range(len(corpus)):
        frames = corpus[i].features["visual"].astype(np.float64) @ bases["visual"].T
        telling = frames[:, synthetic_lib.CUE] > 2
        shares.append(telling.mean())
        places.extend(np.flatnonzero(telling) / (len(frames) - 1))
        cues = frames[telling][:, : synthetic_lib.CUE]
        np.testing.assert_allclose(cues, np.broadcast_to(cues[:1], cues.shape), atol=0.02)
        assert frames[~telling][:, : synthetic_lib.CUE].std() > 0.3
    assert np.mean(shares) == pytest.approx(0.2, abs=0.02)
    assert np.histogram(places, bins=4, range=(0, 1))[0].min() > 0.15 * len(places)


def test_more_modalities_and_more_context_are_better_and_each_beats_the_prior(demo):
    bayes, names = demo.manifest["bayes_accuracy"], sorted(synthetic_lib.MODALITIES)
    subsets = [set(s) for count in (1, 2, 3) for s in itertools.combinations(names, count)]
    heard = list(itertools.product(subsets, range(len(CONTEXTS))))
    accuracy = [bayes[synthetic_lib.bayes_key(subset, CONTEXTS[context])] for subset, context in heard]
    assert len(bayes) == len(accuracy) == 21
    for (small, small_accuracy), (large, large_accuracy) in itertools.permutations(
        zip(heard, accuracy, strict=True), 2
    ):
        if small[0] <= large[0] and small[1] <= large[1]:
            assert small_accuracy < large_accuracy - 0.005, (small, large)
    assert min(accuracy) > synthetic_lib.PRIOR.max() + 0.1


def test_a_bayes_accuracy_that_a_manifest_does_not_say_is_not_known():
    """Those of corpora from before 0.11 say it without context alone."""
    config, manifest = LSGMERExperiment(), {"bayes_accuracy": {"audio+text": 0.75}}
    assert bayes_accuracy(config, manifest) == 0.75
    assert bayes_accuracy(config, {}) is None
    config.data.context = "past"
    assert bayes_accuracy(config, manifest) is None


def test_the_name_of_a_bayes_accuracy():
    assert synthetic_lib.bayes_key(("text", "audio"), "none") == "audio+text"
    assert synthetic_lib.bayes_key(("text", "audio"), "both") == "audio+text, both"


def test_classes_are_imbalanced_like_melds(demo):
    share = np.bincount(demo.label_ids(np.arange(len(demo))), minlength=7) / len(demo)
    np.testing.assert_allclose(share, synthetic_lib.PRIOR, atol=0.03)


def test_parts_share_no_dialogue_and_no_speaker(demo):
    for column in ("dialogue", "speaker"):
        of = [set(demo.index[column][demo.rows(part)].tolist()) for part in ("train", "valid", "test")]
        assert len(of[0] | of[1] | of[2]) == sum(map(len, of))


def test_frames_repeat(demo):
    """Redundant frames: neighbours are the same picture, up to frame noise, but where one of three scenes ends."""
    for i in range(50):
        visual = demo[i].features["visual"].astype(np.float64)
        steps = np.linalg.norm(np.diff(visual, axis=0), axis=1)
        assert len(steps) >= 4
        assert (steps > 2.8).sum() == 2  # of the same picture 1.7 +- 0.2, of another one 4.5 +- 0.5 or more


@pytest.mark.parametrize("seed", [0, 1])
def test_class_means_are_apart(seed):
    spec = synthetic_lib.MODALITIES["text"]
    means = synthetic_lib.class_means(spec, np.random.default_rng(seed))
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1)[~np.eye(7, dtype=bool)]
    assert gaps.min() > 0.7 * spec.spread
