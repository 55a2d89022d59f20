"""A loop of asyncio in a thread of its own, for code that is not asynchronous itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from threading import Event, Thread
from typing import Any

Submit = Callable[[Coroutine[Any, Any, Any]], Future]
"""Starts a coroutine on the loop; the future has what becomes of it."""


@contextmanager
def background(context: AbstractAsyncContextManager[object]) -> Iterator[Submit]:
    """Enter a context on a loop and lend the loop; at the end cancel what still runs there, leave the context, stop.

    The thread is a daemon: a generator that nobody closed does not keep the interpreter from ending.
    """
    loop = asyncio.new_event_loop()
    entered, stop = Event(), asyncio.Event()

    async def stay() -> None:
        async with context:
            entered.set()
            await stop.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed when the loop comes round again

    def submit(coroutine: Coroutine[Any, Any, Any]) -> Future:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    thread = Thread(target=loop.run_forever, name="served", daemon=True)
    thread.start()
    staying = submit(stay())
    staying.add_done_callback(lambda future: entered.set())
    try:
        entered.wait()
        yield submit
    finally:
        loop.call_soon_threadsafe(stop.set)
        try:
            staying.result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
