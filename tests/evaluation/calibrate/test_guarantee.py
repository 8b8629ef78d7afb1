"""What thresholds promise, by simulation: coverage over many draws of judged lists."""

import numpy as np
import pytest

from blockrank_rerank.errors import DataError
from blockrank_rerank.evaluation.calibrate.guarantee import Guarantee
from blockrank_rerank.evaluation.calibrate.precision import (
    CONFIDENCE,
    false_shares,
    hoeffding_bentkus,
    lists_for_precision,
    precision_threshold,
)
from blockrank_rerank.evaluation.calibrate.recall import lists_for_recall, recall_threshold
from blockrank_rerank.evaluation.calibrate.scored_list import LikelyList

pytest.importorskip("scipy", reason="needs the calibrate extra")


def lists_of(random, count, size=5, relevant=1):
    """Documents of one list are alike: the list itself is easy or hard, so that pairs are not independent."""
    labels = np.arange(size) < relevant
    hardness = random.normal(0, 1.5, (count, 1))
    log_odds = np.where(labels, 2.0, -2.0) + hardness + random.normal(0, 1, (count, size))
    return [LikelyList(each, labels) for each in 1 / (1 + np.exp(-log_odds))]


def recall(lists, threshold):
    return np.mean([(each.probabilities[each.relevant] >= threshold).mean() for each in lists])


def naive_recall_threshold(lists, level):
    """The highest that keeps this share of the lists at hand, of which each has one relevant document."""
    return sorted(float(each.probabilities[each.relevant][0]) for each in lists)[int((1 - level) * len(lists))]


def mean_recall(choose, level=0.9, count=15, draws=2000):
    random = np.random.default_rng(0)
    drawn = lists_of(random, draws * (count + 1))
    groups = [drawn[start : start + count + 1] for start in range(0, len(drawn), count + 1)]
    kept = [recall(group[:1], choose(group[1:], level)) for group in groups]
    return np.mean(kept), np.std(kept) / draws**0.5


def test_recall_is_kept_in_the_mean_of_lists_to_come_and_a_naive_threshold_does_not_keep_it():
    mean, error = mean_recall(recall_threshold)
    assert mean > 0.9 + 2 * error
    mean, error = mean_recall(naive_recall_threshold)
    assert mean < 0.9 - 2 * error


def test_the_recall_threshold_is_the_highest_that_the_theorem_allows():
    random = np.random.default_rng(1)
    lists = [each for number in range(3) for each in lists_of(random, 20, relevant=1 + number)]
    found = recall_threshold(lists, 0.9)
    values = np.unique(np.concatenate([each.probabilities[each.relevant] for each in lists]))

    def is_allowed(threshold):
        return (len(lists) * (1 - recall(lists, threshold)) + 1) / (len(lists) + 1) <= 0.1 + 1e-9

    assert found == max(filter(is_allowed, values))


def test_equal_probabilities_are_lost_together():
    tied = [LikelyList(np.array([0.5]), np.array([True]))] * 15 + [LikelyList(np.array([0.9]), np.array([True]))] * 15
    assert recall_threshold(tied, 0.9) == 0.5


def false_share(lists, threshold):
    return false_shares(lists, threshold).mean()


GRID = np.linspace(0.05, 0.95, 19).tolist()


def naive_precision_threshold(lists, level, grid):
    return min((each for each in grid if false_share(lists, each) <= 1 - level), default=None)


def violations(choose, level=0.8, count=60, draws=100):
    random = np.random.default_rng(0)
    to_come = lists_of(random, 1500)
    truth = {each: false_share(to_come, each) for each in GRID}
    chosen = [choose(lists_of(random, count), level, GRID) for _ in range(draws)]
    assert all(each is not None for each in chosen)
    return np.mean([truth[each] > 1 - level for each in chosen])


def test_precision_is_kept_with_the_confidence_and_a_naive_threshold_does_not_keep_it():
    assert violations(precision_threshold) <= 1 - CONFIDENCE
    assert violations(naive_precision_threshold) > 2 * (1 - CONFIDENCE)


def test_p_values_are_valid_for_losses_at_the_limit():
    random = np.random.default_rng(0)
    losses = random.random((4000, 50)) < 0.2
    small = np.mean([hoeffding_bentkus(each.mean(), 50, 0.2) <= 0.1 for each in losses])
    assert 0.01 < small <= 0.1
    assert hoeffding_bentkus(0.0, 10**6, 0.2) < 1e-9
    assert hoeffding_bentkus(1.0, 50, 0.2) == 1


def test_testing_ends_at_the_first_threshold_that_fails():
    """A lower one that would pass again is not chosen: it was never tested."""
    bad = LikelyList(np.array([0.9, *[0.1] * 99]), np.array([False, *[True] * 99]))
    assert precision_threshold([bad] * 200, 0.8, [0.95, 0.5, 0.05]) == 0.95
    assert precision_threshold([bad] * 200, 0.8, [0.5, 0.05]) is None


@pytest.mark.parametrize(("level", "needed"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_a_recall_needs_so_many_lists_and_one_less_is_refused(level, needed):
    assert lists_for_recall(level) == needed
    perfect = [LikelyList(np.array([0.9, 0.1]), np.array([True, False]))] * needed
    assert recall_threshold(perfect, level) == 0.9
    with pytest.raises(ValueError, match=f"needs {needed} lists"):
        recall_threshold(perfect[1:], level)


@pytest.mark.parametrize(("level", "needed"), [(0.5, 4), (0.9, 22), (0.95, 45)])
def test_a_precision_needs_so_many_lists_and_one_less_shows_nothing(level, needed):
    assert lists_for_precision(level) == needed
    perfect = [LikelyList(np.array([0.9, 0.1]), np.array([True, False]))] * needed
    assert precision_threshold(perfect, level, [0.9]) == 0.9
    assert precision_threshold(perfect[1:], level, [0.9]) is None


def test_too_few_lists_are_refused_with_how_many_are_needed():
    def check(measure, level, choosing, judged):
        Guarantee(measure, level).check_enough([True] * choosing + [False] * (100 - choosing), judged)

    half, all_of_them = [True, False] * 100, [True] * 200
    with pytest.raises(
        DataError, match=r"recall 0.99: 99 lists .* 200 judged lists do, and there are 60; judge about 396"
    ):
        check("recall", 0.99, 60, half)
    with pytest.raises(DataError, match=r"there are 90; judge about 220 lists"):
        check("recall", 0.99, 90, all_of_them)
    with pytest.raises(DataError, match=r"precision 0.99: 230 lists .* there are 100; judge about 460 lists"):
        check("precision", 0.99, 50, half)
    check("recall", 0.99, 99, half)
    check("precision", 0.95, 0, half)


@pytest.mark.parametrize(("count", "needed"), [(0, 38), (10, 38), (24, 38)])
def test_the_whole_need_is_named_at_once(count, needed):
    with pytest.raises(DataError, match=f"judge about {needed} lists"):
        Guarantee("recall", 0.95).check_enough([True] * (count // 2), [True] * count)
    with pytest.raises(DataError, match="needs at least 20 judged lists, got 10"):
        Guarantee("recall", 0.5).check_enough([True] * 5, [True] * 10)
    with pytest.raises(DataError, match="judge about 20 lists"):
        Guarantee("recall", 0.85).check_enough([True] * 2, [True] * 4)


def test_a_precision_out_of_reach_says_whether_more_lists_would_help():
    poor = LikelyList(np.array([0.9, 0.8]), np.array([True, False]))
    good = LikelyList(np.array([0.9, 0.1]), np.array([True, False]))
    always = LikelyList(np.array([0.9, 0.95]), np.array([True, False]))
    with pytest.raises(DataError, match="more lists would not help"):
        Guarantee("precision", 0.9).threshold([always] * 40, [good], 80)
    with pytest.raises(DataError, match=r"judge about \d+ lists instead of 80"):
        Guarantee("precision", 0.9).threshold([always] * 6 + [poor] * 34, [good], 80)


@pytest.mark.parametrize("level", [0, 1, -1, 2, float("nan")])
def test_a_share_that_is_none_is_refused(level):
    with pytest.raises(ValueError, match="recall must be between 0 and 1"):
        Guarantee("recall", level)
