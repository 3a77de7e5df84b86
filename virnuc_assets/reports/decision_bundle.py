"""A decision on disk: its evidence, its prediction tables, and the pages that can be computed again from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.decision import Decision, canonical, decide
from virnuc_assets.migration.evidence import Evidence, VariantEvidence
from virnuc_assets.reports.decision_report import markdown_summary, render_html
from virnuc_assets.settings import DecisionSettings, EvaluationSettings
from virnuc_assets.storage.atomic import atomic_folder
from virnuc_assets.storage.tables import read_table, write_table

EVIDENCE_FILE = "evidence.json"
DECISION_FILE = "migration_decision.json"
REPORT_FILE = "migration_decision.html"
SUMMARY_FILE = "migration_decision.md"
# What else decides the bytes of the pages.
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyarrow", "matplotlib", "jinja2")
_SHOWN = 100
_ROW_DIGEST = "row_digest"  # a column of each stored table, so that a row that was altered can be named
_EXAMPLES = 5
_FRAME_RULES = "frame_rules.parquet"


@dataclass(frozen=True)
class Bundle:
    """All that a decision and its pages are computed from."""

    evidence: Evidence
    settings: DecisionSettings
    evaluation: EvaluationSettings
    links: tuple[tuple[str, str], ...] = ()

    def pages(self) -> tuple[Decision, dict[str, str]]:
        """The decision, and its pages by file name."""
        decision = decide(self.evidence, self.settings, self.evaluation)
        return decision, {
            DECISION_FILE: decision.to_json(),
            REPORT_FILE: render_html(decision, self.evidence, self.links),
            SUMMARY_FILE: markdown_summary(decision),
        }


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the bytes of the pages."""
    return {f"version.{name}": version(name) for name in _LIBRARIES}


def write_bundle(folder: Path, bundle: Bundle) -> Decision:
    """Write evidence and tables, decide on what was written, and write the pages; the folder is replaced as a whole."""
    with atomic_folder(folder) as partial:
        evidence = canonical(_stored(bundle, partial), indent=2) + "\n"
        (partial / EVIDENCE_FILE).write_text(evidence, encoding="utf-8")
        decision, pages = _read(partial)[0].pages()  # as everybody will read it: a dict may have another order by now
        for name, text in pages.items():
            (partial / name).write_text(text, encoding="utf-8")
    return decision


def recompute(folder: Path) -> tuple[Decision, list[str]]:
    """Decide again from a folder's evidence and tables alone.

    Returns:
        The decision, and everything that is not byte for byte as stored: altered rows of tables, pages, and where in
        the decision's JSON values differ. Empty if all is reproduced.

    Raises:
        VirnucError: evidence or a table is absent or damaged; it is named.
    """
    bundle, faults = _read(folder)
    decision, pages = bundle.pages()
    for name, text in pages.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path}: absent")
        elif path.read_bytes() != text.encode():
            faults.append(f"{path}: not what the evidence gives{_where(name, path, text)}")
    if faults:
        was, now = bundle.evidence.environment, library_versions()
        faults += [f"{name} was {was[name]}, is {now[name]}" for name in now if name in was and was[name] != now[name]]
    return decision, faults


def _where(name: str, path: Path, text: str) -> str:
    if name != DECISION_FILE:
        return ""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f" ({error})"
    found = list(_differences("", stored, json.loads(text)))
    more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ":" + "".join(f"\n  {line}" for line in found[:_SHOWN]) + more


def _differences(path: str, stored: Any, found: Any) -> list[str]:  # noqa: ANN401  (whatever JSON holds)
    if isinstance(stored, dict) and isinstance(found, dict):
        keys = sorted(stored.keys() | found.keys())
        return [line for key in keys for line in _differences(f"{path}.{key}", stored.get(key), found.get(key))]
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        pairs = enumerate(zip(stored, found, strict=True))
        return [line for i, (one, other) in pairs for line in _differences(f"{path}[{i}]", one, other)]
    return [] if stored == found else [f"{path[1:]}: stored {stored!r}, computed {found!r}"]


def _stored(bundle: Bundle, folder: Path) -> dict[str, Any]:
    evidence = bundle.evidence
    return {
        "benchmark": evidence.benchmark,
        "benchmark_problems": evidence.benchmark_problems,
        "environment": evidence.environment,
        "variants": {
            role: {**vars(one), "predictions": _store(one.predictions, folder / _predictions(one.variant))}
            for role, one in evidence.variants.items()
        },
        "also_compared": [variant.variant for variant in evidence.also_compared],
        "ablations": {name: _store(table, folder / _ablation(name)) for name, table in evidence.ablations.items()},
        "frame_rules": _store(evidence.frame_rules, folder / _FRAME_RULES),
        "settings": bundle.settings.model_dump(mode="json"),
        "evaluation": bundle.evaluation.model_dump(mode="json"),
        "links": bundle.links,
    }


def _predictions(variant: str) -> str:
    return f"predictions/{variant}.parquet"


def _ablation(encoder: str) -> str:
    return f"ablations/{encoder}.parquet"


def _store(table: pa.Table | None, path: Path) -> str | None:
    """Write a table, if there is one, with a digest of each row, and return the digest of all of them."""
    if table is None:
        return None
    digests = _row_digests(table)
    write_table(path, table.append_column(_ROW_DIGEST, pa.array(digests, pa.string())), {"table": "stored predictions"})
    return _joined(digests)


def _read(folder: Path) -> tuple[Bundle, list[str]]:
    path = folder / EVIDENCE_FILE
    if not path.is_file():
        raise VirnucError(
            f"{path}: not found; expected the folder of a migration decision, which holds {EVIDENCE_FILE}, "
            f"{DECISION_FILE} and the folders predictions and ablations"
        )
    faults: list[str] = []
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        variants = {}
        for role, found in stored["variants"].items():
            rows = _read_table(folder / _predictions(found["variant"]), found["predictions"], faults)
            variants[role] = VariantEvidence(**{**found, "predictions": rows, "problems": tuple(found["problems"])})
        evidence = Evidence(
            **{role: variants[role] for role in ("candidate", "baseline", "kmer_baseline")},
            also_compared=tuple(variants[role] for role in stored["also_compared"]),
            ablations={
                name: _read_table(folder / _ablation(name), digest, faults)
                for name, digest in stored["ablations"].items()
            },
            frame_rules=_read_table(folder / _FRAME_RULES, stored["frame_rules"], faults),
            benchmark=stored["benchmark"],
            benchmark_problems=tuple(stored["benchmark_problems"]),
            environment=stored["environment"],
        )
        settings = DecisionSettings.model_validate(stored["settings"])
        evaluation = EvaluationSettings.model_validate(stored["evaluation"])
        links = tuple((str(text), str(address)) for text, address in stored["links"])
    except (ValueError, KeyError, TypeError) as error:
        raise VirnucError(f"{path}: not the evidence of a decision: {type(error).__name__}: {error}") from error
    return Bundle(evidence, settings, evaluation, links), faults


def _read_table(path: Path, digest: str | None, faults: list[str]) -> pa.Table | None:
    """A table, if one was stored; adds to the faults which rows were altered, or that rows came, went or moved."""
    if digest is None:
        return None
    stored = read_table(path)
    table, digests = stored.drop_columns([_ROW_DIGEST]), stored[_ROW_DIGEST].to_pylist()
    rows = zip(table.column(0).to_pylist(), digests, _row_digests(table), strict=True)
    if altered := [str(row_id) for row_id, written, found in rows if written != found]:
        more = f" and {len(altered) - _EXAMPLES} more" if len(altered) > _EXAMPLES else ""
        named = f"{', '.join(altered[:_EXAMPLES])}{more}"
        faults.append(f"{path}: {len(altered)} of {table.num_rows} rows were altered: {named}")
    elif _joined(digests) != digest:
        faults.append(f"{path}: rows were added, removed or moved; {table.num_rows} are there")
    return table


def _joined(digests: list[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _row_digests(table: pa.Table) -> list[str]:
    columns = [table[name].to_pylist() for name in table.column_names]
    return [hashlib.sha256(repr(row).encode()).hexdigest()[:16] for row in zip(*columns, strict=True)]
