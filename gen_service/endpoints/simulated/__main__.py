"""`python -m gen_service.endpoints.simulated`: the simulated server as a process, with the settings most used."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gen_service.endpoints.simulated.faults import Faults
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.endpoints.simulated.profiles import engine_profile
from gen_service.endpoints.simulated.running import run_simulated_server
from gen_service.endpoints.simulated.script import Script
from gen_service.endpoints.simulated.settings import SimulationSettings
from gen_service.endpoints.simulated.timing import Distribution, Fixed, LogNormal, Timing, TokenRate, TotalLatency
from gen_service.errors import SpecError


def distribution(text: str) -> Distribution:
    """`5` is always 5; `0.5:3.4:4.1` a lognormal's median, 99th percentile and (optional) cap."""
    values = [float(part) for part in text.split(":")]
    if len(values) == 1:
        return Fixed(values[0])
    if len(values) > 3:
        raise ValueError(text)
    return LogNormal(*values)


def lengths(text: str, seed: int) -> Lengths:
    """`6000:0.9:32768:0.7`: mean, standard deviation of the logarithm, cap, correlation of siblings.

    Raises:
        ValueError, SpecError: it is something else.
    """
    values = [float(part) for part in text.split(":")]
    if len(values) != 4:
        raise ValueError(f"lengths are MEAN:SIGMA:CAP:RHO, such as 6000:0.9:32768:0.7, got {text!r}")
    mean, sigma, cap, rho = values
    return Lengths(mean=mean, cap=int(cap), sigma=sigma, sibling_correlation=rho, seed=seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; `argv` is what follows the program's name, by default that of this process."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        settings = _settings(options)
    except (SpecError, ValueError) as error:
        parser.error(str(error))
    run_simulated_server(settings, options.host, options.port, options.servers)


def _settings(options: argparse.Namespace) -> SimulationSettings:
    timing: Timing = TokenRate(options.first_token, options.rate)
    if options.latency is not None:
        timing = TotalLatency(options.latency)
    engine = None if options.engine is None else engine_profile(options.engine)
    if engine is not None and options.stream_interval is not None:
        engine = replace(engine, stream_interval=options.stream_interval)
    length = options.length if options.lengths is None else lengths(options.lengths, options.seed)
    return SimulationSettings(
        model=options.model,
        script=Script(options.seed, length, options.unit, timing, options.p_right, not options.no_reasoning),
        faults=Faults(**dict(options.fault), refused_marker=options.refuse),
        max_model_len=options.max_model_len,
        stream_interval=1 if options.stream_interval is None else options.stream_interval,
        tick_s=options.tick,
        server_index=options.first_index,
        max_num_seqs=options.max_num_seqs,
        engine=engine,
        time_scale=options.time_scale,
        log_path=options.log,
        keep_log=False,
    )


def _fault(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    return name, float(rate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gen_service.endpoints.simulated", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="of the first server; 0 picks free ones")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--first-index", type=int, default=0, help="tells servers apart: each fails in its own places")
    parser.add_argument("--model", default="simulated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=distribution, default=Fixed(60), help="of an answer: N, or MEDIAN:P99[:CAP]")
    parser.add_argument(
        "--lengths", metavar="MEAN:SIGMA:CAP:RHO", help="instead: lognormal, siblings alike by the correlation RHO"
    )
    parser.add_argument("--unit", choices=("tokens", "bytes"), default="tokens")
    parser.add_argument("--first-token", type=distribution, default=Fixed(0.0), help="seconds")
    parser.add_argument("--rate", type=float, default=math.inf, help="tokens per second of each sequence")
    parser.add_argument("--latency", type=distribution, help="seconds of a whole answer, instead of the two above")
    parser.add_argument("--p-right", type=float, default=1.0)
    parser.add_argument("--no-reasoning", action="store_true")
    parser.add_argument("--fault", type=_fault, action="append", default=[], help="NAME=RATE, such as http_500=0.03")
    parser.add_argument("--refuse", metavar="TEXT", help="a prompt that holds this gets HTTP 400 every time")
    parser.add_argument("--max-model-len", type=int, default=32768)
    parser.add_argument("--stream-interval", type=int, help="tokens in a chunk; 1, or what the engine's profile says")
    parser.add_argument("--tick", type=float, default=0.05, help="seconds within which due chunks share a write")
    parser.add_argument("--max-num-seqs", type=int, default=1_000_000, help="without an engine")
    parser.add_argument(
        "--engine", metavar="PROFILE", help="batch and preempt as this engine: a name, a YAML or JSON file, or YAML"
    )
    parser.add_argument("--time-scale", type=float, default=1.0, help="seconds of the engine in a second")
    parser.add_argument("--log", type=Path, help="file for one JSON line per request and answer")
    return parser


if __name__ == "__main__":
    main()
