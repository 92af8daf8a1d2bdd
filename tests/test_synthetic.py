import itertools

import numpy as np
import pytest

from mer_jax.data import synthetic as synthetic_lib
from mer_jax.data.corpus import Corpus


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
    modalities."""
    means, bases = drawn(synthetic_lib.MODALITIES)
    labels = demo.label_ids(np.arange(len(demo)))
    cues = {m: [] for m in synthetic_lib.MODALITIES}
    for i in range(len(demo)):
        for m, features in demo[i].features.items():
            frames = features.astype(np.float64) @ bases[m].T
            cues[m].append(
                frames[np.argmax(frames[:, synthetic_lib.CUE])][: synthetic_lib.CUE]
            )  # the frame with the marker
    likelihood = {
        m: synthetic_lib.cue_log_likelihood(np.array(cues[m]), means[m], s.noise)
        for m, s in synthetic_lib.MODALITIES.items()
    }
    for count in (1, 2, 3):
        for subset in itertools.combinations(sorted(synthetic_lib.MODALITIES), count):
            guess = (np.log(synthetic_lib.PRIOR) + sum(likelihood[m] for m in subset)).argmax(1)
            stated = demo.manifest["bayes_accuracy"]["+".join(subset)]
            error = np.sqrt(stated * (1 - stated) / len(demo))
            assert abs(np.mean(guess == labels) - stated) < 4 * error, subset


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


def test_more_modalities_are_better_and_each_beats_the_prior(demo):
    bayes = demo.manifest["bayes_accuracy"]
    assert len(bayes) == 7
    for small, large in itertools.permutations(bayes, 2):
        if set(small.split("+")) < set(large.split("+")):
            assert bayes[small] < bayes[large]
    assert min(bayes.values()) > synthetic_lib.PRIOR.max() + 0.1


def test_classes_are_imbalanced_like_melds(demo):
    share = np.bincount(demo.label_ids(np.arange(len(demo))), minlength=7) / len(demo)
    np.testing.assert_allclose(share, synthetic_lib.PRIOR, atol=0.03)


def test_parts_share_no_dialogue_and_no_speaker(demo):
    for column in ("dialogue", "speaker"):
        of = [set(demo.index[column][demo.rows(part)].tolist()) for part in ("train", "valid", "test")]
        assert len(of[0] | of[1] | of[2]) == sum(map(len, of))


def test_frames_repeat(demo):
    """Redundant frames: neighbours are mostly the same picture, up to frame noise."""
    visual = demo[0].features["visual"].astype(np.float64)
    steps = np.linalg.norm(np.diff(visual, axis=0), axis=1)
    assert (steps < 0.5 * np.linalg.norm(visual, axis=1).mean()).mean() > 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_class_means_are_apart(seed):
    spec = synthetic_lib.MODALITIES["text"]
    means = synthetic_lib.class_means(spec, np.random.default_rng(seed))
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1)[~np.eye(7, dtype=bool)]
    assert gaps.min() > 0.7 * spec.spread
