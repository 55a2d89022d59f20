"""Samples the next round in a process of its own while the policy is updated.

What it writes is what the round itself would write: answers in the ledger, then shards. So nothing hangs on whether it
came to its end: whatever is missing, the round samples itself.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

from pipeline.errors import BadConfig, BranchpointError
from pipeline.settings import only_gpu

LOG = logging.getLogger(__name__)


def spare_device(engine: str) -> int | None:
    """The GPU for an engine beside the trainer's: the last there is; None: it needs none.

    Raises:
        BadConfig: the only one is the trainer's.
    """
    from torch import cuda

    count = cuda.device_count()
    if engine == "served" or not count:
        return None
    if count == 1:
        raise BadConfig("the only GPU is the trainer's, and overlap needs another", remedy="set overlap to false")
    return count - 1


@contextlib.contextmanager
def beside(work: Callable[[], object], *, of: str, device: int | None = None) -> Iterator[None]:
    """Run something in another process meanwhile, and wait for it; stop it where the block fails or is interrupted.

    Args:
        work: what is run; it and what it holds can be pickled. What it prints goes to stderr.
        device: number of the only GPU that it shall see; None: whatever there is.
        of: what it is, for the log line that says it failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(work, device), daemon=True)
    resource_tracker.ensure_running()  # which unblocks the signal when it is begun
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the process inherits
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
        process.join()
    finally:
        process.kill()
        process.join()
    if process.exitcode:
        LOG.warning("%s was not sampled ahead: its process ended with %s", of, process.exitcode)


def _run(work: Callable[[], object], device: int | None) -> None:
    """In the process: the work, but not beyond the life of who asked for it."""
    if device is not None:
        only_gpu(device)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    with contextlib.redirect_stdout(sys.stderr):
        try:
            work()
        except BranchpointError as error:
            sys.exit(str(error))
