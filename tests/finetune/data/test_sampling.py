"""Lists drawn from examples, and the order over collections."""

import itertools
import pickle
import random
from collections import Counter

import pytest

from blockrank_rerank.finetune.data import Candidate, ListSampler, MixtureSampler, TrainingExample


def example(positives=2, negatives=5, name=""):
    candidates = [Candidate(f"{name}p{n}", float(n + 1), n / 10) for n in range(positives)]
    candidates += [Candidate(f"{name}n{n}", 0.0) for n in range(negatives)]
    return TrainingExample("q", tuple(candidates), "x:1")


def draws(sampler, source, size, pool=(), seeds=50, **options):
    return [sampler.sample(source, size, random.Random(seed), pool, **options) for seed in range(seeds)]


# Lists


def test_a_list_holds_one_positive_drawn_by_chance_with_its_grade_and_score():
    lists = draws(ListSampler(), example(), 4)
    relevant = [[candidate for candidate in drawn if candidate.relevant] for drawn in lists]
    assert all(len(found) == 1 for found in relevant)
    assert {found[0] for found in relevant} == set(example().positives)


def test_a_list_holds_as_many_positives_as_allowed_and_there_are():
    assert {sum(c.relevant for c in drawn) for drawn in draws(ListSampler(3), example(2, 9), 6)} == {2}
    assert {sum(c.relevant for c in drawn) for drawn in draws(ListSampler(3), example(9, 9), 6)} == {3}
    assert {sum(c.relevant for c in drawn) for drawn in draws(ListSampler(3), example(9, 9), 2)} == {1}


def test_a_document_stands_in_a_list_once():
    source = TrainingExample("q", (Candidate("p", 1.0), *[Candidate("n", 0.0)] * 5, Candidate("p", 0.0)), "x:1")
    for drawn in draws(ListSampler(), source, 6, ["n", "p", "m", "o"]):
        assert sorted(candidate.text for candidate in drawn) == ["m", "n", "o", "p"]
        assert [candidate.text for candidate in drawn if candidate.relevant] == ["p"]


def test_short_lists_are_filled_with_random_documents_of_other_examples():
    pool = [example(name="a"), example(name="b"), example(name="c")]
    for drawn in draws(ListSampler(), pool[0], 12, pool):
        assert len(drawn) == len({candidate.text for candidate in drawn}) == 12
        assert sum(candidate.relevant for candidate in drawn) == 1
        assert all(candidate.teacher_score is None for candidate in drawn if candidate.text[0] != "a")


def test_positives_that_were_not_drawn_do_not_come_back_as_negatives():
    pool = [example(positives=5, negatives=1), "other"]
    for drawn in draws(ListSampler(), pool[0], 5, pool):
        assert sum(candidate.text.startswith("p") for candidate in drawn) == 1


def test_a_list_without_positives_holds_no_relevant_text():
    for drawn in draws(ListSampler(), example(), 6, ["p0", "other"], without_positives=True):
        assert len(drawn) == 6
        assert not any(candidate.text.startswith("p") for candidate in drawn)


def test_a_list_is_shorter_only_if_the_pool_has_nothing_else():
    assert {len(drawn) for drawn in draws(ListSampler(), example(1, 1), 9)} == {2}
    assert {len(drawn) for drawn in draws(ListSampler(), example(1, 1), 9, [example(1, 1)])} == {2}


def test_the_positive_stands_at_every_place():
    ranks = Counter([c.relevant for c in drawn].index(True) for drawn in draws(ListSampler(), example(), 4, seeds=400))
    assert all(ranks[rank] > 60 for rank in range(4))


def test_a_list_depends_on_the_generator_alone():
    assert draws(ListSampler(), example(), 4) == draws(ListSampler(), example(), 4)


def test_lists_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="max_positives must be at least 1, got 0"):
        ListSampler(0)
    with pytest.raises(ValueError, match="size must be at least 2, got 1"):
        ListSampler().sample(example(), 1, random.Random(0))


# Mixtures


def test_any_place_of_the_order_can_be_looked_up():
    order = list(itertools.islice(MixtureSampler([5, 40, 300], seed=3), 5000))
    for index in (4999, 0, 1023, 1024, 2500, 17):
        assert MixtureSampler([5, 40, 300], seed=3)[index] == order[index]
    backwards = MixtureSampler([5, 40, 300], seed=3)
    assert [backwards[index] for index in reversed(range(5000))][::-1] == order


def test_the_order_depends_on_the_seed():
    orders = [list(itertools.islice(MixtureSampler([50, 50], seed=seed), 100)) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_every_collection_is_walked_through_in_a_new_permutation_each_time():
    rows = [draw.row for draw in itertools.islice(MixtureSampler([7, 100]), 3000) if draw.collection == 0]
    rounds = [rows[start : start + 7] for start in range(0, len(rows) - 7, 7)]
    assert all(sorted(found) == list(range(7)) for found in rounds)
    assert len(set(map(tuple, rounds))) > 10


def test_every_block_holds_every_collection_by_its_share():
    order = list(itertools.islice(MixtureSampler([10, 10, 10], weights=[1, 2, 5]), 4096))
    for start in range(0, 4096, 1024):
        counts = Counter(draw.collection for draw in order[start : start + 1024])
        assert [abs(counts[c] - share) <= 1 for c, share in enumerate((128, 256, 640))] == [True] * 3
    assert len({draw.collection for draw in order[:64]}) == 3


def test_without_weights_shares_follow_a_power_of_the_size():
    assert MixtureSampler([100, 400]).shares.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert MixtureSampler([100, 400], alpha=1).shares.tolist() == pytest.approx([0.2, 0.8])
    assert MixtureSampler([100, 400], alpha=0).shares.tolist() == pytest.approx([0.5, 0.5])


def test_a_collection_of_weight_0_is_never_drawn():
    for weights in ([0, 1], [1, 0]):
        drawn = {draw.collection for draw in itertools.islice(MixtureSampler([9, 9], weights=weights), 3000)}
        assert drawn == {weights.index(1)}


def test_a_sampler_goes_to_other_processes():
    sampler = MixtureSampler([3, 4], weights=[1, 1], seed=2)
    expected = sampler[2000]
    assert pickle.loads(pickle.dumps(sampler))[2000] == expected


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([], None, "sizes must name collections"),
        ([3, 0], None, "sizes must name collections"),
        ([3, 3], [1], "one for each of the 2 collections, got 1"),
        ([3, 3], [0, 0], "not all 0"),
        ([3, 3], [1, -1], "not negative"),
        ([3, 3], [1, float("nan")], "finite"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(sizes, weights, message):
    with pytest.raises(ValueError, match=message):
        MixtureSampler(sizes, weights=weights)


def test_an_order_without_an_end_has_no_negative_index():
    with pytest.raises(IndexError, match="got -1"):
        MixtureSampler([3])[-1]
