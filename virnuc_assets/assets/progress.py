"""Says how far a run's embedding has come: rarely enough that it costs nothing, and not at all in short runs."""

import time
from collections.abc import Callable

from virnuc_assets.assets.per_shard import ShardRun

# An event costs about 10 ms in SQLite; an observation is an event that the asset's page shows.
_LOG_EVERY_S = 10.0
_OBSERVE_EVERY_S = 30.0


class Progress:
    """Counts the sequences of a run that go through an encoder, and tells of them now and then."""

    def __init__(self, run: ShardRun, name: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Time runs from here, so this is to be made when the encoder is loaded.

        Args:
            run: told of it.
            name: the encoder's.
            total: sequences of the run that are to be embedded.
            clock: seconds.
        """
        self._run, self._name, self._total, self._clock = run, name, total, clock
        self._started = self._logged = self._observed = clock()
        self._done = 0

    def advance(self, shard: str, count: int) -> None:
        """So many more sequences went through, those of a shard."""
        self._done += count
        now = self._clock()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            self._run.log.info(self._sentence(shard, now))
        if now - self._observed >= _OBSERVE_EVERY_S:
            self._observed = now
            facts = {
                "sequences_done": self._done,
                "sequences_total": self._total,
                "sequences_per_s": round(self._rate(now), 1),
                "seconds_left": round(self._seconds_left(now)),
                "progress": self._sentence(shard, now),
            }
            self._run.observe(shard, facts)

    def _rate(self, now: float) -> float:
        return self._done / (now - self._started)

    def _seconds_left(self, now: float) -> float:
        return max(self._total - self._done, 0) / self._rate(now)

    def _sentence(self, shard: str, now: float) -> str:
        number, shards = self._run.shards.index(shard) + 1, len(self._run.shards)
        return (
            f"{self._name}: shard {number} of {shards} ({shard}): {self._done:,} of {self._total:,} sequences of this "
            f"run, {self._rate(now):,.3g}/s, about {spoken(self._seconds_left(now))} left"
        )


def spoken(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
