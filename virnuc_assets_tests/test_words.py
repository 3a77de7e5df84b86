"""The words of this project, in code, messages and docs: what the left column refuses is written as the right one."""

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDERS = ("virnuc_assets", "virnuc_assets_tests", "benchmarks", "docs", "deploy", "data/genomes")
FILES = [PROJECT / name for name in ("README.md", "Makefile", "virnuc.toml", "pyproject.toml")]
FILES += [path for folder in FOLDERS for path in PROJECT.glob(f"{folder}/**/*") if path != Path(__file__)]
ENDINGS = (".py", ".md", ".toml", ".yaml", ".jinja", "")

WORDS = {  # anywhere, also as a part of a name
    "mend|mended|mends|anew|once more": "fix; again",
    "told|tells": "reports, shows, prints, logs",
    "beside|aside": "next to, compared with; temporary file, atomic write",
    "the book|fates?|namesakes?": "intake log; status, disposition; duplicate id, name collision",
    "kinship|who is related|dealt|dealing|barred": "relatedness, homology clusters; assign to splits; excluded",
    r"(?<!virnuc\.)recipes?|foreign.texts?|of ours": "provenance; untrusted text; our, this project's",
    "reap|reaps|reaper|ends all": "clean up after a crash; stops all services",
    "in vain|befell|whom|begun|spoken|rotted": "failed; reason; which; started; supported; corrupted",
    "gives? up|given.up|blamed|ask(s|ed)? again": "retries exhausted, failure count; retried",
    "goes on|go on|made now|records? called": "is running, has an active run; written; classified as",
    "looks?.at|looked.at|looking at|looked over": "poll, scan, evaluate, read",
    "(?:lies?|lay|stands?|stood) (?:in|there|at|below|on|next to|above|inside|within|under)": "is stored in, is",
    "(?:line|row|file|label|token|event|core|key|pod) an? (?:frame|record|file|batch|shard|row|asset|step)": "one per",
}
NAMES = {  # as a part of what a function, class, parameter or variable is called; a test's name is a sentence
    "say|look|looks|attempts": "log, echo; poll, scan, evaluation; retries",
    "piece|pieces|letters|signs": "segment; sequence, bases, residues; character",
    "room|rooms|turns": "buffer; rotary embedding, cos and sin",
    "deal|deals|placing": "assign to splits",
    "floor|slot|branch": "k-mer baseline; encoder role; variant",
    "silence": "read timeout",
}


def defined_name(node: ast.AST) -> str:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return name
    return ""


def findings(path: Path) -> list[str]:
    """Where a word is, and what to write."""
    source, found = path.read_text(encoding="utf-8"), list[str]()
    for left, right in WORDS.items():
        for word in re.finditer(rf"(?<![a-z])(?:{left})(?![a-z])", source, re.IGNORECASE):
            line = source.count("\n", 0, word.start()) + 1
            found.append(f"{path.relative_to(PROJECT)}:{line}: {word[0]!r}, write {right}")
    for node in ast.walk(ast.parse(source)) if path.suffix == ".py" else ():
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name := defined_name(node)).lower()
        for left, right in NAMES.items():
            if not name.startswith("test_") and re.search(rf"(?<![a-z])(?:{left})(?![a-z])", words):
                found.append(f"{path.relative_to(PROJECT)}:{node.lineno}: name {name}, write {right}")
    return found


def test_the_words_are_those_of_the_libraries() -> None:
    files = [path for path in FILES if path.suffix in ENDINGS and path.is_file()]
    assert len(files) > 100
    assert [found for path in files for found in findings(path)] == []
