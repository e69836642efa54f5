"""A plan adds up, follows what it is given, and says what it assumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gen_service.errors import SpecError
from gen_service.generation.sample_plan import SamplePlan
from gen_service.jobs.job import JobSpec
from gen_service.planning.answer_lengths import supposed
from gen_service.planning.fleet_profile import FleetProfile
from gen_service.planning.job_shape import read_shape
from gen_service.planning.plan import Assumptions, make_plan

MakeSpec = Callable[..., JobSpec]
MakeFleet = Callable[..., FleetProfile]
SHORT = Assumptions(mean_tokens=500.0, sigma=0.8)


def wanted_tokens(spec: JobSpec) -> int:
    lengths = supposed(500.0, 0.8, 4000)
    plan = SamplePlan(spec.job_id, spec.samples, spec.parameters, None)
    samples = [one for prompt in read_shape(spec, 10**6).prompts for one in plan.samples_of(prompt)]
    return sum(min(4000, lengths.tokens(one.prompt.prompt_id, one.sample_id)) for one in samples)


def test_every_sample_is_made_with_the_tokens_it_wants(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    spec = small_spec(100, samples=3)
    plan = make_plan(spec, make_fleet(), SHORT)
    assert (plan.samples, plan.simulated_samples, plan.prompts, plan.skipped) == (300, 300, 100, {})
    assert plan.completion_tokens == wanted_tokens(spec)
    assert plan.gpus == 8
    assert plan.gpu_hours == pytest.approx(plan.makespan_s * 8 / 3600)
    assert plan.tokens_per_s == pytest.approx(plan.completion_tokens / plan.makespan_s)
    assert 0 < plan.tail_s < plan.makespan_s
    assert 0.3 < plan.utilisation < 1.1
    assert (plan.cost, plan.correct) == (None, None)


def test_the_same_arguments_make_the_same_plan_and_another_seed_another(
    small_spec: MakeSpec, make_fleet: MakeFleet
) -> None:
    spec, fleet = small_spec(60, samples=2), make_fleet()
    assert make_plan(spec, fleet, SHORT) == make_plan(spec, fleet, SHORT)
    assert make_plan(spec, fleet, dataclasses.replace(SHORT, seed=1)) != make_plan(spec, fleet, SHORT)


def test_no_fleet_is_faster_than_its_engines(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    """A step takes at least 10 ms and 0.16 ms for each sequence; 32,000 tokens hold what they hold."""
    plan = make_plan(small_spec(300), make_fleet(), SHORT)
    assert plan.tokens_per_s < 2 / (0.01 / 256 + 0.01 / 63)


def test_more_servers_take_less_time_and_no_fewer_gpu_hours(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    spec = small_spec(600)
    two, four = (make_plan(spec, make_fleet(servers=servers), SHORT) for servers in (2, 4))
    assert four.makespan_s < two.makespan_s < 2.2 * four.makespan_s
    assert four.gpu_hours > 0.95 * two.gpu_hours


def test_a_price_makes_a_cost(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    plan = make_plan(small_spec(20), make_fleet(gpu_hour_price=2.5, currency="EUR"), SHORT)
    assert plan.cost == pytest.approx(plan.gpu_hours * 2.5)
    assert plan.currency == "EUR"


@pytest.mark.parametrize("samples", [1, 4])
def test_a_part_that_is_simulated_tells_of_the_whole(small_spec: MakeSpec, make_fleet: MakeFleet, samples: int) -> None:
    spec, fleet = small_spec(4000 // samples, samples=samples), make_fleet()
    whole = make_plan(spec, fleet, SHORT)
    part = make_plan(spec, fleet, dataclasses.replace(SHORT, most_samples=1600))
    assert (part.samples, part.simulated_samples) == (4000, 1600)
    assert part.makespan_s == pytest.approx(whole.makespan_s, rel=0.1)
    assert part.completion_tokens == pytest.approx(whole.completion_tokens, rel=0.1)
    assert part.prompt_tokens == whole.prompt_tokens
    assert any(f"the first {1600 // samples:,} of {4000 // samples:,} prompts" in words for words in part.assumptions)


def test_the_pools_limits_hold(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    plan = make_plan(small_spec(200, pool={"in_flight": 6}), make_fleet(), SHORT)
    free = make_plan(small_spec(200), make_fleet(), SHORT)
    assert plan.in_flight is not None
    assert free.in_flight is not None
    assert 5.8 < plan.in_flight < 6.01 < free.in_flight
    assert plan.makespan_s > free.makespan_s
    assert "the spec's pool allows 6 in flight, and that holds the fleet back" in plan.assumptions
    assert not any("holds the fleet back" in words for words in free.assumptions)


def test_longer_answers_take_longer(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    spec = small_spec(100)
    short, long = (make_plan(spec, make_fleet(), Assumptions(mean, 0.5)) for mean in (200.0, 1000.0))
    assert long.makespan_s > 3 * short.makespan_s
    assert long.completion_tokens == pytest.approx(5 * short.completion_tokens, rel=0.1)


def test_a_cap_cuts_answers_off_and_continuing_goes_on(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    capped = make_plan(small_spec(100), make_fleet(), Assumptions(500.0, 0.8, cap=1000))
    assert capped.completion_tokens <= 100 * 1000
    assert any("cap 1,000" in words for words in capped.assumptions)
    more = small_spec(100, truncation={"policy": "continue", "extra_tokens": 1000}, sampling={"max_tokens": 1000})
    continued = make_plan(more, make_fleet(), Assumptions(500.0, 1.5))
    assert any("cap 2,000" in words for words in continued.assumptions)
    assert continued.samples == 100


def test_a_job_that_stops_at_a_right_answer_takes_fewer_tokens(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    always = make_plan(small_spec(100, samples=8), make_fleet(), dataclasses.replace(SHORT, p_correct=0.5))
    steered = small_spec(100, samples=8, steering={"correct": 1})
    plan = make_plan(steered, make_fleet(), dataclasses.replace(SHORT, p_correct=0.5))
    assert plan.samples + sum(plan.skipped.values()) == 800
    assert set(plan.skipped) == {"solved"}
    assert plan.completion_tokens < 0.7 * always.completion_tokens
    assert always.correct == pytest.approx(400, rel=0.2)
    assert plan.correct is not None
    assert 50 < plan.correct <= 100 + 10


def test_a_target_of_the_whole_job_ends_it(small_spec: MakeSpec, make_fleet: MakeFleet) -> None:
    spec = small_spec(200, samples=2, steering={"verified": 50})
    plan = make_plan(spec, make_fleet(), dataclasses.replace(SHORT, p_correct=0.5))
    assert plan.correct is not None
    assert 50 <= plan.correct < 150
    assert plan.skipped["target_reached"] == 400 - plan.samples


@pytest.mark.parametrize(
    ("fields", "changes", "words"),
    [
        ({"steering": {"correct": 1}}, {}, "p-correct: got None; expected a share of right answers"),
        ({"steering": {"correct": 1}}, {"p_correct": 1.5}, "p-correct: got 1.5"),
        ({"steering": {"token_budget": 9}}, {"most_samples": 10}, "max-samples: got 10; expected at least 50"),
        ({}, {"most_samples": 10}, "max-samples: got 10; expected more than 10: all of them went out at once"),
        ({}, {"most_samples": 0}, "max-samples: got 0; expected at least 1"),
        ({}, {"like": "x"}, "like: got 'x'; expected lengths by an earlier job, or by mean-tokens and sigma"),
        ({}, {"cap": 10**6}, "cap: got 1000000; expected from 1 to 131072 tokens"),
        ({"sampling": {"max_tokens": 10**6}}, {}, "sampling.max_tokens: got 1000000; expected from 1 to 131072 tokens"),
        ({}, {"mean_tokens": 4000.0}, "mean-tokens: got 4000.0; expected from 1 to 3800: the cap is 4000 tokens"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    small_spec: MakeSpec, make_fleet: MakeFleet, fields: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError) as refused:
        make_plan(small_spec(50, **fields), make_fleet(), dataclasses.replace(SHORT, **changes))
    assert words in str(refused.value)
