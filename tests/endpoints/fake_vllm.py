"""Stands in for vLLM's processes: a server with a child, and a grandchild in a session of its own.

python fake_vllm.py PORT MODE PIDS_FILE, where MODE is `good`, `deaf` (ignores SIGTERM), `dies` or `never` (not ready).
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Door(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "fake"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def fork_family() -> list[int]:
    """A child that waits, and a grandchild that left the process group and lost its parent."""
    child = os.fork()
    if child == 0:
        signal.pause()
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        orphan = os.fork()
        if orphan == 0:
            signal.pause()
        os.write(writer, str(orphan).encode())
        os._exit(0)
    os.waitpid(middle, 0)
    return [child, int(os.read(reader, 32))]


def main() -> None:
    port, mode, pids_file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    family = fork_family()
    pids_file.write_text(json.dumps([os.getpid(), *family]))
    say("INFO non-default args: {}")
    say("INFO Starting to load model fake")
    say(f"cores {sorted(os.sched_getaffinity(0))}")
    if mode == "dies":
        sys.exit("ValueError: no such weights")
    if mode == "never":
        signal.pause()
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: (say("drained"), os._exit(0)))
    HTTPServer(("127.0.0.1", port), Door).serve_forever()


if __name__ == "__main__":
    main()
