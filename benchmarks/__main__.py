"""A make target: its module's figures, measured in a scratch folder, printed with their limits, and written.

A module has a function `measure`, and OPTIONS: a default and a help each. A default of several words is a choice of
them, of which some may be given; of False, a flag.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.common import CONSOLE, ROOT


def main(target: str, arguments: list[str]) -> int:
    """The status of a target: 1 if a figure misses its limit."""
    module = importlib.import_module(f"benchmarks.{target.replace('-', '_')}")
    parser = argparse.ArgumentParser(f"make {target}", description=module.__doc__)
    file = ROOT / f"var/bench/{target.removeprefix('bench-')}.json"
    parser.add_argument("--out", type=Path, default=file, help="file of figures")
    for name, (default, text) in module.OPTIONS.items():
        kind: dict[str, Any] = {"type": type(default)}
        if default is False:
            kind = {"action": "store_true"}
        elif isinstance(default, tuple):
            kind = {"nargs": "*", "choices": default}
        text = f"{text} (default {' '.join(default) if isinstance(default, tuple) else default})"
        parser.add_argument(f"--{name}", default=default, help=text, **kind)
    given = parser.parse_args(arguments)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target}-", dir=given.out.parent, ignore_cleanup_errors=True) as scratch:
        figures, limits = module.measure(given, Path(scratch))
    given.out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    ranges = {name: limit for name, limit in limits.items() if name in figures}
    table = Table("figure", "value", "at least", "at most")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}", *(f"{bound:.6g}" for bound in ranges.get(name, ())))
    CONSOLE.print(table, f"written to {given.out}")
    missed = [name for name, (low, high) in ranges.items() if not low <= figures[name] <= high]
    if missed:
        CONSOLE.print(f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
