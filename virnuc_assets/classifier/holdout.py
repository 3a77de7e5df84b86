"""Which records are held out for the test: by their date, or by names of the catalogue (leave one family out)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.settings import SplitSettings


class HoldoutError(VirnucError):
    """Dates or names by which nothing can be held out."""


def held_out(sources: Mapping[str, Source], settings: SplitSettings) -> dict[str, str]:
    """Records whose side is test, and why; none where clusters alone decide.

    Args:
        sources: record → the catalogued source that it is from.
        settings: `by`, and the date or the names.

    Raises:
        HoldoutError: a source has no date, or none is new enough; a name is neither a group nor an organism nor a
            word for relatives of the catalogue.
    """
    if settings.by == "time":
        return _by_date(sources, settings)
    if settings.by == "groups":
        return _by_name(sources, settings)
    return {}


def _by_date(sources: Mapping[str, Source], settings: SplitSettings) -> dict[str, str]:
    first = settings.test_from
    undated = sorted({source.name for source in sources.values() if source.date is None})
    if undated or first is None:
        raise HoldoutError(
            f"split.by = 'time' needs a date for every source; {len(undated)} have none ({_some(undated)}). "
            "Fill the column `date` of MANIFEST.tsv (YYYY-MM-DD)."
        )
    held = {
        record: f"held out: dated {source.date}, not before {first}"
        for record, source in sources.items()
        if source.date is not None and source.date >= first
    }
    if not held:
        latest = max((source.date for source in sources.values() if source.date is not None), default=None)
        raise HoldoutError(
            f"split.test_from = {first}: no source is that new, the latest is of {latest}; set it earlier"
        )
    return held


def _by_name(sources: Mapping[str, Source], settings: SplitSettings) -> dict[str, str]:
    known = sorted({name for source in sources.values() for name in _names(source)})
    if unknown := sorted(set(settings.test_groups).difference(known)):
        raise HoldoutError(
            f"split.test_groups: unknown to the catalogue: {', '.join(unknown)}; expected groups, organisms or words "
            f"for relatives of MANIFEST.tsv, which are: {', '.join(known)}"
        )
    return {
        record: f"held out: of {', '.join(names)}"
        for record, source in sources.items()
        if (names := [name for name in _names(source) if name in settings.test_groups])
    }


def _names(source: Source) -> list[str]:
    return [name for name in dict.fromkeys((source.group, source.organism, source.relatives)) if name]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
