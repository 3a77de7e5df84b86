"""Logs how far a run's embedding has come: rarely enough that it costs nothing, and not at all in short runs."""

import time
from collections.abc import Callable

from virnuc_assets.defs.sharded_asset import ShardRun

_LOG_EVERY_S = 30.0  # each line is an event


class Progress:
    """Counts the sequences of a run that go through an encoder, and logs them now and then."""

    def __init__(self, run: ShardRun, name: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Time runs from here, so this is to be made when the encoder is loaded.

        Args:
            run: whose log it is.
            name: the encoder's.
            total: sequences of the run that are to be embedded.
            clock: seconds.
        """
        self._run, self._name, self._total, self._clock = run, name, total, clock
        self._started = self._logged = clock()
        self._done = 0

    def advance(self, shard: str, count: int) -> None:
        """So many more sequences went through, those of a shard."""
        self._done += count
        now = self._clock()
        if now - self._logged < _LOG_EVERY_S:
            return
        self._logged, rate = now, self._done / (now - self._started)
        number, shards = self._run.shards.index(shard) + 1, len(self._run.shards)
        self._run.log.info(
            f"{self._name}: shard {number} of {shards} ({shard}): {self._done:,} of {self._total:,} sequences of this "
            f"run, {rate:,.3g}/s, about {duration(max(self._total - self._done, 0) / rate)} left"
        )


def duration(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
