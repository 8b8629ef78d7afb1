"""Who is next: the least served client, with its cheapest request, which none overtakes for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockrank_rerank.serving.fair_queue import FairQueue


def drained(queue):
    return [item for _ in range(len(queue)) for item in queue.take(0)]


def test_a_short_request_does_not_wait_for_a_long_one_of_the_same_client():
    queue = FairQueue()
    queue.push("a", 1000, "long")
    queue.push("a", 1, "short")
    assert drained(queue) == ["short", "long"]


def test_a_long_request_is_overtaken_until_as_much_was_done_as_it_costs():
    queue = FairQueue()
    queue.push("a", 10, "long")
    order = []
    for number in range(30):
        queue.push("a", 1, number)
        order += queue.take(0)
    assert order.index("long") in (9, 10)


def test_clients_have_turns_of_the_same_size_however_much_one_of_them_asks():
    queue = FairQueue()
    for number in range(100):
        queue.push("flood", 5, f"flood {number}")
    assert queue.take(0) == ["flood 0"]
    queue.push("other", 5, "other 0")
    queue.push("other", 5, "other 1")
    order = drained(queue)
    assert max(order.index("other 0"), order.index("other 1")) <= 4


@pytest.mark.parametrize("outstanding", [1, 2])
def test_who_asks_for_one_large_thing_at_a_time_gets_no_more_than_others(outstanding):
    queue, had = FairQueue(), Counter()
    for number in range(1000):
        queue.push("many", 1, ("many", 1, number))
    for number in range(outstanding):
        queue.push("large", 100, ("large", 100, number))
    for number in range(400):
        ((name, cost, _),) = queue.take(0)
        had[name] += cost
        if name == "large":
            queue.push("large", 100, ("large", 100, number + outstanding))
    assert abs(had["large"] - had["many"]) <= 200
    assert had["many"] > 300


def test_who_had_nothing_waiting_has_saved_up_no_turns():
    queue = FairQueue()
    for number in range(10):
        queue.push("busy", 1, f"busy {number}")
    for _ in range(5):
        queue.take(0)
    for number in range(10):
        queue.push("late", 1, f"late {number}")
    order = drained(queue)
    assert order.index("busy 9") < order.index("late 7")


def test_one_turn_takes_what_its_cost_allows_and_one_item_at_least():
    queue = FairQueue()
    for number in range(5):
        queue.push("a", 2, number)
    assert queue.take(5) == [0, 1]
    assert queue.take(1) == [2]
    assert queue.take(100) == [3, 4]
    assert queue.take(100) == []


def test_what_was_removed_has_no_turn():
    queue = FairQueue()
    items = [object(), object(), object()]
    for item in items:
        queue.push("a", 1, item)
    assert queue.remove(items[1])
    assert not queue.remove(items[1])
    assert drained(queue) == [items[0], items[2]]
    assert queue.cost == len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.booleans()), max_size=60))
def test_everything_that_was_pushed_has_one_turn(steps):
    queue, taken = FairQueue(), []
    for number, (client, cost, turn) in enumerate(steps):
        queue.push(client, cost, number)
        if turn:
            taken += queue.take(cost)
    taken += drained(queue)
    assert sorted(taken) == list(range(len(steps)))
