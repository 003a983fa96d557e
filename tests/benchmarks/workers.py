"""Work in several processes that ends as soon as a part of it fails."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, as_completed
from typing import Any, TypeVar

Result = TypeVar("Result")


def map_or_stop(pool: Executor, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
    """Return what a function returns for each of the arguments, in their order, as `map` does.

    If a call raises, no further one is started, and the exception is raised once those that run have ended.
    """
    futures = [pool.submit(function, *row) for row in zip(*arguments, strict=True)]
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    return [future.result() for future in futures]
