"""What is given once, now or later, to whoever waits."""

from __future__ import annotations

import pytest

from pyvirtio.transport import Completion


def test_who_waits_gets_it_in_the_order_in_which_they_came():
    seen: list[tuple[str, int]] = []
    completion = Completion[int]()
    completion.then(lambda result: seen.append(("first", result)))
    completion.then(lambda result: seen.append(("second", result)))
    assert seen == []
    completion.complete(7)
    completion.then(lambda result: seen.append(("late", result)))
    assert seen == [("first", 7), ("second", 7), ("late", 7)]
    assert completion.result == 7


def test_it_is_given_once():
    completion = Completion.of(1)
    with pytest.raises(AssertionError):
        completion.complete(2)
    assert completion.result == 1


def test_there_is_no_result_before_it_is_given():
    with pytest.raises(AssertionError):
        _ = Completion[int]().result


def test_who_waits_may_wait_for_more():
    seen: list[int] = []
    completion = Completion[int]()
    completion.then(lambda result: completion.then(seen.append))
    completion.complete(3)
    assert seen == [3]


@pytest.mark.parametrize("number", range(4))
def test_all_are_done_when_the_last_one_is(number: int):
    parts = [Completion[None]() for _ in range(number)]
    whole = Completion.all(parts)
    for part in parts:
        assert not whole.done
        part.complete(None)
    assert whole.done


def test_all_of_what_is_done_already():
    assert Completion.all([Completion.of(1), Completion.of(None)]).done
