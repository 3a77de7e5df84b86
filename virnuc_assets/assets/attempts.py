"""Many units of work in one asset: each by itself, so that the failure of one stops no other."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import dagster as dg

from virnuc_assets.assets.lost_database import database_was_away

T = TypeVar("T")


def attempt_each(
    units: Iterable[str], work: Callable[[str], T], failures: dict[str, Exception], workers: int = 1
) -> Iterator[tuple[str, T]]:
    """Outcomes of the units that succeed, in order; a unit's error is noted in `failures` and its neighbours go on.

    This is the one place where any exception is caught: it is recorded against its unit, to be raised at the end.
    """

    def attempt(unit: str) -> tuple[str, T | Exception]:
        try:
            return unit, work(unit)
        except Exception as error:  # noqa: BLE001
            return unit, error

    for unit, outcome in map(attempt, units) if workers == 1 else _beside_each_other(units, attempt, workers):
        if isinstance(outcome, Exception):
            failures[unit] = outcome
        else:
            yield unit, outcome


def _beside_each_other(units: Iterable[str], work: Callable[[str], T], workers: int) -> Iterator[T]:
    """What `map` gives, by threads; no more units are begun than there are workers, so little is lost at a stop."""
    ahead = iter(units)
    with ThreadPoolExecutor(workers) as pool:
        begun = deque(pool.submit(work, unit) for unit in itertools.islice(ahead, workers))
        while begun:
            done = begun.popleft().result()
            begun.extend(pool.submit(work, unit) for unit in itertools.islice(ahead, 1))
            yield done


def raise_failures(failures: Mapping[str, Exception], what: str) -> None:
    """Raise one Failure that names every failed unit with its reason, if there is any."""
    if failures:
        reasons = {unit: f"{type(error).__name__}: {error}" for unit, error in failures.items()}
        listed = "\n".join(f"{unit}: {reason}" for unit, reason in reasons.items())
        told = f"{what} ({len(failures)}):\n{listed}\nMend what is named and run these again; the others are kept."
        # Of several the lost database tells what is to be done.
        raise dg.Failure(told, metadata=reasons) from max(failures.values(), key=database_was_away)
