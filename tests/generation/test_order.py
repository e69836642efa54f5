"""Each sample goes once, the long ones first, and none waits for ever."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gen_service.generation.order import PATIENCE, Order
from gen_service.records import Message, Prompt, Sample
from gen_service.settings import OrderSettings


def prompt(number: int, characters: int = 10) -> Prompt:
    return Prompt(f"p{number}", (Message(role="user", content="x" * characters),), None, "sums", number + 1)


def samples_of(one: Prompt, count: int, first: int = 0) -> list[Sample]:
    return [Sample(f"{one.prompt_id}-{index}", "job", one, index) for index in range(first, first + count)]


def order_of(policy: str = "longest_first", probe: bool = True, window: int = 2048) -> Order:
    return Order(OrderSettings.model_validate({"policy": policy, "probe": probe, "window": window}))


def filled(order: Order, prompts: int, samples: int) -> Order:
    for number in range(prompts):
        order.add(prompt(number), samples_of(prompt(number), samples))
    return order


def popped(order: Order, most: int = 10**6) -> list[str]:
    ids: list[str] = []
    while len(ids) < most and (sample := order.pop()) is not None:
        ids.append(sample.sample_id)
    return ids


def test_one_sample_of_each_prompt_goes_first_in_reading_order() -> None:
    assert popped(filled(order_of(), 3, 3)) == [
        "p0-0", "p1-0", "p2-0", "p0-1", "p0-2", "p1-1", "p1-2", "p2-1", "p2-2",
    ]  # fmt: skip


def test_the_siblings_of_the_longest_probe_go_first() -> None:
    order = filled(order_of(), 4, 3)
    assert popped(order, 4) == ["p0-0", "p1-0", "p2-0", "p3-0"]
    for number, tokens in [(0, 500), (1, 9000), (2, 50), (3, 3000)]:
        order.observe(prompt(number), tokens)
    assert popped(order) == ["p1-1", "p1-2", "p3-1", "p3-2", "p0-1", "p0-2", "p2-1", "p2-2"]


def test_the_siblings_of_a_probe_that_still_runs_go_by_what_it_has() -> None:
    order = filled(order_of(), 5, 2)
    popped(order, 5)
    for number, tokens in [(0, 8000), (1, 200), (2, 200)]:
        order.observe(prompt(number), tokens)
    order.at_least(prompt(3), 20)
    order.at_least(prompt(4), 20_000)
    assert popped(order) == ["p4-1", "p0-1", "p3-1", "p1-1", "p2-1"]


def test_as_read_is_reading_order() -> None:
    order = filled(order_of("as_read"), 3, 2)
    assert popped(order, 1) == ["p0-0"]
    order.observe(prompt(0), 10)
    order.at_least(prompt(2), 9999)
    assert popped(order) == ["p0-1", "p1-0", "p1-1", "p2-0", "p2-1"]


def test_without_a_probe_the_prior_alone_orders() -> None:
    order = order_of(probe=False)
    for number in range(200):
        one = prompt(number, 10 + number)
        order.add(one, samples_of(one, 1))
        assert order.pop() is not None
        order.observe(one, 100 * (10 + number))
    for number, characters in [(300, 50), (301, 5000), (302, 500)]:
        order.add(prompt(number, characters), samples_of(prompt(number, characters), 2))
    assert popped(order) == ["p301-0", "p301-1", "p302-0", "p302-1", "p300-0", "p300-1"]


def test_a_lower_rank_goes_first_and_an_unknown_prompt_has_none() -> None:
    order = filled(order_of(), 3, 2)
    order.set_rank("p0", 1)
    order.set_rank("p2", -1)
    order.set_rank("never met", 5)
    assert popped(order, 2) == ["p2-0", "p2-1"]
    order.set_rank("p0", 0)
    assert popped(order) == ["p0-0", "p1-0", "p0-1", "p1-1"]


def test_what_is_dropped_is_told_and_never_popped() -> None:
    order = filled(order_of(), 2, 3)
    assert popped(order, 1) == ["p0-0"]
    assert [sample.sample_id for sample in order.drop("p0")] == ["p0-1", "p0-2"]
    assert order.drop("p0") == order.drop("never met") == []
    assert (len(order), order.prompts) == (3, 1)
    order.observe(prompt(0), 100)
    assert popped(order) == ["p1-0", "p1-1", "p1-2"]
    assert order.pop() is None


def test_it_is_full_at_its_window() -> None:
    order = order_of(window=2)
    order.add(prompt(0), samples_of(prompt(0), 2))
    assert not order.is_full
    order.add(prompt(1), samples_of(prompt(1), 1))
    order.add(prompt(2), [])
    assert order.is_full
    assert popped(order, 2) == ["p0-0", "p1-0"]
    assert not order.is_full


class Machine(RuleBasedStateMachine):
    """Adds, pops, observes, ranks and drops in any order against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.order = order_of(window=3)
        self.unsent: dict[str, list[str]] = {}
        self.running: list[Sample] = []
        self.seen: set[str] = set()
        self.number = 0

    @rule(samples=st.integers(1, 4), characters=st.integers(0, 50))
    def add(self, samples: int, characters: int) -> None:
        one = prompt(self.number, characters)
        self.number += 1
        made = samples_of(one, samples)
        self.order.add(one, made)
        self.unsent[one.prompt_id] = [sample.sample_id for sample in made]

    @rule()
    def pop(self) -> None:
        sample = self.order.pop()
        if sample is None:
            assert not self.unsent
            return
        assert sample.sample_id not in self.seen
        assert self.unsent[sample.prompt.prompt_id].pop(0) == sample.sample_id
        if not self.unsent[sample.prompt.prompt_id]:
            del self.unsent[sample.prompt.prompt_id]
        self.seen.add(sample.sample_id)
        self.running.append(sample)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.one_of(st.none(), st.integers(0, 40_000)), ends=st.booleans())
    def observe(self, data: st.DataObject, tokens: int | None, ends: bool) -> None:
        place = data.draw(st.integers(0, len(self.running) - 1))
        if ends:
            self.order.observe(self.running.pop(place).prompt, tokens)
        else:
            self.order.at_least(self.running[place].prompt, tokens or 0)

    @precondition(lambda self: self.number)
    @rule(data=st.data(), rank=st.integers(-1, 2))
    def set_rank(self, data: st.DataObject, rank: int) -> None:
        self.order.set_rank(f"p{data.draw(st.integers(0, self.number))}", rank)

    @precondition(lambda self: self.number)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = f"p{data.draw(st.integers(0, self.number))}"
        assert [sample.sample_id for sample in self.order.drop(name)] == self.unsent.pop(name, [])

    @invariant()
    def counts(self) -> None:
        assert len(self.order) == sum(map(len, self.unsent.values()))
        assert self.order.prompts == len(self.unsent)
        assert self.order.is_full == (len(self.unsent) >= 3)

    def teardown(self) -> None:
        left = [one for ids in self.unsent.values() for one in ids]
        assert sorted(popped(self.order)) == sorted(left)


TestEverySampleIsPoppedOrDroppedOnce = Machine.TestCase


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 100)), min_size=1, max_size=20), st.data())
def test_probes_go_before_second_samples_of_what_is_held(wanted: list[tuple[int, int]], data: st.DataObject) -> None:
    order, running, probed = order_of(), [], set()
    for number, (samples, characters) in enumerate(wanted):
        order.add(prompt(number, characters), samples_of(prompt(number, characters), samples))
    while (sample := order.pop()) is not None:
        if sample.index:
            assert len(probed) == len(wanted)
        probed.add(sample.prompt.prompt_id)
        running.append(sample)
        if data.draw(st.booleans()):
            order.observe(running.pop().prompt, data.draw(st.integers(1, 30_000)))
    assert len(probed) == len(wanted)


@given(st.lists(st.integers(1, 30_000), min_size=2, max_size=30), st.integers(2, 5))
def test_when_lengths_are_known_none_goes_after_a_shorter_one(lengths: list[int], samples: int) -> None:
    """The same characters and source everywhere, so a prompt's own probe alone says how long it is."""
    order = filled(order_of(), len(lengths), samples)
    popped(order, len(lengths))
    for number, tokens in enumerate(lengths):
        order.observe(prompt(number), tokens)
    tokens_popped = []
    while (sample := order.pop()) is not None:
        tokens_popped.append(lengths[int(sample.prompt.prompt_id[1:])])
    assert len(tokens_popped) == len(lengths) * (samples - 1)
    assert all(before >= after for before, after in pairwise(tokens_popped))


@given(st.integers(0, 2**32), st.booleans())
def test_the_same_events_make_the_same_order(seed: int, probe: bool) -> None:
    assert random_run(seed, probe) == random_run(seed, probe)


def random_run(seed: int, probe: bool) -> list[str]:
    dice, order, ids = random.Random(seed), order_of(probe=probe, window=8), []
    for number in range(40):
        order.add(prompt(number, dice.randrange(100)), samples_of(prompt(number), 3))
        for _ in range(2):
            sample = order.pop()
            assert sample is not None
            ids.append(sample.sample_id)
            order.observe(sample.prompt, dice.randrange(1, 10_000))
    return [*ids, *popped(order)]


@pytest.mark.parametrize(("window", "samples"), [(1, 1), (4, 1), (4, 3), (16, 4)])
def test_no_sample_of_an_endless_source_waits_for_ever(window: int, samples: int) -> None:
    """Prompt 0 is the shortest of all; each that is read later is longer than those before."""
    order, number, pops = order_of(window=window), 0, 0
    added: dict[str, int] = {}
    waited = []
    while pops < 60 * window * samples:
        while not order.is_full:
            one = prompt(number, 1 + number)
            order.add(one, samples_of(one, samples))
            added |= dict.fromkeys((sample.sample_id for sample in samples_of(one, samples)), pops)
            number += 1
        sample = order.pop()
        assert sample is not None
        waited.append(pops - added.pop(sample.sample_id))
        order.observe(sample.prompt, 100 * (1 + int(sample.prompt.prompt_id[1:])))
        pops += 1
    assert max(waited) <= (PATIENCE + 2) * window * samples
    assert max((pops - since for since in added.values()), default=0) <= (PATIENCE + 2) * window * samples


def test_of_prompts_that_are_done_only_a_window_is_kept() -> None:
    order = order_of(window=8)
    for number in range(3000):
        one = prompt(number, number % 50)
        order.add(one, samples_of(one, 2))
        for tokens in (100, None):
            sample = order.pop()
            assert sample is not None
            order.observe(sample.prompt, tokens)
    assert (order._open, order._lanes) == ({}, {})
    assert set(order._lengths._open) == set(order._closed) == {f"p{number}" for number in range(2992, 3000)}


def test_samples_added_later_are_siblings_of_what_has_ended() -> None:
    order = order_of()
    for number, tokens in [(0, 20_000), (1, 100)]:
        order.add(prompt(number), samples_of(prompt(number), 1))
        assert popped(order) == [f"p{number}-0"]
        order.observe(prompt(number), tokens)
    order.add(prompt(1), samples_of(prompt(1), 1, first=1))
    order.add(prompt(0), samples_of(prompt(0), 1, first=1))
    order.add(prompt(2), samples_of(prompt(2), 1))
    assert popped(order) == ["p2-0", "p0-1", "p1-1"]


def test_the_heap_stays_small_however_often_a_prompt_is_observed() -> None:
    order = filled(order_of(), 10, 5)
    popped(order, 10)
    for number in range(5000):
        order.at_least(prompt(number % 10), number)
    assert len(order._lanes[0].heap) <= 2 * 10 + 65
