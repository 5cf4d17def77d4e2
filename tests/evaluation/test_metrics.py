"""Metrics equal scikit-learn's; intervals hold what they promise; tests see a difference and no ghost."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from plume.evaluation.metrics import (
    METRICS,
    accuracy,
    agreement,
    brier,
    calibration_error,
    classification,
    confusion,
    f1_by_label,
    holm,
    macro_f1,
    matthews,
    mcnemar,
    micro_f1,
    paired_bootstrap,
    span_scores,
    spans,
    wilson,
)  # fmt: skip


@pytest.mark.parametrize("cases", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_metrics_equal_the_reference_on_random_cases(cases: int) -> None:
    rng = np.random.default_rng(0)
    for case in range(cases):
        labels, size = int(rng.integers(1, 6)), int(rng.integers(1, 40))
        gold = rng.integers(0, labels, size)
        predicted = np.where(rng.random(size) < 0.6, gold, rng.integers(0, labels, size))
        table = confusion(gold, predicted, labels)
        occurs = sorted({*gold.tolist(), *predicted.tolist()})
        assert accuracy(table) == pytest.approx(reference.accuracy_score(gold, predicted), abs=1e-12)
        by_label = f1_by_label(table)[occurs]
        np.testing.assert_allclose(
            by_label, reference.f1_score(gold, predicted, average=None, labels=occurs), atol=1e-12
        )
        for name, average in ((macro_f1, "macro"), (micro_f1, "micro")):
            assert name(table) == pytest.approx(
                reference.f1_score(gold, predicted, average=average), abs=1e-12
            ), case
        if len(occurs) > 1:  # the reference warns of one label; by definition it is 0 there
            assert matthews(table) == pytest.approx(reference.matthews_corrcoef(gold, predicted), abs=1e-12)
        else:
            assert matthews(table) == 0


def test_wilson_against_published_values() -> None:
    # Brown, Cai and DasGupta 2001 and Newcombe 1998: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for right, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, total) == pytest.approx((low, high), abs=6e-5)
    assert wilson(20, 20)[1] == 1.0


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([[0.35, 0.15], [0.1, 0.4]])
    inside = dict.fromkeys(METRICS, 0)
    for _ in range(200):
        cells = rng.choice(4, size=120, p=truth.ravel())
        found = classification(cells // 2, cells % 2, draws=300)
        for name, metric in METRICS.items():
            assert found[name].low <= found[name].value <= found[name].high
            inside[name] += found[name].low <= float(metric(truth)) <= found[name].high
    assert all(0.90 <= count / 200 <= 0.99 for count in inside.values()), inside


def test_an_estimate_is_the_metric_with_its_error() -> None:
    gold, predicted = [0, 0, 1, 1, 2, 2] * 20, [0, 1, 1, 1, 2, 0] * 20
    found = classification(gold, predicted)
    assert found["accuracy"].value == pytest.approx(4 / 6)
    assert found["macro_f1"].value == pytest.approx(reference.f1_score(gold, predicted, average="macro"))
    assert found["macro_f1"].stderr == pytest.approx(0.044, abs=0.005)
    assert found == classification(gold, predicted)  # the draws are keyed
    assert set(found["matthews"].to_json()) == {"value", "stderr", "ci95"}


def test_mcnemar() -> None:
    # 6 against 16 discordant texts: 2 * sum_{k<=6} C(22, k) / 2^22.
    gold = np.ones(40, int)
    a = np.r_[np.zeros(16, int), np.ones(24, int)]
    b = np.r_[np.ones(16, int), np.zeros(6, int), np.ones(18, int)]
    assert mcnemar(gold, a, b) == pytest.approx(0.0524790, abs=1e-6)
    assert mcnemar(gold, b, a) == mcnemar(gold, a, b)
    assert mcnemar(gold, a, a) == 1.0


def test_a_paired_bootstrap_sees_a_difference_and_no_ghost() -> None:
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 3, 400)
    good = np.where(rng.random(400) < 0.85, gold, rng.integers(0, 3, 400))
    bad = np.where(rng.random(400) < 0.6, gold, rng.integers(0, 3, 400))
    for metric in METRICS:
        found = paired_bootstrap(gold, good, bad, metric)
        expected = METRICS[metric](confusion(gold, good)) - METRICS[metric](confusion(gold, bad))
        assert found.value == pytest.approx(float(expected))
        assert found.low > 0 and found.p < 0.01
    same = paired_bootstrap(gold, good, good)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_the_p_of_equal_systems_is_uniform() -> None:
    rng = np.random.default_rng(3)
    p_values = []
    for case in range(200):
        gold = rng.integers(0, 2, 200)
        a, b = (np.where(rng.random(200) < 0.7, gold, 1 - gold) for _ in range(2))
        p_values.append(paired_bootstrap(gold, a, b, draws=400, seed=case).p)
    ordered = np.sort(p_values)
    distance = np.abs(ordered - (np.arange(200) + 0.5) / 200).max()  # Kolmogorov-Smirnov
    assert distance < 1.63 / np.sqrt(200) + 0.05  # 1 %; plus the steps of differences in whole texts


def test_holm() -> None:
    assert holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_calibration() -> None:
    rng = np.random.default_rng(4)
    confidence = rng.random(100_000)
    assert calibration_error(confidence, rng.random(100_000) < confidence) < 0.01
    assert calibration_error([0.7, 0.7], [1, 0], bins=10) == pytest.approx(0.2)  # right-closed: one bin
    assert calibration_error([1.0, 0.1], [1, 0]) == pytest.approx(0.05)
    assert brier([1.0, 0.0], [1, 1]) == 0.5


def test_labels_and_predictions_must_pair_up() -> None:
    with pytest.raises(ValueError, match="2 labels and 3 predictions"):
        confusion([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="0 labels"):
        classification([], [])


def test_agreement_of_clusters_by_hand() -> None:
    # Labels 体育 体育 体育 财经 财经 财经; one text of the first is in the second cluster.
    gold, found = ["体育"] * 3 + ["财经"] * 3, [7, 7, 2, 2, 2, 2]
    got = agreement(gold, found)
    ln = math.log
    entropies = ln(2), -(2 / 6 * ln(2 / 6) + 4 / 6 * ln(4 / 6))
    both = -(2 / 6 * ln(2 / 6) + 1 / 6 * ln(1 / 6) + 3 / 6 * ln(3 / 6))
    assert got["purity"] == pytest.approx(5 / 6)
    assert got["mutual_information"] == pytest.approx(2 * (sum(entropies) - both) / sum(entropies))
    # Pairs together on both sides: 1 + 3; by label 6, by cluster 7, of 15: (4 - 6 * 7 / 15) / (6.5 - 6 * 7 / 15).
    assert got["adjusted_rand"] == pytest.approx((4 - 2.8) / (6.5 - 2.8))
    assert agreement([0, 0, 1, 1], [3, 3, 3, 3])["mutual_information"] == pytest.approx(0)
    assert agreement(["a"] * 4, [1] * 4) == {"purity": 1, "mutual_information": 1, "adjusted_rand": 1}
    assert agreement(["a", "b", "c"], [4, 5, 6])["adjusted_rand"] == 1


def test_agreement_is_scikit_learns_and_names_do_not_matter() -> None:
    draw = np.random.default_rng(3)
    for labels, clusters in ((2, 2), (3, 5), (6, 2)):
        gold, found = draw.integers(0, labels, 60), draw.integers(0, clusters, 60)
        found[:30] = gold[:30] % clusters
        got = agreement(gold, found)
        assert got["adjusted_rand"] == pytest.approx(reference.adjusted_rand_score(gold, found))
        wanted = reference.normalized_mutual_info_score(gold, found)
        assert got["mutual_information"] == pytest.approx(wanted)
        assert got == pytest.approx(agreement(gold, 9 - found)), "only who is together counts"


def test_entities_are_right_only_as_a_whole() -> None:
    # 王小明 在 北京 大学 读书: one of the two entities is found whole, of the other only a half.
    gold = [["B-PER", "O", "B-ORG", "I-ORG", "O"], ["O", "B-LOC"]]
    found = [["B-PER", "O", "B-ORG", "O", "O"], ["B-LOC", "B-LOC"]]
    got = {name: estimate.value for name, estimate in span_scores(gold, found, draws=200).items()}
    assert got == pytest.approx({"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7})
    another = [["B-LOC", "O", "B-ORG", "I-ORG", "O"], ["O", "B-LOC"]]  # found, but called something else
    assert span_scores(gold, another, draws=200)["f1"].value == pytest.approx(2 / 3)
    nothing = [["O"] * 5, ["O"] * 2]
    assert {e.value for e in span_scores(gold, nothing, draws=200).values()} == {0.0}
    assert {e.value for e in span_scores(gold, gold, draws=200).values()} == {1.0}
    with pytest.raises(ValueError, match="zip"):
        span_scores(gold, nothing[:1])


def test_sentences_are_summed_before_they_are_divided() -> None:
    # One of one right in 9 sentences, none of ten in another: 9 of 19, and not the mean of the shares, 0.9.
    gold = [["B-X"]] * 9 + [["B-X"] * 10]
    found = [["B-X"]] * 9 + [["O"] * 10]
    recall = span_scores(gold, found)["recall"]
    assert recall.value == pytest.approx(9 / 19)
    assert recall.low < recall.value < recall.high == 1.0 and recall.stderr > 0


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("B-A I-A O B-A", {("A", 0, 1), ("A", 3, 3)}),
        ("B-A B-A", {("A", 0, 0), ("A", 1, 1)}),
        ("I-A I-A", {("A", 0, 1)}),  # as conlleval reads what begins with an I
        ("B-A I-B", {("A", 0, 0), ("B", 1, 1)}),
        ("B-A I-A E-A S-A", {("A", 0, 2), ("A", 3, 3)}),
        ("S-A I-A", {("A", 0, 0), ("A", 1, 1)}),
        ("O O", set()),
        ("", set()),
    ],
)
def test_spans_by_conllevals_rules(tags: str, wanted: set[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == wanted
