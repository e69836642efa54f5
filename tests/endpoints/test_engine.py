"""The model of vLLM's scheduler: its invariants, whatever comes and goes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.simulated.engine import Engine, EngineProfile, EngineSequence
from gen_service.endpoints.simulated.engine_profile import R1_DISTILL_32B_TP2_H100
from gen_service.errors import SpecError

SMALL = EngineProfile(
    kv_blocks=60,
    block_size=4,
    max_num_seqs=8,
    max_batched_tokens=64,
    step_s=((1, 0.010), (8, 0.017)),
    kv_token_s=1e-5,
    prefill_token_s=1e-4,
)


@dataclass(frozen=True)
class Event:
    """A request that comes, or one that leaves."""

    at: float
    prompt_tokens: int
    target_tokens: int
    given: int
    key: int
    leaves_after: float | None


events = st.lists(
    st.builds(
        Event,
        at=st.floats(0, 3).map(lambda at: round(at, 3)),
        prompt_tokens=st.integers(1, 60),
        target_tokens=st.integers(2, 120),
        given=st.integers(0, 40),
        key=st.integers(0, 3),
        leaves_after=st.none() | st.floats(0, 3),
    ),
    min_size=1,
    max_size=25,
)
profiles = st.builds(
    EngineProfile,
    kv_blocks=st.integers(180, 400),
    block_size=st.just(1),
    max_num_seqs=st.integers(1, 12),
    watermark=st.sampled_from([0.0, 0.1, 0.5]),
    max_batched_tokens=st.sampled_from([1, 16, 1000]),
    step_s=st.just(SMALL.step_s),
    kv_token_s=st.sampled_from([0.0, 1e-5, 1e-3]),
    prefill_token_s=st.sampled_from([0.0, 1e-4]),
) | st.builds(
    replace,
    st.just(SMALL),
    kv_blocks=st.integers(46, 120),
    max_num_seqs=st.integers(1, 12),
    watermark=st.sampled_from([0.0, 0.1, 0.5]),
    max_batched_tokens=st.sampled_from([1, 16, 1000]),
)


def sequences(some: Sequence[Event]) -> list[EngineSequence]:
    return [
        EngineSequence(
            str(number), f"p{one.key}", one.prompt_tokens, one.target_tokens, min(one.given, one.target_tokens - 1)
        )
        for number, one in enumerate(some)
    ]


def script(some: Sequence[Event], requests: Sequence[EngineSequence]) -> list[tuple[float, str, EngineSequence]]:
    acts = [(one.at, "comes", request) for one, request in zip(some, requests, strict=True)]
    acts += [
        (one.at + one.leaves_after, "leaves", request)
        for one, request in zip(some, requests, strict=True)
        if one.leaves_after is not None
    ]
    return sorted(acts, key=lambda act: (act[0], int(act[2].sequence_id)))


def play(
    engine: Engine,
    acts: Sequence[tuple[float, str, EngineSequence]],
    look: Callable[[float], Any] = lambda now: None,
    steps: Sequence[float] = (),
) -> dict[str, float]:
    """Run to the end; when each sequence finished. `steps`: other times to advance to on the way."""
    finished = dict[str, float]()
    left, extra = list(acts), sorted(steps)
    while True:
        due = [
            at
            for at in (left[0][0] if left else None, engine.next_event(), extra[0] if extra else None)
            if at is not None
        ]
        if not due:
            return finished
        now = min(due)
        finished.update({done.sequence_id: now for done in engine.advance(now)})
        while extra and extra[0] <= now:
            extra.pop(0)
        while left and left[0][0] <= now:
            _, act, request = left.pop(0)
            if act == "comes":
                engine.submit(request, now)
            else:
                engine.cancel(request, now)
        look(now)


@given(profiles, events)
def test_nothing_exceeds_the_cache_or_the_batch_and_no_token_is_lost(profile: EngineProfile, some: list[Event]) -> None:
    engine, requests = Engine(profile), sequences(some)
    seen = {request.sequence_id: request.given for request in requests}

    def look(now: float) -> None:
        assert 0 <= engine.blocks_used <= profile.kv_blocks
        assert engine.kv_usage() == engine.blocks_used / profile.kv_blocks
        assert engine.running <= profile.max_num_seqs
        assert engine.generation_tokens == sum(request.made - request.given for request in requests)
        for request in requests:
            assert seen[request.sequence_id] <= request.made <= request.target_tokens
            seen[request.sequence_id] = request.made

    finished = play(engine, script(some, requests), look, [number / 50 for number in range(300)])
    whole = {request.sequence_id for request in requests if request.made == request.target_tokens}
    stayed = {str(number) for number, one in enumerate(some) if one.leaves_after is None}
    assert stayed <= whole == finished.keys()
    assert engine.completed == len(finished)
    assert engine.running == engine.waiting == engine.blocks_used == 0
    assert engine.preemptions == sum(request.preemptions for request in requests)


@given(profiles, events, st.lists(st.floats(0, 20), max_size=60))
def test_small_steps_and_large_ones_end_alike(profile: EngineProfile, some: list[Event], steps: list[float]) -> None:
    one, other = Engine(profile), Engine(profile)
    at_events = play(one, script(some, sequences(some)))
    often = play(other, script(some, sequences(some)), steps=steps)
    assert often == pytest.approx(at_events, rel=1e-9, abs=1e-9)
    assert (one.preemptions, one.recomputed_tokens) == (other.preemptions, other.recomputed_tokens)


@dataclass
class Plain:
    """A sequence of the reference below: one that is counted token by token."""

    number: int
    at: float
    prompt: int
    target: int
    made: int
    to_compute: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt + self.made


def step_by_step(profile: EngineProfile, arriving: list[Plain]) -> tuple[dict[str, float], int]:
    """vLLM's rule written down plainly, a step at a time: (when each finished, preemptions). No prompt is shared."""
    running, waiting, finished = list[Plain](), list[Plain](), dict[str, float]()
    preemptions, now = 0, 0.0

    def blocks(some: list[Plain]) -> int:
        return sum(-(-one.tokens // profile.block_size) for one in some)

    while arriving or running or waiting:
        if not running and not waiting:
            now = arriving[0].at
            waiting.append(arriving.pop(0))
        is_short = blocks(running) > profile.kv_blocks
        while blocks(running) > profile.kv_blocks:
            waiting.insert(0, running.pop())
            preemptions += 1
        while not is_short and waiting and len(running) < profile.max_num_seqs:
            spare = profile.watermark_blocks if running else 0
            if blocks([*running, waiting[0]]) + spare > profile.kv_blocks:
                break
            running.append(waiting.pop(0))
            running[-1].to_compute = running[-1].tokens
        decoding = [one for one in running if not one.to_compute]
        room = max(1, profile.max_batched_tokens - len(decoding))
        now += profile.decode_s(len(running)) + profile.kv_token_s * sum(one.tokens for one in running)
        for one in running:
            if one.to_compute:
                chunk = min(room, one.to_compute)
                room -= chunk
                one.to_compute -= chunk
                now += profile.prefill_token_s * chunk
                if not one.to_compute:
                    decoding.append(one)
        for one in decoding:
            one.made += 1
            if one.made == one.target:
                running.remove(one)
                finished[str(one.number)] = now
        while arriving and arriving[0].at < now:
            waiting.append(arriving.pop(0))
    return finished, preemptions


@given(profiles, events)
def test_many_steps_at_once_are_the_same_as_one_by_one(profile: EngineProfile, some: list[Event]) -> None:
    # Nobody arrives at the very time of a step's end, where rounding would decide. A prompt of one token leaves nothing
    # in the cache that its sequence would find after a preemption; the given tokens are prefilled like a prompt.
    some = [
        replace(one, at=round(one.at, 3) + number * 1.37e-7, prompt_tokens=1, leaves_after=None)
        for number, one in enumerate(sorted(some, key=lambda one: one.at))
    ]
    some.sort(key=lambda one: one.at)
    # Hardly more than the longest sequence needs: much is preempted.
    profile = replace(profile, kv_blocks=132 // profile.block_size)
    engine, requests = Engine(profile), sequences(some)
    expected, preemptions = step_by_step(
        profile,
        [
            Plain(number, one.at, one.prompt_tokens, one.target_tokens, request.given)
            for number, (one, request) in enumerate(zip(some, requests, strict=True))
        ],
    )
    assert play(engine, script(some, requests)) == pytest.approx(expected, rel=1e-9)
    assert engine.preemptions == preemptions


@given(
    profiles,
    events,
    st.lists(st.tuples(st.floats(0.01, 3), st.sampled_from(["half", "full", "stop", "go"])), max_size=6),
)
def test_a_slow_or_stalled_engine_only_stretches_time(
    profile: EngineProfile, some: list[Event], turns: list[tuple[float, str]]
) -> None:
    engine, requests = Engine(profile), sequences([replace(one, at=0.0, leaves_after=None) for one in some])
    for request in requests:
        engine.submit(request, 0.0)
    straight, alike = Engine(profile), sequences([replace(one, at=0.0, leaves_after=None) for one in some])
    expected = play(straight, [(0.0, "comes", request) for request in alike])
    now, work, when = 0.0, [(0.0, 0.0, 1.0)], dict[str, float]()
    paused, speed = False, 1.0

    def run_to(until: float) -> None:
        while (at := engine.next_event()) is not None and at <= until:
            when.update({done.sequence_id: at for done in engine.advance(at)})

    for wait, act in turns:
        run_to(now + wait)
        now += wait
        if act in ("half", "full"):
            speed = 0.5 if act == "half" else 1.0
            engine.set_speed(speed, now)
        else:
            paused = act == "stop"
            engine.set_paused(paused, now)
        work.append((now, work[-1][1] + (now - work[-1][0]) * work[-1][2], 0.0 if paused else speed))
    engine.set_paused(False, now)
    work.append((now, work[-1][1], speed))
    run_to(math.inf)

    def worked(at: float) -> float:
        start, done, rate = [one for one in work if one[0] <= at][-1]
        return done + (at - start) * rate

    assert {key: worked(at) for key, at in when.items()} == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=20), st.sampled_from([0.0, 0.3])
)
def test_first_come_first_served(lengths: list[tuple[int, int]], watermark: float) -> None:
    engine = Engine(replace(SMALL, watermark=watermark))
    requests = [EngineSequence(str(n), str(n), prompt, target) for n, (prompt, target) in enumerate(lengths)]
    for request in requests:
        engine.submit(request, 0.0)
        engine.watch(request, 1)
    first = list[str]()
    while (now := engine.next_event()) is not None:
        engine.advance(now)
        first += [request.sequence_id for request in engine.take_reached()]
    assert [int(number) for number in first] == sorted(map(int, first))
    assert len(first) == len(requests)


@given(st.integers(1, 64), st.integers(1, 150))
def test_a_lone_sequence_takes_its_prefill_and_a_step_for_each_token(prompt: int, target: int) -> None:
    engine = Engine(SMALL)
    engine.submit(EngineSequence("one", "p", prompt, target), 5.0)
    steps = sum(SMALL.decode_s(1) + SMALL.kv_token_s * (prompt + made) for made in range(target))
    expected = 5.0 + prompt * SMALL.prefill_token_s + steps
    done: list[EngineSequence] = []
    while not done and (now := engine.next_event()) is not None:
        done = engine.advance(now)
    assert now == pytest.approx(expected)


def test_made_is_exact_at_any_time() -> None:
    profile = replace(SMALL, kv_token_s=0.0, prefill_token_s=0.0, step_s=((1, 0.5),))
    engine, one = Engine(profile), EngineSequence("one", "p", 4, 40, made=10)
    engine.submit(one, 1.0)
    seen = [(now, engine.advance(now), one.made)[2] for now in (1.0, 1.49, 1.5, 1.99, 2.0, 7.25, 15.9)]
    assert seen == [10, 10, 11, 11, 12, 22, 39]
    assert engine.advance(16.0) == [one]
    assert one.made == 40


def test_without_pressure_nothing_is_preempted_and_everyone_makes_a_token_a_step() -> None:
    profile = replace(SMALL, kv_blocks=10_000, kv_token_s=0.0, prefill_token_s=0.0)
    engine = Engine(profile)
    requests = [EngineSequence(str(n), str(n), 8, 101) for n in range(8)]
    for request in requests:
        engine.submit(request, 0.0)
    # The first runs a step alone before the others are seen.
    engine.advance(profile.decode_s(1) + 99.5 * profile.decode_s(8))
    assert [request.made for request in requests] == [100, *[99] * 7]
    assert engine.preemptions == engine.recomputed_tokens == 0


def test_the_last_admitted_is_preempted_and_computed_again() -> None:
    profile = replace(SMALL, kv_blocks=20, step_s=((1, 1.0),), kv_token_s=0.0, prefill_token_s=0.0)
    engine = Engine(profile)
    old, young = EngineSequence("old", "a", 16, 40), EngineSequence("young", "b", 16, 40)
    engine.submit(old, 0.0)
    engine.submit(young, 0.0)
    # The younger is seen a step later. 20 blocks hold 80 tokens; at 25 s the older has 41, which is its 11th block.
    engine.advance(24.5)
    assert (engine.running, engine.waiting, engine.preemptions) == (2, 0, 0)
    engine.advance(25.5)
    assert (engine.running, engine.waiting, engine.preemptions) == (1, 1, 1)
    assert (old.preemptions, young.preemptions, old.made, young.made) == (0, 1, 25, 24)
    assert engine.last_token_at(young) == 25.0
    engine.advance(39.5)
    assert young.made == 24
    assert engine.advance(40.0) == [old]
    # Its prompt's three shareable blocks are still cached; the other 28 of its 40 tokens are computed again.
    assert engine.recomputed_tokens == 28
    assert engine.advance(55.5) == []
    assert engine.advance(56.0) == [young]
    assert engine.generation_tokens == 80


def test_siblings_share_their_prompt_and_compute_it_once() -> None:
    profile = replace(SMALL, prefill_token_s=1.0, kv_blocks=100)
    engine = Engine(profile)
    for number in range(3):
        engine.submit(EngineSequence(str(number), "p", 41, 4), 0.0)
    engine.submit(EngineSequence("other", "q", 41, 4), 0.0)
    engine.advance(41.5)
    # 40 tokens of the prompt are 10 blocks, shared; the last prompt token is always computed.
    assert (engine.prefix_hits, engine.running) == (80, 4)
    assert engine.blocks_used == 10 + 3 * 1 + 11
    while (now := engine.next_event()) is not None:
        engine.advance(now)
    engine.submit(EngineSequence("late", "p", 41, 4), 1000.0)
    assert engine.prefix_hits == 120
    while (now := engine.next_event()) is not None:
        engine.advance(now)
    assert engine.completed == 5


def test_a_cached_prompt_gives_way_to_whoever_needs_its_blocks() -> None:
    engine = Engine(replace(SMALL, kv_blocks=20))
    now = 0.0
    for key, tokens in (("p", 40), ("q", 70), ("p", 40)):
        engine.submit(EngineSequence(key, key, tokens, 2), now)
        while (event := engine.next_event()) is not None:
            now = event
            engine.advance(now)
    assert engine.prefix_hits == 0
    engine.submit(EngineSequence("again", "p", 40, 2), now)
    assert engine.prefix_hits == 36


def test_who_leaves_frees_room_at_the_next_step() -> None:
    engine = Engine(replace(SMALL, max_num_seqs=1, step_s=((1, 1.0),), kv_token_s=0.0, prefill_token_s=0.0))
    first, second = EngineSequence("first", "p", 4, 100), EngineSequence("second", "q", 4, 100)
    engine.submit(first, 0.0)
    engine.submit(second, 0.0)
    assert engine.cancel(first, 10.5)
    assert not engine.cancel(first, 10.6)
    engine.advance(12.5)
    assert (first.made, second.made, engine.running, engine.waiting) == (10, 1, 1, 0)
    assert engine.generation_tokens == 11


def test_a_watched_number_of_tokens_is_an_event() -> None:
    engine = Engine(replace(SMALL, step_s=((1, 1.0),), kv_token_s=0.0, prefill_token_s=0.0))
    one = EngineSequence("one", "p", 4, 30)
    engine.watch(one, 1)
    engine.submit(one, 0.0)
    seen = list[tuple[float, int]]()
    while (now := engine.next_event()) is not None:
        done = engine.advance(now)
        assert engine.take_reached() == [one] or done
        seen.append((now, one.made))
        engine.watch(one, one.made + 10)
    assert seen == [(1.0, 1), (11.0, 11), (21.0, 21), (30.0, 30)]


def busy_hours(watermark: float, in_flight: int, count: int = 600) -> tuple[Engine, float, int]:
    """An R1-like load, refilled as each ends: (engine, makespan, tokens)."""
    rng = random.Random(3)
    lengths = [min(32768, max(1, round(math.exp(rng.gauss(8.35, 0.9))))) for _ in range(count)]
    engine = Engine(replace(R1_DISTILL_32B_TP2_H100, watermark=watermark))
    waiting = [EngineSequence(str(n), str(n), 200, tokens) for n, tokens in enumerate(lengths)][::-1]
    now: float | None = 0.0
    last, running = 0.0, 0
    while now is not None:
        running -= len(engine.advance(now))
        while waiting and running < in_flight:
            engine.submit(waiting.pop(), now)
            running += 1
        last, now = now, engine.next_event()
    return engine, last, sum(lengths)


def test_a_watermark_lowers_preemptions_and_costs_nothing() -> None:
    without, slow_s, tokens = busy_hours(0.0, 125)
    with_it, fast_s, _ = busy_hours(0.1, 125)
    assert without.generation_tokens == with_it.generation_tokens == tokens
    assert with_it.preemptions < without.preemptions / 4
    assert with_it.recomputed_tokens < without.recomputed_tokens / 4
    assert fast_s < slow_s


def test_the_benchmarks_replica_makes_what_its_roofline_says() -> None:
    profile = R1_DISTILL_32B_TP2_H100
    assert profile.kv_tokens == 400_000
    # An independent simulation of the same replica: 24 M tokens in 0.86 x 2,465 s on four of them.
    assert profile.full_rate(6000.0) == pytest.approx(24e6 / (4 * 0.86 * 2465), rel=0.05)
    engine = Engine(replace(profile, prefill_token_s=0.0))
    for number in range(64):
        engine.submit(EngineSequence(str(number), str(number), 6000, 1000), 0.0)
    engine.advance(2.0)
    before = engine.generation_tokens
    engine.advance(3.0)
    live = 400_000 * engine.kv_usage() / 64
    assert engine.preemptions == 0
    assert engine.kv_usage() > 0.97
    assert engine.generation_tokens - before == pytest.approx(profile.full_rate(live), rel=0.05)


def test_full_rate_is_a_full_cache_at_the_batch_that_fills_it() -> None:
    profile = EngineProfile(kv_blocks=100, block_size=10, step_s=((1, 0.5), (3, 1.5)), kv_token_s=0.001)
    assert profile.full_rate(400.0) == pytest.approx(2.5 / (1.25 + 1.0))
    assert replace(profile, max_num_seqs=2).full_rate(400.0) == pytest.approx(2 / (1.0 + 0.8))


def test_steps_are_interpolated_and_go_on_beyond_the_points() -> None:
    profile = EngineProfile(kv_blocks=1, step_s=((2, 1.0), (4, 2.0), (8, 3.0)))
    assert [profile.decode_s(batch) for batch in (1, 2, 3, 4, 6, 8, 12)] == [1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]
    assert EngineProfile(kv_blocks=1, step_s=((1, 0.5),)).decode_s(9) == 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kv_blocks", 0),
        ("block_size", 0),
        ("max_num_seqs", 0),
        ("max_batched_tokens", 0),
        ("stream_interval", 0),
        ("watermark", 1.0),
        ("watermark", -0.1),
        ("kv_token_s", -1.0),
        ("prefill_token_s", math.inf),
        ("step_s", ()),
        ("step_s", ((0, 1.0),)),
        ("step_s", ((1, 0.0),)),
        ("step_s", ((2, 1.0), (2, 1.0))),
        ("step_s", ((1, 2.0), (2, 1.0))),
    ],
)
def test_a_wrong_profile_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=rf"profile\.{field}: got .*; expected ") as raised:
        replace(SMALL, **{field: value})
    assert raised.value.value == value


def test_what_cannot_be_computed_is_refused() -> None:
    engine = Engine(SMALL)
    with pytest.raises(SpecError, match=r"target_tokens: got 300; expected a KV cache of at least 76 blocks"):
        engine.submit(EngineSequence("long", "p", 4, 300), 0.0)
    with pytest.raises(SpecError, match=r"sequence\.made: got 5"):
        EngineSequence("done", "p", 4, 5, made=5)
    with pytest.raises(SpecError, match=r"sequence\.prompt_tokens: got 0"):
        EngineSequence("empty", "p", 0, 5)
    with pytest.raises(SpecError, match=r"speed: got 0"):
        engine.set_speed(0.0, 1.0)
    engine.advance(1.0)
    with pytest.raises(ValueError, match="time goes back"):
        engine.advance(0.5)
    assert engine.running == engine.waiting == 0
