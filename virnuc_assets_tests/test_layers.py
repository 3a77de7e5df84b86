"""The structure of the package: imports only downward, no circles, bounded files and functions."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "virnuc_assets"
PATHS = sorted(PACKAGE.rglob("*.py"))

DOMAIN = ["storage", "sequences", "encoders", "split", "classifier", "virnucpro", "migration", "reports"]
"""From the lowest layer to the highest; below them the loose modules, above them the orchestrator."""
ORCHESTRATOR = {"defs", "cli", "workstation", "definitions"}
FOREIGN = {
    "dagster": ORCHESTRATOR,
    "dagster_webserver": ORCHESTRATOR,
    "dagster_shared": ORCHESTRATOR,
    "mlflow": {"defs", "workstation"},
}
MAX_LOOSE_MODULES, MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 8, 500, 50, 7


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PATHS}


def imports_of(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of all that is imported, also inside functions: the module, and what is taken from it."""
    package = module.split(".") if MODULES.get(module, Path()).name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer_of(module: str) -> int:
    part = part_of(module)
    if part in ORCHESTRATOR:
        return len(DOMAIN) + 1
    return DOMAIN.index(part) + 1 if part in DOMAIN else 0


def violations(module: str, source: str) -> list[str]:
    found = []
    for line, name in imports_of(module, source):
        root = name.split(".")[0]
        if root == "virnuc_assets" and layer_of(name) > layer_of(module):
            found.append(f"{module}:{line} imports {name}, which is above it")
        if part_of(module) not in FOREIGN.get(root, {part_of(module)}):
            found.append(f"{module}:{line} imports {name}, which only {', '.join(sorted(FOREIGN[root]))} may")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line", "count"),
    [
        ("virnuc_assets.sequences.x", "import dagster as dg", 1),
        ("virnuc_assets.migration.x", "def f():\n    from mlflow.tracking import MlflowClient", 1),
        ("virnuc_assets.cli.x", "import mlflow", 1),
        ("virnuc_assets.storage.x", "from virnuc_assets.sequences.reading import Record", 1),
        ("virnuc_assets.storage.x", "from virnuc_assets import encoders", 1),
        ("virnuc_assets.storage.x", "from .. import sequences", 1),
        ("virnuc_assets.settings", "from virnuc_assets.storage.layout import Layout", 1),
        ("virnuc_assets.migration.x", "from virnuc_assets.defs.resources import Workspace", 1),
        ("virnuc_assets.encoders.x", "if TYPE_CHECKING:\n    from virnuc_assets.split.assignment import Split", 1),
        ("virnuc_assets.storage.x", "from virnuc_assets.errors import VirnucError\nfrom .schemas import a", 0),
        ("virnuc_assets.migration.x", "from virnuc_assets.storage.tables import read_table", 0),
        ("virnuc_assets.defs.assets.x", "import dagster, mlflow\nfrom virnuc_assets.defs import checks", 0),
    ],
)
def test_the_rule_sees_what_is_forbidden(module: str, line: str, count: int) -> None:
    assert len(violations(module, line)) == count


def test_no_modules_import_each_other_in_a_circle() -> None:
    """`prepare` raises with the circle."""
    graph = {}
    for module, path in MODULES.items():
        names = {name for _, name in imports_of(module, path.read_text(encoding="utf-8"))}
        found = names | {name.rpartition(".")[0] for name in names}
        graph[module] = {one for one in found & MODULES.keys() if MODULES[one].name != "__init__.py"}
    assert sum(map(len, graph.values())) > len(graph)
    TopologicalSorter(graph).prepare()


def test_modules_are_in_packages_and_packages_say_what_belongs_there() -> None:
    """`virnuc_assets/__init__.py` also switches telemetry off, before any library could read the switches."""
    assert [name for name in DOMAIN if not (PACKAGE / name / "__init__.py").is_file()] == []
    loose = [path.name for path in PACKAGE.glob("*.py")]
    assert len(loose) <= MAX_LOOSE_MODULES, loose
    for path in PACKAGE.glob("*/__init__.py"):
        source = path.read_text(encoding="utf-8")
        assert [type(node) for node in ast.parse(source).body] == [ast.Expr] and len(source) > 60, path


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}:{node.lineno} {node.name}", node


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last one, without the docstring."""
    return lines_of(function) - (lines_of(function.body[0]) if ast.get_docstring(function) is not None else 0)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All parameters but self and cls."""
    given = function.args
    found = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return len([argument for argument in found if argument.arg not in ("self", "cls")])


def test_files_and_functions_are_bounded() -> None:
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PATHS}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}
    assert {name: code_lines(node) for name, node in functions() if code_lines(node) > MAX_FUNCTION_LINES} == {}
    assert {name: parameters(node) for name, node in functions() if parameters(node) > MAX_PARAMETERS} == {}


def threaded_plans(source: str) -> list[int]:
    """Lines that have Arrow's engine compute in its own threads: a grouping, or a table filtered by an expression."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [(call, call.func.attr) for call in calls if isinstance(call.func, ast.Attribute)]
    grouped = [call for call, name in named if name == "group_by" and "use_threads=False" not in ast.unparse(call)]
    filtered = [call for call, name in named if name == "filter" and "pc.field(" in ast.unparse(call.args)]
    return [call.lineno for call in (*grouped, *filtered)]


@pytest.mark.parametrize("path", PATHS, ids=module_name)
def test_no_thread_of_arrow_may_be_the_last_to_release_memory(path: Path) -> None:
    """NumPy's takes Python's lock then, and a process that ends meanwhile is aborted (apache/arrow 34314 and 36389)."""
    assert threaded_plans(path.read_text()) == []
