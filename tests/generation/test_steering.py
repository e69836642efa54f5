from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.errors import SpecError
from gen_service.generation.steering import Decision, Steering, fingerprint
from gen_service.records import Outcome, Prompt, Sample, Skipped, SkipReason
from gen_service.settings import SteeringSettings

OUTCOMES: tuple[Outcome, ...] = ("correct", "incorrect", "truncated", "ungradable", "error")

JOB_REASONS = {"target_reached", "sample_budget", "token_budget"}


def samples_of(prompt_id: str, count: int) -> list[Sample]:
    prompt = Prompt(prompt_id, (), "1", "test", 1)
    return [Sample(f"{prompt_id}-{index}", "job", prompt, index) for index in range(count)]


@dataclass
class Job:
    """A main loop without servers: prompts are taken in, samples sent and ended in any order that the rule allows."""

    settings: SteeringSettings
    samples: int
    prompts: dict[str, list[Sample]]
    outcome_of: Callable[[str], Outcome]
    tokens_of: Callable[[str], int]
    chance: random.Random
    unsent: dict[str, list[Sample]] = field(default_factory=dict)
    flying: dict[str, Sample] = field(default_factory=dict)
    rows: dict[str, Outcome] = field(default_factory=dict)
    skipped: dict[str, SkipReason] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    refused: dict[str, SkipReason] = field(default_factory=dict)
    ends: list[SkipReason] = field(default_factory=list)
    cuts_to_nothing: bool = True

    def __post_init__(self) -> None:
        self.steering = Steering(self.settings, self.samples)

    def sendable(self) -> list[str]:
        if not self.steering.may_send:
            return []
        flying = Counter(sample.prompt.prompt_id for sample in self.flying.values())
        return [one for one, left in self.unsent.items() if left and flying[one] < self.steering.at_once(one)]

    def step(self) -> bool:
        """One thing that may happen next; False when nothing is left."""
        ready = self.sendable()
        steps: list[Callable[[], None]] = []
        if any(one not in self.unsent for one in self.prompts):
            steps.append(self._open)
        if ready:
            steps += [lambda: self._send(self.chance.choice(ready))] * 3
        if self.flying:
            steps.append(lambda: self._end(self.chance.choice(sorted(self.flying))))
        if not steps:
            return False
        self.chance.choice(steps)()
        return True

    def drain(self) -> None:
        """Nothing more is sent; what is in flight ends."""
        while self.flying:
            self._end(min(self.flying))

    def reason_of(self, prompt_id: str) -> SkipReason | None:
        """Why samples of the prompt were skipped, if they were."""
        return next(
            (self.skipped[one.sample_id] for one in self.prompts[prompt_id] if one.sample_id in self.skipped), None
        )

    def done_of(self, prompt_id: str) -> list[Outcome]:
        return [self.rows[one.sample_id] for one in self.prompts[prompt_id] if one.sample_id in self.rows]

    def _open(self) -> None:
        prompt_id = next(one for one in self.prompts if one not in self.unsent)
        left = [
            one
            for one in self.prompts[prompt_id]
            if one.sample_id not in self.rows and one.sample_id not in self.skipped
        ]
        done = self.done_of(prompt_id)
        reason = self.steering.open(prompt_id, left, len(done), done.count("correct"), ungradable="ungradable" in done)
        self.unsent[prompt_id] = left
        if reason is not None:
            self.unsent[prompt_id] = []
            self.refused[prompt_id] = reason
            self._skip([Skipped(one.sample_id, prompt_id, one.index, reason) for one in left])

    def _send(self, prompt_id: str) -> None:
        sample = self.unsent[prompt_id].pop(0)
        assert sample.sample_id not in self.skipped, "sent after its reason"
        self.flying[sample.sample_id] = sample
        self._follow(self.steering.sent(sample))

    def _end(self, sample_id: str) -> None:
        sample = self.flying.pop(sample_id)
        if sample_id in self.cut and self.cuts_to_nothing and self.chance.random() < 0.5:
            skipped = self.steering.withdrawn(sample)
            assert skipped is not None, "a sample that was cut has a reason"
            self._skip([skipped])
            return
        outcome: Outcome = "truncated" if sample_id in self.cut else self.outcome_of(sample_id)
        self.rows[sample_id] = outcome
        self._follow(self.steering.ended(sample, outcome, self.tokens_of(sample_id)))

    def _follow(self, decision: Decision) -> None:
        self._skip(decision.skip)
        for one in decision.skip:
            self.unsent[one.prompt_id] = [
                left for left in self.unsent[one.prompt_id] if left.sample_id != one.sample_id
            ]
        for sample_id in decision.cut:
            assert sample_id in self.flying
            assert sample_id not in self.cut, "cut twice"
            self.cut.add(sample_id)
        if decision.end is not None:
            self.ends.append(decision.end)

    def _skip(self, skipped: Sequence[Skipped]) -> None:
        for one in skipped:
            assert one.sample_id not in self.skipped, "skipped twice"
            assert one.sample_id not in self.rows
            self.skipped[one.sample_id] = one.reason


MOST = st.none() | st.integers(1, 30)
SETTINGS = st.builds(
    SteeringSettings,
    correct=st.none() | st.integers(1, 4),
    give_up_after=st.none() | st.integers(1, 6),
    drop_ungradable=st.booleans(),
    verified=MOST,
    sample_budget=MOST,
    token_budget=st.none() | st.integers(1, 3000),
)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    settings = draw(SETTINGS)
    count = draw(st.integers(settings.correct or 1, 8))
    seed = draw(st.integers(0, 2**32))
    chance = random.Random(seed)
    prompts = {f"p{number}": samples_of(f"p{number}", count) for number in range(draw(st.integers(0, 6)))}
    shares = {one: chance.random() for one in prompts}
    results: dict[str, tuple[Outcome, int]] = {}
    for prompt_id, samples in prompts.items():
        for one in samples:
            wrong = chance.choice(OUTCOMES[1:])
            outcome = "correct" if chance.random() < shares[prompt_id] else wrong
            results[one.sample_id] = outcome, chance.randrange(200)
    return Job(settings, count, prompts, lambda one: results[one][0], lambda one: results[one][1], chance)


@given(jobs())
def test_every_sample_is_sent_or_skipped_exactly_once(job: Job) -> None:
    while job.step():
        pass
    everything = {one.sample_id for samples in job.prompts.values() for one in samples}
    assert job.rows.keys() | job.skipped.keys() == everything
    assert not job.rows.keys() & job.skipped.keys()
    assert len(job.steering) == 0
    assert len(job.ends) == (job.steering.over is not None)


@given(jobs())
def test_a_prompt_ends_as_the_rule_says(job: Job) -> None:
    while job.step():
        pass
    settings = job.settings
    for prompt_id, samples in job.prompts.items():
        done = job.done_of(prompt_id)
        reasons = {job.skipped[one.sample_id] for one in samples if one.sample_id in job.skipped}
        assert len(done) == len(samples) or reasons
        if "solved" in reasons:
            assert settings.correct is not None
            assert done.count("correct") >= settings.correct
        if "given_up" in reasons:
            assert settings.give_up_after is not None
            assert len(done) >= settings.give_up_after
            assert "correct" not in done
        if "ungradable" in reasons:
            assert settings.drop_ungradable
            assert "ungradable" in done
    if settings.verified is None:
        assert "target_reached" not in job.skipped.values()
    if job.steering.over == "target_reached":
        assert settings.verified is not None
        assert Counter(job.rows.values())["correct"] >= settings.verified


@given(jobs())
def test_a_budget_is_passed_by_no_more_than_what_is_in_flight(job: Job) -> None:
    settings = job.settings
    sent_late = 0
    while True:
        spent = sum(map(job.tokens_of, job.rows))
        before = len(job.flying)
        if not job.step():
            break
        if settings.token_budget is not None and spent >= settings.token_budget:
            sent_late += len(job.flying) > before
        if settings.sample_budget is not None:
            assert len(job.rows) + len(job.flying) <= settings.sample_budget
    assert sent_late == 0


@given(jobs(), st.integers(0, 60))
def test_a_run_that_goes_on_decides_as_one_run_would(job: Job, steps: int) -> None:
    job.cuts_to_nothing = False
    for _ in range(steps):
        job.step()
    job.drain()
    again = Steering(job.settings, job.samples)
    tokens = sum(map(job.tokens_of, job.rows))
    over = again.begin(Counter(job.rows.values())["correct"], len(job.rows), tokens)
    assert (over is None) == (job.steering.over is None)
    assert again.may_send == job.steering.may_send
    for prompt_id, unsent in job.unsent.items():
        done = job.done_of(prompt_id)
        lost = [one for one in job.prompts[prompt_id] if one.sample_id in job.skipped]
        reason = again.open(prompt_id, unsent + lost, len(done), done.count("correct"), ungradable="ungradable" in done)
        if unsent:
            assert reason is None
            assert again.at_once(prompt_id) == job.steering.at_once(prompt_id) >= 1
            assert again.rank(prompt_id) == job.steering.rank(prompt_id)
        elif lost:
            assert reason == job.reason_of(prompt_id) or {reason, job.reason_of(prompt_id)} & JOB_REASONS


@given(jobs())
def test_a_prompt_with_samples_left_may_always_have_one_in_flight(job: Job) -> None:
    while True:
        if not job.flying and job.steering.over is None:
            assert job.steering.may_send
        for prompt_id, unsent in job.unsent.items():
            if unsent:
                assert job.steering.at_once(prompt_id) >= 1
        if not job.step():
            break


@given(jobs())
def test_what_a_right_answer_cuts_is_never_more_than_what_went_wrong(job: Job) -> None:
    job = Job(SteeringSettings(correct=1), job.samples, job.prompts, job.outcome_of, job.tokens_of, job.chance)
    while job.step():
        pass
    for samples in job.prompts.values():
        cut = sum(one.sample_id in job.cut for one in samples)
        wrong = sum(
            job.rows.get(one.sample_id, "correct") != "correct" and one.sample_id not in job.cut for one in samples
        )
        assert cut <= wrong


def test_nothing_is_steered_by_default() -> None:
    steering = Steering(SteeringSettings(), 3)
    samples = samples_of("p", 3)
    assert steering.begin(5, 100, 10**9) is None
    assert steering.open("p", samples, 0, 0) is None
    assert (steering.at_once("p"), steering.rank("p"), steering.may_send) == (3, 0, True)
    for one in samples:
        assert steering.sent(one) == Decision()
    assert [steering.ended(one, "correct", 10) for one in samples] == [Decision()] * 3
    assert len(steering) == 0


def test_in_flight_doubles_while_nothing_is_right() -> None:
    steering = Steering(SteeringSettings(correct=1), 8)
    samples = samples_of("p", 8)
    steering.open("p", samples, 0, 0)
    rounds = []
    while samples:
        rounds.append(min(steering.at_once("p"), len(samples)))
        now, samples = samples[: rounds[-1]], samples[rounds[-1] :]
        for one in now:
            steering.sent(one)
        for one in now:
            steering.ended(one, "incorrect", 1)
    assert rounds == [1, 1, 2, 4]


def test_a_solved_prompt_skips_the_rest_and_cuts_what_is_in_flight() -> None:
    steering = Steering(SteeringSettings(correct=2), 8)
    samples = samples_of("p", 8)
    steering.open("p", samples, 0, 0)
    assert steering.at_once("p") == 2
    for one in samples[:2]:
        steering.sent(one)
    steering.ended(samples[0], "correct", 7)
    assert steering.at_once("p") == 1
    steering.ended(samples[1], "incorrect", 7)
    for one in samples[2:4]:
        steering.sent(one)
    decision = steering.ended(samples[3], "correct", 7)
    assert decision == Decision(tuple(Skipped(f"p-{index}", "p", index, "solved") for index in range(4, 8)), ("p-2",))
    assert steering.withdrawn(samples[2]) == Skipped("p-2", "p", 2, "solved")
    assert len(steering) == 0


def test_no_more_than_give_up_after_are_sent_while_none_is_right() -> None:
    steering = Steering(SteeringSettings(give_up_after=3), 8)
    samples = samples_of("p", 8)
    steering.open("p", samples, 1, 0)
    assert steering.at_once("p") == 2
    for one in samples[:2]:
        steering.sent(one)
    steering.ended(samples[0], "incorrect", 7)
    assert steering.at_once("p") == 1
    decision = steering.ended(samples[1], "error", 0)
    assert ({one.reason for one in decision.skip}, len(decision.skip), decision.cut) == ({"given_up"}, 6, ())


def test_one_right_answer_in_time_is_followed_by_all_samples() -> None:
    steering = Steering(SteeringSettings(give_up_after=2), 8)
    samples = samples_of("p", 8)
    steering.open("p", samples, 0, 0)
    steering.sent(samples[0])
    steering.ended(samples[0], "correct", 7)
    assert steering.at_once("p") == 7


def test_an_ungradable_gold_is_about_the_whole_prompt() -> None:
    samples = samples_of("p", 4)
    for is_dropped in (False, True):
        steering = Steering(SteeringSettings(drop_ungradable=is_dropped, token_budget=1000), 4)
        steering.open("p", samples, 0, 0)
        steering.sent(samples[0])
        steering.sent(samples[1])
        decision = steering.ended(samples[0], "ungradable", 7)
        assert decision.cut == (("p-1",) if is_dropped else ())
        assert [one.reason for one in decision.skip] == ["ungradable"] * (2 * is_dropped)
        known = Steering(SteeringSettings(drop_ungradable=is_dropped), 4).open("q", samples, 1, 0, ungradable=True)
        assert known == ("ungradable" if is_dropped else None)


def test_a_reached_target_cuts_the_whole_job_and_a_spent_budget_lets_it_finish() -> None:
    ways: list[tuple[SteeringSettings, SkipReason, tuple[str, ...]]] = [
        (SteeringSettings(verified=1), "target_reached", ("p-1", "q-0")),
        (SteeringSettings(token_budget=50), "token_budget", ()),
    ]
    for settings, reason, cut in ways:
        steering = Steering(settings, 3)
        first, second = samples_of("p", 3), samples_of("q", 3)
        steering.open("p", first, 0, 0)
        steering.open("q", second, 0, 0)
        for one in (first[0], first[1], second[0]):
            steering.sent(one)
        decision = steering.ended(first[0], "correct", 50)
        assert (decision.end, decision.cut, steering.over, steering.may_send) == (reason, cut, reason, False)
        assert {(one.sample_id, one.reason) for one in decision.skip} == {
            (one, reason) for one in ("p-2", "q-1", "q-2")
        }
        assert steering.open("r", samples_of("r", 3), 0, 0) == reason
        assert steering.withdrawn(first[1]) == (Skipped("p-1", "p", 1, "target_reached") if cut else None)


def test_samples_are_held_back_while_those_in_flight_should_use_up_the_tokens() -> None:
    steering = Steering(SteeringSettings(token_budget=100), 8)
    samples = samples_of("p", 8)
    steering.begin(0, 1, 40)
    steering.open("p", samples, 1, 0)
    held = []
    for one in samples[:2]:
        held.append(not steering.may_send)
        steering.sent(one)
    assert (held, steering.may_send) == ([False, False], False)
    steering.ended(samples[0], "incorrect", 10)
    assert steering.may_send


def test_unsolved_prompts_go_first_under_a_budget_only() -> None:
    for settings, rank in ((SteeringSettings(sample_budget=9), 1), (SteeringSettings(give_up_after=9), 0)):
        steering = Steering(settings, 3)
        steering.open("p", samples_of("p", 2), 1, 1)
        steering.open("q", samples_of("q", 3), 0, 0)
        assert (steering.rank("p"), steering.rank("q")) == (rank, 0)


def test_a_sample_that_came_to_nothing_does_not_count_as_sent() -> None:
    steering = Steering(SteeringSettings(sample_budget=2), 3)
    samples = samples_of("p", 3)
    steering.open("p", samples, 0, 0)
    steering.sent(samples[0])
    assert steering.withdrawn(samples[0]) is None
    assert steering.sent(samples[1]).end is None
    assert steering.sent(samples[2]).end == "sample_budget"


def test_more_right_answers_than_samples_cannot_be_wanted() -> None:
    with pytest.raises(SpecError, match=r"steering\.correct.*9.*at most 8"):
        Steering(SteeringSettings(correct=9), 8)


def test_a_fingerprint_tells_targets_apart() -> None:
    settings = [
        SteeringSettings(),
        SteeringSettings(correct=1),
        SteeringSettings(correct=2),
        SteeringSettings(verified=1),
    ]
    prints = [fingerprint(one) for one in settings]
    assert prints[0] == ""
    assert len(set(prints)) == 4
    assert fingerprint(SteeringSettings(correct=1)) == prints[1]


def test_one_right_answer_costs_less_than_half_of_eight_samples_always() -> None:
    """Prompts solved with a chance of 0, .2, .5, .8 or 1, answers of equal length, ended in the order sent."""
    chance = random.Random(1)
    shares = []
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        tokens = sum(_tokens_of_one(share, chance) for _ in range(2000))
        shares.append(tokens / (2000 * 8))
    assert shares == pytest.approx([1.0, 0.59, 0.28, 0.16, 0.125], abs=0.02)
    assert sum(shares) / 5 < 0.45


def _tokens_of_one(share: float, chance: random.Random) -> int:
    """Samples sent for a prompt until one is right; each ends with its round."""
    steering = Steering(SteeringSettings(correct=1), 8)
    unsent = samples_of("p", 8)
    steering.open("p", unsent, 0, 0)
    sent = 0
    while len(steering):
        now, unsent = unsent[: steering.at_once("p")], unsent[steering.at_once("p") :]
        sent += len(now)
        for one in now:
            steering.sent(one)
        for one in now:
            steering.ended(one, "correct" if chance.random() < share else "incorrect", 1)
    return sent
