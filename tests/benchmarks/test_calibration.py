"""The calibration finds the constants of an engine that has them: by its fit alone, and over HTTP."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.calibration import Size, calibrated, off, prompt_lengths
from benchmarks.calibration_fit import Prefill, Step, fit
from benchmarks.calibration_measure import Target, ask
from benchmarks.closed_loop import Asked, Ran, run_closed_loop
from gen_service.endpoints.simulated import Fixed, Script, SimulatedServer, SimulationSettings
from gen_service.endpoints.simulated.engine_profile import EngineProfile

PROFILE = EngineProfile(
    kv_blocks=1024,
    block_size=32,
    max_num_seqs=256,
    max_batched_tokens=2048,
    step_s=((1, 0.008), (16, 0.014), (64, 0.035)),
    kv_token_s=1e-6,
    prefill_token_s=5e-5,
    stream_interval=8,
)


def steps_of(profile: EngineProfile, noise: list[float] | None = None) -> list[Step]:
    """What a measurement of the profile gives, each step longer by its noise."""
    shapes = [(1, 50.0), (1, 1000.0), (16, 60.0), (16, 900.0), (64, 70.0)]
    return [
        Step(batch, live, (profile.decode_s(batch) + profile.kv_token_s * batch * live) * (1 + more))
        for (batch, live), more in zip(shapes, noise or [0.0] * len(shapes), strict=True)
    ]


def prefills_of(profile: EngineProfile) -> list[Prefill]:
    alone = profile.decode_s(1) + 0.002
    token_s = profile.prefill_token_s + profile.kv_token_s
    return [Prefill(tokens, alone + token_s * tokens) for tokens in (16, 500, 1500)]


def test_the_fit_finds_the_constants() -> None:
    found = fit(steps_of(PROFILE), prefills_of(PROFILE), PROFILE)
    assert found.profile.kv_token_s == pytest.approx(PROFILE.kv_token_s)
    assert found.profile.prefill_token_s == pytest.approx(PROFILE.prefill_token_s)
    assert [size for size, _ in found.profile.step_s] == [1, 16, 64]
    assert [s for _, s in found.profile.step_s] == pytest.approx([s for _, s in PROFILE.step_s])
    assert found.step_error == pytest.approx(0.0, abs=1e-9)
    assert found.request_s == pytest.approx(0.002)


@given(st.lists(st.floats(-0.1, 0.1), min_size=5, max_size=5))
def test_noise_gives_a_profile_that_is_not_far_off(noise: list[float]) -> None:
    """Whatever the noise: rising points, no negative constant, and steps about as wrong as what was measured."""
    found = fit(steps_of(PROFILE, noise), prefills_of(PROFILE), PROFILE)
    seconds = [s for _, s in found.profile.step_s]
    assert seconds == sorted(seconds)
    assert found.profile.kv_token_s >= 0.0
    assert abs(found.step_error) < 0.5


def test_a_cache_that_costs_nothing_is_not_given_a_negative_cost() -> None:
    steps = [Step(1, 50.0, 0.0080), Step(1, 1000.0, 0.0079), Step(16, 50.0, 0.014), Step(16, 900.0, 0.0139)]
    found = fit(steps, prefills_of(PROFILE), PROFILE).profile
    assert found.kv_token_s == 0.0
    assert [s for _, s in found.step_s] == pytest.approx([0.00795, 0.01395], rel=1e-3)


@pytest.mark.looptime
async def test_a_simulated_server_is_calibrated_over_http() -> None:
    """An engine behind HTTP with known constants: they are found, and both workloads agree within a tenth."""
    script = Script(length=Fixed(5000), reasoning=False)
    profile = replace(PROFILE, kv_blocks=256)
    settings = SimulationSettings(engine=profile, script=script, max_model_len=2048, tick_s=0.001)
    size = Size((1, 16, 64), 64, 256, (32, 512, 1024), 1, in_flight=32, held=64, pressed=64)
    async with SimulatedServer(settings) as server, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as s:
        report = await calibrated(Target(s, server.url, "simulated", range(3000, 60000)), size)
    found = EngineProfile(**report["profile"])
    assert (found.kv_blocks, found.block_size) == (256, 32)
    assert [s for _, s in found.step_s] == pytest.approx([s for _, s in PROFILE.step_s], rel=0.03)
    assert found.kv_token_s == pytest.approx(PROFILE.kv_token_s, rel=0.25)
    assert found.prefill_token_s == pytest.approx(PROFILE.prefill_token_s, rel=0.05)
    assert abs(report["step_error"]) < 0.03
    held, pressed = report["held_out"], report["held_out_preempting"]
    assert held["real"]["preemptions"] == held["engine"]["preemptions"] == 0
    assert pressed["real"]["preemptions"] > 20
    for one in (held, pressed):
        assert max(map(abs, one["off"].values())) < 0.1


@pytest.mark.looptime
async def test_an_answer_that_is_too_short_is_no_measurement() -> None:
    async with SimulatedServer() as server, aiohttp.ClientSession() as session:
        target = Target(session, server.url, "simulated", range(3000, 4000))
        with pytest.raises(RuntimeError, match="60 tokens came of 80"):
            await ask(target, target.prompt(16), 80)
        with pytest.raises(RuntimeError, match="HTTP 404"):
            await ask(replace(target, model="another"), target.prompt(16), 8)


def test_a_closed_loop_is_as_long_as_its_steps() -> None:
    profile = EngineProfile(kv_blocks=1000, step_s=((1, 0.01), (2, 0.01)))
    ran = run_closed_loop(profile, [Asked(f"{n}", 10, 100) for n in range(6)], in_flight=2)
    assert ran.seconds == pytest.approx(3 * 100 * 0.01, rel=0.02)
    assert ran.tokens_per_s == pytest.approx(200.0, rel=0.02)
    assert (ran.tokens, ran.preemptions) == (600, 0)
    assert ran.mean_running == pytest.approx(2.0, rel=0.02)
    assert sorted(ran.order) == list(range(6))
    later = run_closed_loop(profile, [Asked(f"{n}", 10, 100) for n in range(6)], in_flight=2, gap_s=0.5)
    assert later.seconds == pytest.approx(ran.seconds + 2 * 0.5, rel=0.02)
    assert later.mean_running == pytest.approx(2 * 3 / 4, rel=0.02)


def test_long_prompts_are_measured_where_the_cache_holds_them() -> None:
    size = Size()
    assert {batch: prompt_lengths(batch, size, 32 * 1024) for batch in size.batches} == {
        1: [16, 1024],
        4: [16, 1024],
        16: [16, 1024],
        64: [16, 332],
        128: [16, 102],
    }


def test_what_never_happened_has_no_share() -> None:
    real, model = Ran(10.0, 100, 0, 5.0, ()), Ran(11.0, 100, 3, 4.0, ())
    assert off(real, model) == {
        "seconds": pytest.approx(0.1),
        "tokens_per_s": pytest.approx(10 / 11 - 1),
        "mean_running": pytest.approx(-0.2),
    }
