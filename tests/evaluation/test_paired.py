"""Intervals of means, and of differences on the same queries."""

import numpy as np
import pytest

from blockrank_rerank.evaluation.paired import mean_interval, paired_difference


def test_an_interval_holds_its_mean_and_is_as_wide_as_the_normal_one():
    values = np.random.default_rng(3).normal(0.5, 0.2, 400)
    interval = mean_interval(values)
    assert interval.mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 400**0.5
    assert (interval.mean - interval.low, interval.high - interval.mean) == pytest.approx((half, half), rel=0.06)


def test_an_interval_is_the_same_every_time():
    values = np.random.default_rng(1).normal(size=50)
    assert mean_interval(values) == mean_interval(values)


def test_values_that_are_all_one_have_no_width():
    interval = mean_interval([0.25] * 7)
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_queries_are_paired_so_that_what_they_have_in_common_adds_no_doubt():
    hard = np.random.default_rng(0).uniform(0, 0.9, 200)
    difference = paired_difference(hard + 0.05, hard)
    assert difference.mean == pytest.approx(0.05)
    assert difference.high - difference.low < 1e-9
    alone = mean_interval(hard)
    assert alone.high - alone.low > 0.05


def test_better_worse_and_equal_queries_are_counted():
    difference = paired_difference([1.0, 0.5, 0.5, 0.0], [0.0, 0.5, 1.0, 0.5])
    assert (difference.better, difference.worse, difference.equal) == (1, 2, 1)
    assert difference.mean == pytest.approx(0.0)
    assert difference.low < 0 < difference.high


def test_queries_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])
