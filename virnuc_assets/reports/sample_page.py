"""The report of a sample: one page, readable offline, for a person who did not run it; and pictures for the Dagster UI.

The table of all records is stored compressed, by column, and shown by a script of the page, 50 records at a time.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from virnuc_assets.classifier.calls import MIN_VIRAL_FRACTION, VIRUS
from virnuc_assets.classifier.sample_calls import UNCERTAIN, SampleCalls, runs
from virnuc_assets.encoders.registry import is_kmer
from virnuc_assets.reports import pages
from virnuc_assets.reports.pages import picture
from virnuc_assets.reports.sample_charts import (
    COLUMNS,
    SHOWN,
    VARIABLES,
    by_call,
    call_codes,
    drawn_rows,
    lengths_svg,
    probability_svg,
    track,
)
from virnuc_assets.sequences.planning import starts_of
from virnuc_assets.text import markdown_cell, printable

ROWS = 50  # of the table at a time
_BLOCK = 20_000  # of it at a time that are made Python objects
MOST_ROWS, MOST_ID_BYTES = 500_000, 20_000_000  # in the page; of more, the first in its order
_REASONS = 8  # why records are not scored, the most frequent
_PICTURED = 4  # tracks in the metadata of the asset
_LONGEST_ID = 80  # characters in them
_LISTED = 100  # stretches of a track
_LOW = 0.75  # a highest probability below it is nearer to a coin toss than to certainty
FEW_CHUNKS, FEW_SHARE = 5, 0.25  # scored, of a record: below either, its call rests on few data
_WHY_NOT = {  # named as the ledger names why a record is not scored
    "chunks_dropped_stop": "no open frame",
    "chunks_dropped_empty": "no unambiguous codon",
    "chunks_dropped_ambiguous": "ambiguous bases",
    "chunks_dropped_no_cds": "no CDS evidence",
}
_WORDS = {
    **{name: f"chunks not scored: {why}" for name, why in _WHY_NOT.items()},
    **{name.replace("chunks", "frames"): f"frames not scored: {why}" for name, why in _WHY_NOT.items()},
    "frames_dropped_stop": "frames not scored: stop codons",
    "chunks_kept": "chunks scored",
    "frames_kept": "frames scored",
    "step_epochs": "epochs from one learning rate to the next",
    "step_gamma": "factor of the learning rate per step",
    "patience": "epochs without improvement until it ends",
    "min_confidence": "least probability for a call of a chunk",
    "max_error": "highest expected error of a record's call",
    "min_length": "least length of a record, nt",
    "min_orf_aa": "least length of a stretch, residues",
    "device": "device setting",
}


def write_html(path: Path, calls: SampleCalls, run: Mapping[str, Any]) -> None:
    """Write the page; `run` is what `run.json` holds: model, settings, inputs, totals."""
    records = calls.records
    order = _order(records)
    drawn = drawn_rows(records)
    names = _names(records["source"]) if len(run["inputs"]) > 1 else []
    texts, noted = note_texts(calls.max_error), notes(records, calls.max_error)
    block, chunks = functools.partial(_block, records, noted), records["chunks"]
    environment = _environment()
    script = environment.get_template("records.js.jinja").render()
    charts = {"probability": probability_svg(calls), "lengths": lengths_svg(records)}
    page = environment.get_template("sample.html.jinja").stream(
        summary=_summary(calls, noted),
        run=run,
        temperature=run["model"]["trained_on"].get("temperature"),
        calls=calls,
        shown=len(order),
        first=block(order[:ROWS]),
        names=names,
        sources=[printable(PurePath(each["source"]).name) for each in run["inputs"][:3]],
        stated=lambda bits: [text for bit, text in enumerate(texts) if int(bits) >> bit & 1],
        noted=noted,
        drawn=drawn,
        drawn_calls=Counter(records["call"].take(pa.array(drawn, pa.int64())).to_pylist()),
        tracks_in_columns=any(chunks[row].as_py() > COLUMNS for row in drawn),
        data=_packed(block, order, {"names": names, "drawn": drawn, "notes": texts}),
        script=Markup(script),  # noqa: S704 -- a file of this package
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        charts={name: Markup(svg) for name, svg in charts.items() if svg},  # noqa: S704 -- holds no text of a sample
        tracks=(track(calls, row) for row in drawn),
    )
    page.dump(str(path), encoding="utf-8")


def pictures(calls: SampleCalls) -> str:
    """Markdown with the distribution of probabilities and a few tracks as pictures, for metadata of an asset."""
    svg = probability_svg(calls)
    found = ["Orange is virus, grey uncertain, blue other; hatched stretches of a record have no score."]
    if svg:
        found.append(f"![Distribution of the probability of virus]({picture(svg)})")
    template = _environment().get_template("track_picture.svg.jinja")
    for row in drawn_rows(calls.records)[:_PICTURED]:
        shown = track(calls, row)
        name = markdown_cell(cut(shown.record["record_id"]))
        svg = template.render(track=shown, calls=calls)
        facts = f"{shown.record['call']}, {shown.record['length_nt']:,} nt"
        found.append(f"**{name}**: {facts}\n\n![Track]({picture(svg)})")
    return "\n\n".join(found) if len(found) > 1 else "No record is scored, so there is nothing to draw."


@functools.cache
def _environment() -> jinja2.Environment:
    environment = pages.environment()
    environment.filters.update(certainty=certainty, cut=cut, printable=printable, flat=pages.flat)
    environment.filters.update(means=means, longest=longest, moment=moment, is_kmer=is_kmer)
    environment.globals.update(call_names=SHOWN, variables=VARIABLES, why_not=_WHY_NOT, words=_WORDS)
    environment.globals.update(viral_share=MIN_VIRAL_FRACTION, few_chunks=FEW_CHUNKS, few_share=FEW_SHARE)
    environment.globals.update(low_probability=_LOW, most_listed=_LISTED)
    return environment


def _order(records: pa.Table) -> np.ndarray:
    """Rows as the table has them: virus, uncertain, other, not scored; the longest of each first, as many as fit."""
    order = np.lexsort((-records["length_nt"].to_numpy(), call_codes(records)))
    sizes = np.cumsum(pc.binary_length(records["record_id"]).to_numpy()[order], dtype=np.int64)
    return order[: min(MOST_ROWS, int(np.searchsorted(sizes, MOST_ID_BYTES, "right")))]


def _names(sources: pa.ChunkedArray) -> list[str]:
    """Of the inputs, in the order in which they occur: without their folders where they differ without them."""
    paths = pc.unique(sources).to_pylist()
    names = [PurePath(path).name for path in paths]
    return [printable(name) for name in (names if len(set(names)) == len(names) else paths)]


def notes(records: pa.Table, max_error: float) -> np.ndarray:
    """What to know of a call, (records,) uint8: bit i is set where text i of `note_texts` holds."""
    scored, chunks = (records[name].to_numpy() for name in ("chunks_scored", "chunks"))
    few = (scored > 0) & ((scored < FEW_CHUNKS) | (scored < FEW_SHARE * chunks))
    probability = records["probability"].to_numpy()
    between = np.maximum(probability, 1.0 - probability) < 1.0 - max_error  # never of NaN
    uncertain = np.asarray(pc.equal(records["call"], UNCERTAIN))
    return np.asarray(few + 2 * (uncertain & between) + 4 * (uncertain & ~between) + 8 * are_novel(records), np.uint8)


def note_texts(max_error: float) -> list[str]:
    """What `notes` are about."""
    between = f"between {max_error} and {round(1 - max_error, 4)}"
    return ["few data", between, "vote of the chunks and mean disagree", "resembles nothing in training"]


def are_novel(records: pa.Table) -> np.ndarray:
    """Which records share no protein k-mer with those trained on, (records,) bool."""
    return np.asarray(records["novelty"].to_numpy() == 1.0)


def _packed(block: Callable[[np.ndarray], dict[str, Any]], rows: np.ndarray, facts: Mapping[str, Any]) -> Markup:
    """The table as the page's script reads it: JSON, deflated, in base64. No more than a block is held as objects."""
    packing = zlib.compressobj()
    text = json.dumps({**facts, "calls": SHOWN, "rows": ROWS}, separators=(",", ":"))
    found = [packing.compress(f'{text[:-1]},"blocks":['.encode())]
    for start in range(0, len(rows), _BLOCK):
        text = json.dumps(block(rows[start : start + _BLOCK]), separators=(",", ":"))
        found.append(packing.compress(f"{',' if start else ''}{text}".encode()))
    found += [packing.compress(b"]}"), packing.flush()]
    return Markup(base64.b64encode(b"".join(found)), "ascii")  # noqa: S704 -- in base64


def _block(records: pa.Table, noted: np.ndarray, rows: np.ndarray) -> dict[str, list[Any]]:
    """Some rows of the table by column; calls and inputs as their numbers, shares in 1 / 10,000."""
    chosen = records.take(pa.array(rows))
    numbers = ("length_nt", "chunks", "chunks_scored", "chunks_viral", "chunks_uncertain", "longest_viral_nt")
    return {
        "row": rows.tolist(),
        "id": [printable(one) for one in chosen["record_id"].to_pylist()],
        "source": pc.index_in(chosen["source"], value_set=pc.unique(records["source"])).to_pylist(),
        "call": call_codes(chosen).tolist(),
        "reason": [one and printable(one) for one in chosen["reason"].to_pylist()],
        "notes": noted[rows].tolist(),
        "probability": pc.round(pc.multiply(chosen["probability"], 10_000)).cast(pa.int32()).to_pylist(),
        "novelty": pc.floor(pc.multiply(chosen["novelty"], 10_000)).cast(pa.int32()).to_pylist(),  # 1 only of nothing
        **{name: chosen[name].to_pylist() for name in numbers},
    }


def _summary(calls: SampleCalls, noted: np.ndarray) -> dict[str, Any]:
    """What the first screen says, in numbers."""
    records, codes, few, novel = calls.records, call_codes(calls.records), noted & 1 > 0, are_novel(calls.records)
    counts = np.bincount(codes, minlength=len(SHOWN))
    lengths = np.bincount(codes, records["length_nt"].to_numpy(), len(SHOWN)).astype(np.int64)
    reasons = Counter[str]()
    for each in pc.value_counts(records["reason"].drop_null()).to_pylist():
        reasons[each["values"].partition(": ")[0]] += each["counts"]  # what follows may name another record
    is_virus = codes == SHOWN.index(VIRUS)
    viral = records["probability"].to_numpy()[is_virus]
    return {
        "counts": dict(zip(SHOWN, counts.tolist(), strict=True)),
        "lengths": dict(zip(SHOWN, lengths.tolist(), strict=True)),
        "reasons": reasons.most_common(_REASONS),
        "more_reasons": sum(reasons.values()) - sum(count for _, count in reasons.most_common(_REASONS)),
        "virus": (viral.min(), float(np.median(viral)), viral.max()) if len(viral) else (),
        "chunks": {call: int(which.sum()) for call, which in by_call(calls.probability, calls.min_confidence).items()},
        "few": int(few.sum()),
        "few_virus": int((few & is_virus).sum()),
        "unscored_nt": unscored_nt(calls),
        "novel": int(novel.sum()),
        "novel_virus": int((novel & is_virus).sum()),
    }


def unscored_nt(calls: SampleCalls) -> int:
    """Nucleotides of all records that no scored chunk covers."""
    offsets, lengths = calls.offsets, calls.records["length_nt"].to_numpy()
    first, last, record = runs(np.isnan(calls.probability), offsets)
    begin, length_nt = offsets[record], lengths[record]
    before, after = (starts_of(each - begin, length_nt, calls.chunk_length) for each in (first - 1, last + 1))
    left = np.where(first == begin, 0, before + calls.chunk_length)
    right = np.where(last + 1 == offsets[record + 1], length_nt, after)
    return int(np.maximum(right - left, 0).sum() + lengths[offsets[1:] == offsets[:-1]].sum())


def certainty(probability: float | None) -> str:
    """A probability to four digits, as in `summary.tsv`; one that would round to 0 or 1 is only bounded."""
    if probability is None:
        return pages.NOTHING
    digits = f"{probability:.4f}"
    return {"1.0000": "> 0.9999", "0.0000": "< 0.0001"}.get(digits, digits)


def cut(text: str) -> str:
    """One line of at most 80 characters."""
    line = printable(text)
    return line if len(line) <= _LONGEST_ID else f"{line[: _LONGEST_ID - 1]}…"


def moment(text: str) -> str:
    """A time of `run.json` as people write it."""
    return text.replace("T", " ").replace("+00:00", " UTC")


def means(found: Sequence[tuple[int, int, float]]) -> list[str]:
    """Stretches as text, 1-based and closed, with their mean probability: the highest first."""
    ordered = sorted(found, key=lambda one: -one[2])
    return [f"{begin + 1:,}–{end:,} ({mean:.3f})" for begin, end, mean in ordered]


def longest(found: Sequence[tuple[int, int]]) -> list[str]:
    """Stretches as text, 1-based and closed: the longest first."""
    return [f"{begin + 1:,}–{end:,}" for begin, end in sorted(found, key=lambda one: one[0] - one[1])]
