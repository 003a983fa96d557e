"""Work in several processes that ends as soon as a part of it fails."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from itertools import islice
from typing import Any, TypeVar

Result = TypeVar("Result")


def map_or_stop(
    pool: Executor, at_once: int, function: Callable[..., Result], *arguments: Iterable[Any]
) -> list[Result]:
    """Return what a function returns for each of the arguments, in their order, as `map` does.

    at_once: number of calls that the pool runs at the same time. If one raises, no further one is started; those that
    run end with the pool. (A pool of processes takes more calls than it runs, and cannot give them back.)
    """
    waiting = enumerate(zip(*arguments, strict=True))
    running: dict[Future[Result], int] = {}
    found: dict[int, Result] = {}
    while True:
        for place, row in islice(waiting, at_once - len(running)):
            running[pool.submit(function, *row)] = place
        if not running:
            return [found[place] for place in sorted(found)]
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            found[running.pop(future)] = future.result()
