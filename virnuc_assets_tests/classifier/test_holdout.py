"""Records are held out by date or by name; what cannot be held out is named with what could."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from virnuc_assets.classifier.holdout import HoldoutError, held_out
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.settings import SplitSettings


def source(name: str, **known: Any) -> Source:
    return Source(name, Path(f"{name}.fna"), **known)


SOURCES = {
    "d1": source("dengue1", group="+ssRNA", organism="Dengue virus 1", relatives="dengue", date=date(1997, 1, 1)),
    "d2": source("dengue2", group="+ssRNA", relatives="dengue", date=date(2021, 1, 1)),
    "e": source("ebola", group="-ssRNA", organism="Zaire ebolavirus", date=date(2020, 12, 31)),
    "p": source("plant", group="plant", date=date(2022, 5, 5)),
}


def by_groups(*names: str) -> dict[str, str]:
    return held_out(SOURCES, SplitSettings(by="groups", test_groups=list(names)))


def test_nothing_is_held_out_by_clusters_alone() -> None:
    assert held_out(SOURCES, SplitSettings()) == {}


def test_what_is_dated_on_the_day_or_later_is_held_out() -> None:
    assert held_out(SOURCES, SplitSettings(by="time", test_from=date(2021, 1, 1))) == {
        "d2": "held out: dated 2021-01-01, not before 2021-01-01",
        "p": "held out: dated 2022-05-05, not before 2021-01-01",
    }


def test_dates_that_decide_nothing_are_refused() -> None:
    settings = SplitSettings(by="time", test_from=date(2023, 1, 1))
    with pytest.raises(
        HoldoutError, match="test_from = 2023-01-01: no source is that new, the latest is of 2022-05-05"
    ):
        held_out(SOURCES, settings)
    with pytest.raises(HoldoutError, match=r"2 have none \(old, older\). Fill the column `date`"):
        held_out({**SOURCES, "x": source("older"), "y": source("older"), "z": source("old")}, settings)


def test_groups_organisms_and_words_for_relatives_are_names() -> None:
    assert by_groups("dengue") == {"d1": "held out: of dengue", "d2": "held out: of dengue"}
    assert by_groups("-ssRNA") == by_groups("Zaire ebolavirus") | {"e": "held out: of -ssRNA"}
    assert by_groups("dengue", "+ssRNA", "plant") == {
        "d1": "held out: of +ssRNA, dengue",
        "d2": "held out: of +ssRNA, dengue",
        "p": "held out: of plant",
    }


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(HoldoutError) as caught:
        by_groups("dengue", "flavi", "Ebola")
    message = str(caught.value)
    assert "unknown to the catalogue: Ebola, flavi;" in message
    assert "which are: +ssRNA, -ssRNA, Dengue virus 1, Zaire ebolavirus, dengue, plant" in message
