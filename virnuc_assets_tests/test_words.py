"""The words of this project, in code, messages and docs: what the left column refuses is written as the right one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDERS = ("virnuc_assets", "virnuc_assets_tests", "benchmarks", "docs", "deploy", "data/genomes")
FILES = [PROJECT / name for name in ("README.md", "Makefile", "virnuc.toml", "pyproject.toml")]
FILES += [path for folder in FOLDERS for path in PROJECT.glob(f"{folder}/**/*") if path != Path(__file__)]
ENDINGS = {".py", ".md", ".toml", ".yaml", ".jinja", ""}

WORDS = {  # anywhere, also as a part of a name
    "mend|mended|mends": "fix",
    "told|tells": "reports, shows, prints, logs",
    "anew|once more": "again",
    "beside": "next to, in the same folder, compared with",
    "aside": "temporary file, atomic write",
    "the book": "intake log",
    "fates?": "status, disposition",
    "namesakes?": "duplicate id, name collision",
    "kinship|who is related": "relatedness, homology clusters",
    "dealt|dealing": "assign to splits",
    "barred": "excluded, held out",
    "recipes?": "provenance",
    "reap|reaps|reaper": "clean up after a crash",
    "in vain|befell|whom|begun": "failed, reason, which, started",
    "foreign.texts?": "untrusted text",
    "of ours": "our, this project's",
    "gives? up|given.up|blamed": "retries exhausted, failure count",
    "goes on|go on": "is running, has an active run, continues",
    "spoken": "supported",
    "ends all": "stops all services",
    "ask(s|ed)? again": "retried",
    "rotted": "corrupted",
    "made now": "written",
    "records? called": "classified as",
    "looks? at|looked.at|looking at|looked over": "poll, scan, evaluate, read",
    "(?:lies?|lay|stands?|stood) (?:in|there|at|below|on|next to|above|inside|within|around|under)": "is stored in, is",
    "(?:line|row|file|label|token|event|core|key|pod) an? (?:frame|record|file|batch|shard|row|asset|step)": "one per",
}
NAMES = {  # as a part of the name of a function, class, parameter or variable; a test's is a sentence
    "say": "log, echo",
    "look|looks": "poll, scan, evaluation",
    "piece|pieces": "segment",
    "letters": "sequence, bases, residues",
    "room|rooms": "buffer",
    "turned|turns": "rotary embedding, cos and sin",
    "form|forms": "execution mode",
    "deal|deals|placing": "assign to splits",
    "side|sides|held(?!_out)": "splits, excluded",
    "floor": "k-mer baseline",
    "slot|branch": "encoder role, variant",
    "silence": "read timeout",
    "attempts": "retries",
    "sign|signs": "character",
    "hold|holds": "lock",
}


def defined_names(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def findings(path: Path) -> Iterator[str]:
    """Where a word is, and what to write."""
    source, where = path.read_text(encoding="utf-8"), path.relative_to(PROJECT)
    for word, instead in WORDS.items():
        for found in re.finditer(rf"(?<![a-z])(?:{word})(?![a-z])", source, re.IGNORECASE):
            yield f"{where}:{source.count(chr(10), 0, found.start()) + 1}: {found[0]!r}, write {instead}"
    for line, name in defined_names(source) if path.suffix == ".py" else ():
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        for word, instead in NAMES.items():
            if not words.startswith("test_") and re.search(rf"(?<![a-z])(?:{word})(?![a-z])", words):
                yield f"{where}:{line}: name {name}, write {instead}"


def test_the_words_are_those_of_the_libraries() -> None:
    files = [path for path in FILES if path.suffix in ENDINGS and path.is_file()]
    assert len(files) > 100
    assert sorted(found for path in files for found in findings(path)) == []
