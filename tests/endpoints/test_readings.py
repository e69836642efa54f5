"""Readings from pages in Prometheus' text format, as vLLM 0.32 writes them and as nobody should."""

from __future__ import annotations

import math
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.endpoints.readings import Readings, readings_of

# In vLLM 0.32's names and labels, with some of its other lines. tests/trip reads the page of a real one.
PAGE: Final = """\
# HELP python_info Python platform information.
# TYPE python_info gauge
python_info{implementation="CPython",major="3",minor="11"} 1.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 12.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 3.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.625
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 7.0
# TYPE vllm:num_preemptions_created gauge
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7611e+09
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 1.25e+06
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 40.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 9.0
vllm:request_success_total{engine="0",finished_reason="error",model_name="m"} 1.0
vllm:request_generation_tokens_bucket{engine="0",le="+Inf",model_name="m"} 42.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="2048"} 1.0
"""
READ: Final = Readings(32768, 0.625, 12, 3, 7.0, 42.0, 1.25e6)


def test_a_page_of_vllm() -> None:
    assert readings_of(PAGE.encode()) == READ


def test_engines_are_summed_and_their_usage_is_averaged() -> None:
    second = PAGE.replace('engine="0"', 'engine="1"').replace(" 0.625", " 0.125").replace('"2048"', '"1024"')
    read = readings_of((PAGE + second).encode())
    assert read == Readings(32768 + 16384, 0.375, 24, 6, 14.0, 84.0, 2.5e6)


@pytest.mark.parametrize("blocks", ["None", "", "-5", "2e3", "0", "9" * 40])
def test_an_engine_that_does_not_say_what_its_cache_holds_is_like_the_others(blocks: str) -> None:
    third = f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{blocks}",engine="1"}} 1.0\n'
    assert readings_of((PAGE + third).encode()).kv_tokens == 2 * 32768
    assert readings_of(third.encode()).kv_tokens is None


@pytest.mark.parametrize(
    "page", [b"", b"\n\n", b"# TYPE vllm:x gauge\n", b"other 1\n", b"\xff\xfe\x00", b"<html>no</html>"]
)
def test_a_page_without_the_names_says_nothing(page: bytes) -> None:
    assert readings_of(page) == Readings()


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running many",
        'vllm:num_requests_running{engine="0" 1',
        'vllm:num_requests_running{engine="0"}',
        "vllm:num_requests_running",
        "vllm:num_requests_running{engine=0} 1",
        'vllm:num_requests_running{engine="0", ="1"} 1',
    ],
)
def test_a_line_that_counts_and_is_no_line_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        readings_of(f"{PAGE}{line}\n".encode())


def test_a_line_that_does_not_count_is_not_even_read() -> None:
    broken = 'vllm:num_requests_runningx{ 1\nvllm:e2e_request_latency_seconds{"} 1\nother{ x\n'
    assert readings_of((broken + PAGE).encode()) == READ


@pytest.mark.parametrize("end", ["\r\n", "\n\n", " 1761100000000\n"])
def test_ends_of_lines_and_times_do_not_matter(end: str) -> None:
    assert readings_of("".join(line + end for line in PAGE.splitlines() if line[0] != "#").encode()) == READ


@given(st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(random: Random) -> None:
    lines = PAGE.splitlines()
    random.shuffle(lines)
    assert readings_of("\n".join(lines).encode()) == READ


def escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# Line ends within a value other than \\n are not escaped by the format, and end no line of it.
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12)
numbers = st.floats(-1e15, 1e15) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(labels=st.lists(values, max_size=4), running=numbers, usage=numbers, preempted=numbers)
def test_any_labels_and_numbers(labels: list[str], running: float, usage: float, preempted: float) -> None:
    written = ",".join(f'l{number}="{escaped(value)}"' for number, value in enumerate(labels))
    page = (
        f"vllm:num_requests_running{{{written}}} {running!r}\n"
        f"vllm:kv_cache_usage_perc{{{written}}} {usage:e}\n"
        f"vllm:num_preemptions_total{{{written}}} {preempted}\n"
    )
    read = readings_of(page.encode())
    assert read.running == (round(running) if math.isfinite(running) else None)
    assert read.kv_usage == (pytest.approx(usage, rel=1e-5) if math.isfinite(usage) else None)
    assert read.preemptions == (preempted if math.isfinite(preempted) else None)
    assert (read.kv_tokens, read.waiting, read.completed, read.generated_tokens) == (None,) * 4


@given(st.binary(max_size=200))
def test_any_bytes_are_readings_or_an_error(page: bytes) -> None:
    """Also right behind a name that counts."""
    for text in (page, b"vllm:num_requests_running" + page, b"vllm:cache_config_info{" + page):
        try:
            read = readings_of(text)
        except ValueError:
            continue
        assert isinstance(read, Readings)


def test_a_large_page_of_other_names_is_passed_over() -> None:
    others = "".join(f'vllm:inter_token_latency_seconds_bucket{{le="{n}"}} {n}\n' for n in range(20_000))
    assert readings_of((others + PAGE + others).encode()) == READ
