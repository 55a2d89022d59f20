"""Starts a vLLM server on a policy, for the engine `served`: the same settings, so the same tokens, as in this process.

Knows vLLM as a program alone. `vllm serve` does not start from the CPU build; its module does.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO
from urllib.error import URLError
from urllib.request import urlopen

from pipeline.errors import BadConfig, BadModel
from pipeline.generation.batching import IN_FLIGHT
from pipeline.generation.engines import MAX_LENGTH, engine_dtype, engine_fingerprint
from pipeline.generation.policies import Policy
from pipeline.generation.served.identity import served_name
from pipeline.settings import quiet_engines

LOOK = 0.5
GRACE = 20.0
"""Seconds a server has to end what it does before it is killed."""
_LINES = 15
_CAUSE = re.compile(r"(?:^|\s)(?:[\w.]*(?:Error|Exception): (?!Engine core|\d+ validation)|Value error, ).+")


def _say(url: str) -> None:
    print(f"{url} is ready; use it with --engine served:{url}; Ctrl-C ends it", flush=True)


def _silent(seconds: float) -> None:
    """No progress."""


def serve(
    policy: Policy,
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    on_ready: Callable[[str], None] = _say,
    on_wait: Callable[[float], None] = _silent,
) -> None:
    """Serve a policy until Ctrl-C, or a request to terminate.

    Args:
        port:     0: any that is free.
        on_ready: called with the server's URL once it answers.
        on_wait:  called twice a second with the seconds waited so far, while it loads.

    Raises:
        BadConfig: vLLM is not installed, or the port is taken.
        BadModel: the server ends by itself; has the end of its log.
    """
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), _server(policy, port, host, on_wait) as (url, process, log):
            on_ready(url)
            process.wait()
            raise _died(policy, process, log)
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def serving(
    policy: Policy, *, port: int = 0, host: str = "127.0.0.1", on_wait: Callable[[float], None] = _silent
) -> Iterator[str]:
    """A server on a policy for as long as the block runs: its URL. Arguments and errors as of `serve`."""
    with _server(policy, port, host, on_wait) as (url, _, _):
        yield url


@contextmanager
def _server(
    policy: Policy, port: int, host: str, on_wait: Callable[[float], None]
) -> Iterator[tuple[str, subprocess.Popen, BinaryIO]]:
    command, port = _command(policy, host), _free(host, port)
    quiet_engines()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone; what the server started ends with its group
        )
        try:
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            _wait(url, policy, process, log, on_wait)
            yield url, process, log
        finally:
            _end(process)


def _command(policy: Policy, host: str) -> list[str]:
    """The command line but for the port; settings as in `vllm_engine.py`."""
    length = min(MAX_LENGTH, policy.max_length)
    settings = {
        "model": policy.path,
        "served-model-name": served_name(policy, engine_fingerprint("vllm", policy)),
        "host": host,
        "dtype": engine_dtype(),
        "max-model-len": length,
        "max-num-seqs": IN_FLIGHT,
        "max-num-batched-tokens": max(8192, length),
        "gpu-memory-utilization": 0.85,
        "seed": 0,
        "generation-config": "vllm",
    }
    switches = (
        "enforce-eager",
        "enable-prefix-caching",
        # A prompt cut in two would rewind its request's generator, which a CPU generator cannot do.
        "no-enable-chunked-prefill",
        "enable-prompt-tokens-details",
        "disable-log-stats",
        "disable-uvicorn-access-log",
    )
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        *(f"--{name}={value}" for name, value in settings.items()),
        *(f"--{name}" for name in switches),
    ]


def _free(host: str, port: int) -> int:
    """The port itself, or one that is free for 0.

    Raises:
        BadConfig: it is taken, or the host is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(found[0], found[1]) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(found[4])
            return trial.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise BadConfig(
            f"cannot listen at {host}:{port}: {error}", remedy="choose another --port, 0 for any that is free"
        ) from error


def _wait(url: str, policy: Policy, process: subprocess.Popen, log: BinaryIO, on_wait: Callable[[float], None]) -> None:
    """Return once the server answers, however long its model takes to load.

    Raises:
        BadModel: it ended instead.
    """
    began = time.monotonic()
    while process.poll() is None:
        try:
            with urlopen(f"{url}/health", timeout=5):
                return
        except (URLError, OSError):
            on_wait(time.monotonic() - began)
            time.sleep(LOOK)
    raise _died(policy, process, log)


def _died(policy: Policy, process: subprocess.Popen, log: BinaryIO) -> BadModel:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    causes = (found[0].strip()[:300] for line in lines if (found := _CAUSE.search(line)))
    tail = "\n".join(lines[-_LINES:])
    return BadModel(
        f"the server on {policy.path} ended with {process.returncode}: {next(causes, 'no reason given')}",
        remedy=f"the end of its log:\n{tail}",
    )


def _end(process: subprocess.Popen) -> None:
    """End a server and whatever it started."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
