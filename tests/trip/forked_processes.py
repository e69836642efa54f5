"""Training processes that come cheap: this program imports what they need once, and forks them.

It stands in for `accelerate launch`, whose environment it makes of the same configuration files. For each line of its
input, {"config": PATH or null, "processes": N, "arguments": [...]}, it writes the ids of the processes as JSON, what
they say, and then `ended` with their exit codes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

import accelerate.state
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

import gen_service.training.grpo
import gen_service.training.lengthening
import gen_service.training.sft  # noqa: F401
from gen_service.cli import main


def environment(config: str | None, processes: int) -> dict[str, str]:
    """What `accelerate launch` tells its processes."""
    if config is None:
        return {}
    options = ["--config_file", config, "--num_processes", str(processes), "--main_process_port", "0", "program"]
    chosen, _, _ = _validate_launch_command(launch_command_parser().parse_args(options))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return prepare_multi_gpu_env(chosen) | {name: str(value) for name, value in sizes.items()}


def let_a_cpu_have_shards() -> None:
    """accelerate knows FSDP on devices only, and takes DDP on a CPU without a word; torch's FSDP2 works there, too."""
    made = accelerate.state.PartialState.__init__

    def as_on_a_device(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    accelerate.state.PartialState.__init__ = as_on_a_device


def started(request: dict[str, Any], rank: int, variables: dict[str, str]) -> int:
    """Fork one process."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.environ.update(variables)
        if variables:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        if variables.get("ACCELERATE_USE_FSDP") == "true":
            let_a_cpu_have_shards()
        sys.argv = ["gen-service", *request["arguments"]]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(request: dict[str, Any]) -> None:
    """Run the processes of one request; when one fails the others are ended, as a launcher does."""
    variables = environment(request["config"], request["processes"])
    waiting = [started(request, rank, variables) for rank in range(request["processes"])]
    tell(json.dumps(waiting))
    codes = []
    while waiting:
        process, status = os.wait()
        waiting.remove(process)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1]:
            for other in waiting:
                os.kill(other, signal.SIGTERM)
    tell(f"ended {json.dumps(codes)}")


def tell(words: str) -> None:
    """A line for who started this program."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for line in sys.stdin:
        run(json.loads(line))
