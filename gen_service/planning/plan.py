"""What a job would take on a fleet: its shape runs in virtual time through the real loop, order, limits and places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gen_service.endpoints.simulated.lengths import MEAN_TOKENS, SIGMA
from gen_service.errors import SpecError
from gen_service.jobs.job import JobSpec
from gen_service.planning.answer_lengths import AnswerLengths, like, supposed
from gen_service.planning.chance import SPREAD, ChanceVerifier
from gen_service.planning.fleet_profile import FleetProfile
from gen_service.planning.job_shape import CHARACTERS_PER_TOKEN, JobShape, read_shape
from gen_service.planning.simulation import Simulated, simulate

MOST_SAMPLES = 10_000
LONGEST_ANSWER = 131_072
# A limit holds the fleet back where so much of it was in flight all the time.
_HELD_BACK = 0.98


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a plan cannot read from the spec or the profile.

    Attributes:
        mean_tokens, sigma: of an answer, as `answer_lengths.supposed` has them; None for R1's.
        cap: most tokens of an answer; None for the spec's `sampling.max_tokens`.
        like: folder of an earlier job whose lengths are taken instead of supposed ones.
        p_correct: share of right answers, for a job that is steered by verdicts.
        most_samples: how many samples are simulated at most; what is above is added at the steady rate.
        seed: of all that is drawn.
    """

    mean_tokens: float | None = None
    sigma: float | None = None
    cap: int | None = None
    like: str | None = None
    p_correct: float | None = None
    most_samples: int = MOST_SAMPLES
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job is expected to take. Times are seconds, tokens tokens.

    Attributes:
        samples: that would be made: all but those that steering skips.
        correct: of them right, where right answers are drawn by chance; else None.
        skipped: samples that steering would not make, by reason.
        simulated_samples: made in virtual time; the others are added at the steady rate.
        makespan_s: from the first request to the last token.
        tail_s: its last part, when no sample waits any more and servers run out of work.
        utilisation: useful tokens a second over the rate with all KV caches exactly full, from beginning to end.
        steady_utilisation: the same while samples wait; None where all go out at once. It may pass 1 while most
            answers are young and need little of the cache.
        recomputed: tokens that are computed again after a preemption, over the completion tokens.
        in_flight: samples at servers while samples wait, on average, as the limits find them; None as above.
        cost: in the profile's currency; None where it has no price.
        assumptions: all that was assumed, in words.
    """

    fleet: str
    gpus: int
    prompts: int
    samples: int
    correct: int | None
    skipped: dict[str, int]
    simulated_samples: int
    makespan_s: float
    tail_s: float
    utilisation: float
    steady_utilisation: float | None
    tokens_per_s: float
    completion_tokens: int
    prompt_tokens: int
    recomputed: float
    in_flight: float | None
    gpu_hours: float
    cost: float | None
    currency: str | None
    assumptions: tuple[str, ...]


def make_plan(spec: JobSpec, profile: FleetProfile, assumed: Assumptions) -> Plan:
    """Predict what the job takes. The same arguments give the same plan. Takes about 3 s for 1,000 samples.

    Raises:
        SpecError: the prompts cannot be read, or something that was assumed cannot be.
    """
    if assumed.most_samples < 1:
        raise SpecError("max-samples", assumed.most_samples, "at least 1")
    spec = _with_cap(spec, assumed.cap)
    shape = read_shape(spec, assumed.most_samples)
    _check_steering(spec, shape, assumed)
    lengths = _lengths(spec, assumed)
    engine = profile.engine_profile()
    ran = simulate(
        spec,
        shape.prompts,
        max(1, round(shape.prompt_tokens / shape.samples_in_all)),
        [engine] * profile.servers,
        lengths,
        ChanceVerifier(assumed.p_correct, assumed.seed),
    )
    full_rate = profile.servers * engine.full_rate(ran.live_tokens)
    scale = _scale(shape, ran)
    added_s = 0.0 if ran.steady is None else (scale - 1) * ran.completion_tokens / ran.steady.tokens_per_s
    makespan_s, tokens = ran.makespan_s + added_s, scale * ran.completion_tokens
    gpu_hours = makespan_s / 3600 * profile.gpus
    samples = round(scale * ran.samples)
    return Plan(
        fleet=profile.name,
        gpus=profile.gpus,
        prompts=shape.prompts_in_all,
        samples=samples,
        correct=None if assumed.p_correct is None else round(scale * ran.outcomes["correct"]),
        skipped={reason: round(scale * count) for reason, count in sorted(ran.skipped.items())},
        simulated_samples=ran.samples,
        makespan_s=makespan_s,
        tail_s=ran.makespan_s - ran.last_start_s,
        utilisation=tokens / makespan_s / full_rate,
        steady_utilisation=None if ran.steady is None else ran.steady.tokens_per_s / full_rate,
        tokens_per_s=tokens / makespan_s,
        completion_tokens=round(tokens),
        prompt_tokens=round(shape.prompt_tokens * samples / shape.samples_in_all),
        recomputed=ran.recomputed_tokens / max(1, ran.completion_tokens),
        in_flight=None if ran.steady is None else ran.steady.in_flight,
        gpu_hours=gpu_hours,
        cost=None if profile.gpu_hour_price is None else gpu_hours * profile.gpu_hour_price,
        currency=profile.currency,
        assumptions=tuple(_words(spec, profile, shape, lengths, ran, assumed)),
    )


def _with_cap(spec: JobSpec, cap: int | None) -> JobSpec:
    if cap is not None:
        spec = spec.model_copy(update={"sampling": spec.sampling.model_copy(update={"max_tokens": cap})})
    if not 1 <= spec.sampling.max_tokens <= LONGEST_ANSWER:
        field = "sampling.max_tokens" if cap is None else "cap"
        raise SpecError(field, spec.sampling.max_tokens, f"from 1 to {LONGEST_ANSWER} tokens, to be planned")
    return spec


def _lengths(spec: JobSpec, assumed: Assumptions) -> AnswerLengths:
    truncation = spec.truncation
    cap = spec.sampling.max_tokens + (truncation.extra_tokens if truncation.policy == "continue" else 0)
    if assumed.like is None:
        mean = MEAN_TOKENS if assumed.mean_tokens is None else assumed.mean_tokens
        return supposed(mean, SIGMA if assumed.sigma is None else assumed.sigma, cap, assumed.seed)
    if assumed.mean_tokens is not None or assumed.sigma is not None:
        raise SpecError("like", assumed.like, "lengths by an earlier job, or by mean-tokens and sigma, but not both")
    return like(assumed.like, cap, assumed.seed)


def _check_steering(spec: JobSpec, shape: JobShape, assumed: Assumptions) -> None:
    steering = spec.steering
    by_verdict = any(one is not None for one in (steering.correct, steering.give_up_after, steering.verified))
    if by_verdict and assumed.p_correct is None:
        raise SpecError("p-correct", None, "a share of right answers: the spec steers by verdicts")
    ends_early = any(one is not None for one in (steering.verified, steering.sample_budget, steering.token_budget))
    if ends_early and not shape.is_whole:
        expected = f"at least {shape.samples_in_all}: a job that ends at a target or budget is simulated whole"
        raise SpecError("max-samples", assumed.most_samples, expected)


def _scale(shape: JobShape, ran: Simulated) -> float:
    """How much more the whole job is than what was simulated."""
    if shape.is_whole:
        return 1.0
    simulated = ran.samples + ran.skipped.total()
    if ran.steady is None:
        expected = f"more than {simulated}: all of them went out at once, so there is no steady rate to add others at"
        raise SpecError("max-samples", simulated, expected)
    return shape.samples_in_all / simulated


def _words(
    spec: JobSpec, profile: FleetProfile, shape: JobShape, lengths: AnswerLengths, ran: Simulated, assumed: Assumptions
) -> Iterator[str]:
    yield f"fleet: {profile.name}, {profile.basis}"
    yield f"answers: {lengths.words}"
    yield f"prompts: a token for each {CHARACTERS_PER_TOKEN} characters, all as long as their mean"
    if assumed.p_correct is not None:
        yield (
            f"right answers: {assumed.p_correct:.0%}, by a chance that each prompt draws from a beta distribution with "
            f"a + b = {SPREAD:g}"
        )
    if not shape.is_whole:
        yield (
            f"the first {len(shape.prompts):,} of {shape.prompts_in_all:,} prompts are simulated; the others are added "
            "at the rate between a quarter of the requests and the last one"
        )
    if shape.rejected:
        yield f"{shape.rejected:,} rows of the source are no prompts and are left out"
    if ran.failed:
        yield f"{ran.failed:,} of the simulated samples fail: they wait longer than the spec's timeouts allow"
    yield "servers are up, loaded with the model, and do not fail; network, disks and verification take no time"
    cap = min(spec.pool.in_flight, (spec.pool.per_server or spec.pool.in_flight) * profile.servers)
    if ran.steady is not None and ran.steady.in_flight >= _HELD_BACK * cap:
        yield f"the spec's pool allows {cap:,} in flight, and that holds the fleet back"
