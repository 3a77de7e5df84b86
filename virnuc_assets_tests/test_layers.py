"""The walls of the package: imports only downward, bounded files and functions, definitions that load light."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "virnuc_assets"
MODULES = sorted(PACKAGE.rglob("*.py"))

DOMAIN = ["storage", "sequences", "encoders", "split", "classifier", "virnucpro", "migration", "reports"]
"""From the lowest layer to the highest; below them errors, settings, Markdown, cores, above them the orchestrator."""
FOREIGN_TO_THE_DOMAIN = {"dagster", "dagster_webserver", "dagster_shared", "mlflow"}
HEAVY = ["torch", "transformers", "mlflow", "sklearn", "sourmash", "matplotlib", "tokenizers", "peft", "pandas"]

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 500, 50, 7
MAX_LOADING_SECONDS = 3.0


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(PROJECT)) for path in paths]


def layer_of(module: str) -> int:
    """Place of a module of the package in the order of layers."""
    part = module.split(".")[1] if "." in module else ""
    if part in ("cores", "errors", "settings", "text", ""):
        return 0
    return 1 + DOMAIN.index(part) if part in DOMAIN else 1 + len(DOMAIN)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, also of those inside of functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if layer_is_told_by_the_name(base) else base


def layer_is_told_by_the_name(base: str) -> bool:
    """`from virnuc_assets import storage` names a layer only with the name that is imported."""
    return base == "virnuc_assets"


def package_of(path: Path) -> str:
    return module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]


def violations(module: str, source: str, package: str) -> list[str]:
    found = []
    for line, name in imports_of(source, package):
        root = name.split(".")[0]
        if root == "virnuc_assets" and layer_of(name) > layer_of(module):
            found.append(f"{module}:{line} imports {name}, which lies above it")
        if root in FOREIGN_TO_THE_DOMAIN and layer_of(module) <= len(DOMAIN):
            found.append(f"{module}:{line} imports {name}, which belongs to the orchestrator")
    return found


def test_there_is_a_package_for_every_layer() -> None:
    assert [name for name in DOMAIN if not (PACKAGE / name / "__init__.py").is_file()] == []
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_imports_point_downward(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8"), package_of(path)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("virnuc_assets.sequences.x", "import dagster as dg"),
        ("virnuc_assets.migration.x", "def f():\n    from mlflow.tracking import MlflowClient"),
        ("virnuc_assets.storage.x", "from virnuc_assets.sequences.reading import Record"),
        ("virnuc_assets.storage.x", "from virnuc_assets import encoders"),
        ("virnuc_assets.storage.x", "import virnuc_assets.encoders.registry"),
        ("virnuc_assets.storage.x", "from ..sequences import reading"),
        ("virnuc_assets.storage.x", "from .. import sequences"),
        ("virnuc_assets.settings", "from virnuc_assets.storage.layout import Layout"),
        ("virnuc_assets.errors", "import dagster"),
        ("virnuc_assets.migration.x", "from virnuc_assets.defs.resources import Workspace"),
        ("virnuc_assets.encoders.x", "if TYPE_CHECKING:\n    from virnuc_assets.split.assignment import Split"),
    ],
)
def test_the_rule_sees_what_is_forbidden(module: str, line: str) -> None:
    assert len(violations(module, line, module.rpartition(".")[0])) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("virnuc_assets.storage.x", "from virnuc_assets.errors import VirnucError"),
        ("virnuc_assets.storage.x", "from .schemas import frames_schema"),
        ("virnuc_assets.migration.x", "from virnuc_assets.storage.tables import read_table"),
        ("virnuc_assets.defs.assets.x", "import dagster\nfrom virnuc_assets.defs import checks"),
    ],
)
def test_the_rule_lets_pass_what_is_allowed(module: str, line: str) -> None:
    assert violations(module, line, module.rpartition(".")[0]) == []


def line_counts() -> dict[str, int]:
    return {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in zip(names(MODULES), MODULES, strict=True)
    }


def test_no_module_is_long() -> None:
    assert {name: lines for name, lines in line_counts().items() if lines > MAX_FILE_LINES} == {}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, path in zip(names(MODULES), MODULES, strict=True):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}:{node.lineno} {node.name}", node


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last one, without the docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All parameters but self and cls."""
    given = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    stars = (function.args.vararg, function.args.kwarg)
    return len([name for name in given if name not in ("self", "cls")]) + sum(star is not None for star in stars)


def test_no_function_is_long() -> None:
    assert {name: code_lines(node) for name, node in functions() if code_lines(node) > MAX_FUNCTION_LINES} == {}


def test_no_function_takes_many_parameters() -> None:
    assert {name: parameters(node) for name, node in functions() if parameters(node) > MAX_PARAMETERS} == {}


def test_package_faces_are_docstrings() -> None:
    """`virnuc_assets/__init__.py` also switches telemetry off, before any library could read the switches."""
    for path in PACKAGE.glob("*/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], path
        assert len(path.read_text(encoding="utf-8")) > 60, path


LOAD = f"""
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
from pathlib import Path
from virnuc_assets import definitions
from virnuc_assets.settings import load_settings
definitions.build_defs(load_settings(Path("virnuc.toml"))).get_repository_def()
seconds = min(time.perf_counter() - wall, time.process_time() - cpu)
print(json.dumps([seconds, [name for name in {HEAVY} if name in sys.modules]]))
"""


def load_definitions() -> tuple[float, list[str]]:
    """Seconds and heavy libraries of a process that builds the graph; waits of a busy machine do not count."""
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seconds, heavy = json.loads(done.stdout.splitlines()[-1])
    return seconds, heavy


def test_definitions_load_light_and_fast() -> None:
    best = float("inf")
    for _ in range(3):
        seconds, heavy = load_definitions()
        assert heavy == []
        best = min(best, seconds)
        if best < MAX_LOADING_SECONDS:
            break
    assert best < MAX_LOADING_SECONDS
