import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT
from scipy import optimize, special, stats
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, log_loss

from mer_jax.evaluation import summary
from mer_jax.metrics import calibration, classification, metric, significance


def random_predictions(rows=300, classes=4, seed=0, sharpness=1.0):
    """Probabilities and labels drawn from them: calibrated at sharpness 1, overconfident above."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(rows, classes))
    p = special.softmax(logits, axis=1)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    return special.softmax(sharpness * logits, axis=1), labels


def nll(p, labels):
    return calibration.calibration(p, labels)["nll"]


def slow_ece(p, labels, bins):
    error = 0.0
    for i in range(bins):
        inside = [k for k in range(len(p)) if i / bins < max(p[k]) <= (i + 1) / bins]
        if inside:
            accuracy = sum(list(p[k]).index(max(p[k])) == labels[k] for k in inside) / len(inside)
            error += len(inside) / len(p) * abs(accuracy - sum(max(p[k]) for k in inside) / len(inside))
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_calibration_by_its_definitions(bins, sharpness):
    p, labels = random_predictions(sharpness=sharpness)
    found = calibration.calibration(p, labels, bins)
    assert found["ece"] == pytest.approx(slow_ece(p, labels, bins))
    assert found["nll"] == pytest.approx(log_loss(labels, p))
    assert found["brier"] == pytest.approx(brier_score_loss(labels, p, labels=range(4)))


def test_a_bin_ends_with_its_upper_edge():
    # 0.5, right, is of the bin (0, 0.5], 1, wrong, of (0.5, 1]: mean of |1 - 0.5| and |0 - 1|; in one bin 0.25
    p, labels = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]), np.array([0, 1])
    assert calibration.calibration(p, labels, bins=2)["ece"] == pytest.approx(0.75)


def test_sure_and_wrong_is_finite():
    found = calibration.calibration(np.array([[1.0, 0.0]], np.float32), np.array([1], np.int32))
    assert found == pytest.approx({"ece": 1.0, "nll": -np.log(1e-12), "brier": 2.0})


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_is_the_factor_the_logits_were_multiplied_by(factor):
    p, labels = random_predictions(rows=4000)
    alone = calibration.fit_temperature(p, labels)
    assert alone == pytest.approx(1, abs=0.05)  # the labels were drawn from p
    sharper, _ = random_predictions(rows=4000, sharpness=factor)
    assert calibration.fit_temperature(sharper, labels) == pytest.approx(factor * alone, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_temperature_is_the_best_one(seed):
    rng = np.random.default_rng(seed)
    p, labels = rng.dirichlet(np.full(5, 0.3), 40), rng.integers(0, 5, 40)  # the labels are not p's at all
    found = calibration.fit_temperature(p, labels)
    brute = optimize.minimize_scalar(
        lambda log_t: log_loss(labels, calibration.temperature_scale(p, np.exp(log_t)), labels=range(5)),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert np.log(found) == pytest.approx(brute.x, abs=1e-4)
    fitted = nll(calibration.temperature_scale(p, found), labels)
    assert fitted <= nll(p, labels) + 1e-12
    assert fitted <= brute.fun + 1e-12


def test_temperature_stays_in_its_bounds_and_finite():
    sure, one_hot = np.array([0, 1, 0, 1], np.int32), np.eye(2, dtype=np.float32)
    assert calibration.fit_temperature(one_hot[sure], sure) == 0.05
    assert calibration.fit_temperature(one_hot[sure], 1 - sure) == 20
    assert calibration.fit_temperature(np.full((4, 2), 0.5), sure) == 1  # no temperature matters
    found = calibration.fit_temperature(one_hot[[0] * 10], np.array([1] + [0] * 9))
    assert special.expit(np.log(1e-12) / found) == pytest.approx(0.1)  # what it held impossible is one row in ten


def test_scores_against_raters_by_their_definitions():
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.ones(4), 30)
    soft = rng.multinomial(3, np.full(4, 0.25), 30) / 3
    soft[::5] = 0  # nobody chose a class
    known = [(a, b) for a, b in zip(p, soft, strict=True) if b.any()]
    found = calibration.soft_label_metrics(p, soft)
    assert found["utterances"] == len(known) == 24
    assert found["nll"] == pytest.approx(np.mean([-(q * np.log(x)).sum() for x, q in known]))
    assert found["agreement"] == pytest.approx(np.mean([q[x.argmax()] for x, q in known]))
    assert found["agreement_at_most"] == pytest.approx(np.mean([q.max() for _, q in known]))
    distance = pytest.importorskip("scipy.spatial.distance")
    wanted = np.mean([distance.jensenshannon(x, q) ** 2 for x, q in known])
    assert found["jensen_shannon"] == pytest.approx(wanted)
    assert calibration.soft_label_metrics(soft[1:5], soft[1:5])["jensen_shannon"] == pytest.approx(0, abs=1e-12)


def test_tempered_is_a_distribution_with_the_same_order():
    p, _ = random_predictions(rows=20)
    p[0] = [1, 0, 0, 0]
    for temperature in (0.05, 1.0, 20.0):
        found = calibration.temperature_scale(p, temperature)
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
        np.testing.assert_array_equal(found.argmax(1), p.argmax(1))
    np.testing.assert_allclose(calibration.temperature_scale(p, 1.0), p, atol=1e-11)
    np.testing.assert_allclose(
        calibration.temperature_scale(p[1:], 2.0), special.softmax(np.log(p[1:]) / 2, axis=1), rtol=1e-12
    )


def test_mean_and_sample_standard_deviation():
    assert metric.mean_sd([1.0, 2.0, 4.0]) == pytest.approx({"mean": 7 / 3, "sd": np.sqrt(7 / 3)})
    assert metric.mean_sd([0.5]) == {"mean": 0.5, "sd": None}
    assert metric.mean_sd([]) == {"mean": None, "sd": None}


def test_confusion_by_dialogue():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    dialogues = np.array(["d2", "d10", "d1"])[rng.integers(0, 3, 60)]
    names, counts = significance.by_dialogue(labels, predictions, dialogues, 4)
    assert names == ["d1", "d10", "d2"]
    for name, found in zip(names, counts, strict=True):
        own = dialogues == name
        np.testing.assert_array_equal(found, confusion_matrix(labels[own], predictions[own], labels=range(4)))


def random_members(members=2, dialogues=12, rows=120, seed=0):
    """Gold labels, predictions [members, rows], dialogues, and the confusion matrices by dialogue."""
    rng = np.random.default_rng(seed)
    gold, dialogue = rng.integers(0, 3, rows), np.arange(rows) % dialogues
    predictions = np.where(rng.random((members, rows)) < 0.6, gold, rng.integers(0, 3, (members, rows)))
    matrices = np.stack([significance.by_dialogue(gold, p, dialogue, 3)[1] for p in predictions])
    return gold, predictions, dialogue, matrices


def slow_weighted_f1(gold, predictions, dialogue, samples, seed):
    """Mean over members of scikit-learn's weighted F1 on the rows of the drawn dialogues, per resample."""
    number = dialogue.max() + 1
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=samples)
    rows = [np.concatenate([np.flatnonzero(dialogue == d).repeat(n) for d, n in enumerate(row)]) for row in drawn]
    return np.array([np.mean([f1_score(gold[r], p[r], average="weighted") for p in predictions]) for r in rows])


def test_bootstrap_is_a_slow_loop_over_resampled_rows():
    gold, predictions, dialogue, matrices = random_members()
    slow = slow_weighted_f1(gold, predictions, dialogue, samples=60, seed=3)
    found = significance.bootstrap(matrices, samples=60, seed=3)["weighted_f1"]
    assert found == pytest.approx(dict(zip(("low", "high"), np.percentile(slow, (2.5, 97.5)), strict=True)))


def test_one_dialogue_gives_no_interval():
    one = random_members()[3].sum(1, keepdims=True)
    assert (significance.bootstrap(one), significance.bootstrap_classes(one)) == ({}, [])
    assert metric.between({"value": 0.5}) == "-"
    assert summary.few(1) == "no interval: all test utterances are of one dialogue\n"
    assert (summary.few(19), summary.few(20)) == ("19 test dialogues are few: the intervals are too narrow\n", "")


def test_paired_bootstrap_is_a_slow_loop_over_resampled_rows():
    gold, predictions, dialogue, matrices = random_members(members=5)
    slow_a, slow_b = (slow_weighted_f1(gold, p, dialogue, 60, seed=3) for p in (predictions[:2], predictions[2:]))
    found = significance.paired_bootstrap(matrices[:2], matrices[2:], samples=60, seed=3)["weighted_f1"]
    low, high = np.percentile(slow_b - slow_a, (2.5, 97.5))
    a, b = (np.mean([f1_score(gold, q, average="weighted") for q in p]) for p in (predictions[:2], predictions[2:]))
    tail = min((slow_b - slow_a <= 0).sum(), (slow_b - slow_a >= 0).sum())
    p = min(1, 2 * (tail + 1) / 61)
    assert 2 / 61 < p < 1
    assert found == pytest.approx({"a": a, "b": b, "difference": b - a, "low": low, "high": high, "p": p})


def test_interval_of_accuracy_is_the_binomials():
    right = np.zeros((1, 400, 2, 2), int)
    right[0, :280, 0, 0], right[0, 280:, 0, 1] = 1, 1
    found = significance.bootstrap(right, samples=4000)["accuracy"]
    low, high = stats.binom.ppf((0.025, 0.975), 400, 0.7) / 400
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=0.005)  # two utterances


def test_interval_holds_the_estimate_and_narrows_with_more_members():
    matrices = random_members(members=6, rows=600, dialogues=60)[3]
    many, one = (significance.bootstrap(m) for m in (matrices, matrices[:1]))
    for name, values in classification.overall(matrices.sum(1)).items():
        assert many[name]["low"] < values.mean() < many[name]["high"]
        assert many[name]["high"] - many[name]["low"] < one[name]["high"] - one[name]["low"]


def test_dialogues_whose_utterances_agree_widen_the_interval():
    rng = np.random.default_rng(0)
    gold, dialogue = np.zeros(400, int), np.repeat(np.arange(40), 10)
    predictions = np.repeat(rng.random(40) < 0.4, 10).astype(int)  # a dialogue is right or wrong as a whole
    widths = []
    for units in (dialogue, np.arange(400)):
        found = significance.bootstrap(significance.by_dialogue(gold, predictions, units, 2)[1][None])["accuracy"]
        widths.append(found["high"] - found["low"])
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.1)


def test_chunks_bound_the_memory_and_change_nothing(monkeypatch):
    matrices = random_members(members=4, dialogues=100, rows=600)[3]
    whole = significance.paired_bootstrap(matrices[:2], matrices[2:], samples=3000)
    monkeypatch.setattr(significance, "CHUNK_BYTES", 3e5)
    tracemalloc.start()
    chunked = significance.paired_bootstrap(matrices[:2], matrices[2:], samples=3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chunked == whole
    assert peak < 2e6  # the drawn counts alone are 3000 * 100 * 8 bytes = 2.4e6


def test_a_run_and_itself_do_not_differ():
    matrices = random_members()[3]
    for copies in (1, 3):  # the mean of three equal scores may be off by a rounding
        for found in significance.paired_bootstrap(matrices[:1], matrices[:1].repeat(copies, 0), samples=200).values():
            assert found["p"] == 1
            assert (found["low"], found["high"]) == (0, 0)


def test_paired_bootstrap_sees_what_two_intervals_cannot():
    gold, predictions, dialogue, matrices = random_members(members=1, dialogues=50, rows=500)
    better = predictions[0].copy()
    better[np.flatnonzero(better != gold)[:20]] = gold[np.flatnonzero(better != gold)[:20]]
    improved = significance.by_dialogue(gold, better, dialogue, 3)[1][None]
    a, b = (significance.bootstrap(m)["accuracy"] for m in (matrices, improved))
    assert a["high"] > b["low"]  # they overlap
    found = significance.paired_bootstrap(matrices, improved, samples=1000)["accuracy"]
    assert found["difference"] == pytest.approx(0.04)
    assert found["low"] > 0
    assert found["p"] == pytest.approx(2 / 1001)  # as small as 1000 samples can tell
    swapped = significance.paired_bootstrap(improved, matrices, samples=1000)["accuracy"]
    assert [swapped[k] for k in ("difference", "low", "high", "p")] == pytest.approx(
        [-found["difference"], -found["high"], -found["low"], found["p"]]
    )


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (3, 14), (30, 11), (900, 800)])
def test_mcnemar_is_the_binomial_test(only_a, only_b):
    correct_a = np.array([True] * only_a + [False] * only_b + [True, True, False])
    correct_b = np.array([False] * only_a + [True] * only_b + [True, True, False])
    wanted = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    found = significance.mcnemar(correct_a, correct_b)
    assert found == {"only_a": only_a, "only_b": only_b, "p": pytest.approx(wanted)}


def test_importing_it_starts_neither_jax_nor_scipy():
    modules = "mer_jax.metrics.significance, mer_jax.metrics.calibration, mer_jax.tasks, mer_jax.compare"
    script = f"import sys, {modules}; assert not {{'jax', 'scipy'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def drawn_probabilities(rows, sharpness, seed=0):
    """Labels drawn from probabilities, and these made sharper: the best temperature is the sharpness."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(rows, 4))
    p = special.softmax(logits, axis=1)
    labels = np.array([rng.choice(4, p=q) for q in p], np.int32)
    return special.softmax(sharpness * logits, axis=1), labels


def test_a_temperature_that_helps_is_used():
    p, labels = drawn_probabilities(300, 2.0)
    dialogues = np.array([f"d{i // 7}" for i in range(300)])
    found = calibration.choose_temperature(p, labels, dialogues)
    assert found.temperature == calibration.fit_temperature(p, labels)
    assert found.gain > found.error > 0
    assert found.to_json()["used"]


def test_few_rows_give_no_temperature():
    p, labels = drawn_probabilities(2, 1.0)
    found = calibration.choose_temperature(p, labels)
    assert (found.temperature, found.rows) == (1.0, 2)
    assert "2 utterances to fit it on are too few: it takes 50" in found.reason
    assert calibration.choose_temperature(*drawn_probabilities(calibration.MIN_ROWS - 1, 3.0)).temperature == 1
    assert calibration.choose_temperature(*drawn_probabilities(calibration.MIN_ROWS, 3.0)).temperature > 1


def test_a_model_that_is_always_right_is_not_made_surer():
    p, _ = drawn_probabilities(200, 1.0)
    found = calibration.choose_temperature(p, p.argmax(1).astype(np.int32))
    assert found.temperature == 1
    assert "no temperature is best of the 200 utterances" in found.reason


def test_what_training_knows_does_not_fit_the_temperature():
    p, labels = drawn_probabilities(240, 2.0)
    knowing = np.arange(240) % 2 == 0
    labels = np.where(knowing, p.argmax(1), labels).astype(np.int32)  # of these the model is right
    assert calibration.fit_temperature(p, labels) < 1.5
    found = calibration.choose_temperature(p, labels, knowing=knowing)
    assert found.temperature == calibration.fit_temperature(p[~knowing], labels[~knowing])
    assert found.rows == 120
    left = calibration.choose_temperature(p, labels, knowing=np.ones(240, bool))
    assert left.temperature == 1
    assert "0 utterances to fit it on (and 240 of which training knows something)" in left.reason


def test_a_temperature_that_is_chance_is_mostly_left_out():
    """Of calibrated probabilities every temperature but 1 costs NLL on new utterances."""
    new, new_labels = drawn_probabilities(4000, 1.0, 100)
    always, by_the_rule = [], []
    for seed in range(20):
        p, labels = drawn_probabilities(60, 1.0, seed)
        fitted = calibration.fit_temperature(p, labels)
        for costs, temperature in (
            (always, fitted),
            (by_the_rule, calibration.choose_temperature(p, labels).temperature),
        ):
            costs.append(nll(calibration.temperature_scale(new, temperature), new_labels) - nll(new, new_labels))
    assert np.mean(always) > 0.003
    assert np.mean(by_the_rule) < np.mean(always) / 2
    assert np.mean(np.array(by_the_rule) == 0) > 0.7


def test_one_dialogue_that_is_lucky_is_chance():
    """Ten utterances of one dialogue are one case, not ten."""
    p, labels = drawn_probabilities(120, 1.0, 3)
    dialogues = np.repeat([f"d{i}" for i in range(4)], 30)
    labels[:30] = np.where(np.arange(30) % 4 == 0, labels[:30], p[:30].argmin(1))  # a dialogue that is mostly wrong
    assert calibration.choose_temperature(p, labels).temperature > 1
    assert calibration.choose_temperature(p, labels, dialogues).temperature == 1


def test_which_probabilities_a_run_gives_is_told():
    p, labels = drawn_probabilities(300, 2.0)
    found = calibration.choose_temperature(p, labels)
    about = {"temperature": found.temperature, "scaling": found.to_json()}
    words = calibration.scaling_in_words(about, "validation")
    assert (
        words == f"scaled by the temperature {found.temperature:.2f}, fitted on 300 utterances of the validation part"
    )
    left = calibration.choose_temperature(p[:9], labels[:9])
    about = {"temperature": 1.0, "scaling": left.to_json()}
    assert "as the model gives them: temperature scaling is left out" in calibration.scaling_in_words(
        about, "validation"
    )
    assert "by a version that did not try" in calibration.scaling_in_words({"temperature": 2.0}, "validation")
