import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from gen_service.endpoints.local_server import LocalServer, LocalServerSettings
from gen_service.endpoints.local_server_settings import server_command, server_environment
from gen_service.errors import LocalServerError, SpecError

FAKE = Path(__file__).with_name("fake_vllm.py")
GONE_WITHIN_S = 20.0


def fake_settings(folder: Path, mode: str = "good", **more: object) -> LocalServerSettings:
    command = (sys.executable, "-I", str(FAKE), "{port}", mode, str(folder / "pids.json"))
    return LocalServerSettings(folder, "fake", log_path=folder / "server.log", command=command, **more)


def family(folder: Path) -> list[psutil.Process]:
    """The server's processes; one that is gone already is left out."""
    found = []
    for pid in json.loads((folder / "pids.json").read_text()):
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return found


def left_over(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


async def test_start_shows_stages_and_stop_lets_the_server_drain(tmp_path: Path) -> None:
    stages: list[str] = []
    server = LocalServer(fake_settings(tmp_path))
    await server.start(stages.append)
    processes = family(tmp_path)
    assert len(processes) == 3
    assert server.running
    await server.stop()
    assert [stage.partition(" (")[0] for stage in stages] == [
        "importing vLLM",
        "reading the checkpoint",
        "loading weights",
        "ready",
    ]
    assert "drained" in (tmp_path / "server.log").read_text()
    assert not server.running
    assert left_over(processes) == []


async def test_kill_leaves_nothing_and_start_comes_back_on_the_same_port(tmp_path: Path) -> None:
    server = LocalServer(fake_settings(tmp_path))
    await server.start()
    url, first = server.url, family(tmp_path)
    await server.kill()
    assert left_over(first) == []
    await server.start()
    second = family(tmp_path)
    assert server.url == url
    assert {process.pid for process in first}.isdisjoint(process.pid for process in second)
    await server.stop()
    assert left_over(second) == []


async def test_a_server_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    server = LocalServer(fake_settings(tmp_path, "deaf"))
    await server.start()
    processes = family(tmp_path)
    await server.stop(grace_s=0.1)
    assert "drained" not in (tmp_path / "server.log").read_text()
    assert left_over(processes) == []


async def test_a_server_that_dies_while_loading_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    server = LocalServer(fake_settings(tmp_path, "dies"))
    with pytest.raises(LocalServerError, match=r"exit code 1 while loading weights(.|\n)*no such weights"):
        await server.start()
    assert not server.running
    assert left_over(family(tmp_path)) == []


async def test_a_server_that_is_never_ready_is_an_error_and_is_killed(tmp_path: Path) -> None:
    server = LocalServer(fake_settings(tmp_path, "never", ready_s=0.5))
    with pytest.raises(LocalServerError, match=r"not ready within 0\.5 s"):
        await server.start()
    assert left_over(family(tmp_path)) == []


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    loading = asyncio.Event()
    server = LocalServer(fake_settings(tmp_path, "never"))
    start = asyncio.create_task(server.start(lambda stage: loading.set() if "loading" in stage else None))
    await loading.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert left_over(family(tmp_path)) == []


@pytest.mark.parametrize("held_open", [False, True], ids=["pipe-closes", "pipe-held-by-a-fork"])
async def test_nothing_is_left_when_the_parent_is_killed_with_9(tmp_path: Path, held_open: bool) -> None:
    program = f"""
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_local_server import fake_settings
from gen_service.endpoints.local_server import LocalServer

async def main():
    server = LocalServer(fake_settings(Path({str(tmp_path)!r})))
    await server.start()
    forked = os.fork() if {held_open} else None
    if forked == 0:
        os.close(1)
        signal.alarm(60)
        signal.pause()
    print("ready", server._guard.pid, forked or 0, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    word, guard_pid, forked = (await parent.stdout.readline()).split()
    assert word == b"ready"
    processes = [*family(tmp_path), psutil.Process(int(guard_pid))]
    assert len(processes) == 4
    parent.kill()
    await parent.wait()
    alive = left_over(processes)
    if held_open:
        os.kill(int(forked), signal.SIGKILL)
    await parent.communicate()
    assert alive == []


async def test_the_server_runs_on_its_cores_only(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    server = LocalServer(fake_settings(tmp_path, cores=(core,)))
    async with server:
        assert [process.cpu_affinity() for process in family(tmp_path)] == [[core]] * 3
    assert f"cores [{core}]" in server.last_lines


async def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = LocalServer(fake_settings(tmp_path, port=port))
        with pytest.raises(LocalServerError, match=f"port {port} is taken"):
            await server.start()
    assert not (tmp_path / "pids.json").exists()


async def test_the_temporary_log_is_removed_after_a_stop(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path)
    server = LocalServer(LocalServerSettings(tmp_path, "fake", command=settings.command))
    await server.start()
    log = server.log_path
    assert log is not None
    assert log.exists()
    await server.stop()
    assert not log.exists()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"checkpoint.*config\.json"):
        LocalServerSettings(tmp_path, "tiny")


def test_the_command_and_environment_of_a_cpu_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "config.json").write_text("{}")
    settings = LocalServerSettings(tmp_path, "tiny", cores=(1,), arguments=("--seed", "3"))
    command = " ".join(server_command(settings, 8123))
    assert f"--model {tmp_path} --served-model-name tiny --host 127.0.0.1 --port 8123" in command
    assert "--enforce-eager" in command
    assert command.endswith("--seed 3")
    environment = server_environment(settings)
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == environment["OMP_NUM_THREADS"] == "1"
    assert "PYTHONDONTWRITEBYTECODE" not in environment


def test_a_gpu_server_keeps_its_graphs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = LocalServerSettings(tmp_path, "tiny", device="gpu")
    assert "--enforce-eager" not in server_command(settings, 8123)
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_environment(settings).keys() - os.environ.keys()
