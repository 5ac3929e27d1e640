"""Imports point one way: a package knows those before it in the list, and nothing behind it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "lib" / "llm_latency"
GROUND = ("base", "words", "errors")
PACKAGES = (
    "plan",
    "records",
    "model",
    "machine",
    "engine",
    "measure",
    "stats",
    "memory",
    "report",
    "questions",
)
FACE = ("__init__", "__main__", "doctor")
ORDER = (*GROUND, *PACKAGES)
"""Each may import what stands before it. The face may import all; nothing imports the face."""
SHELF = {f"{name}.py" for name in (*GROUND, *FACE)} | {*PACKAGES, "data", "py.typed"}
"""All that the library's own folder holds."""


def imports(text: str) -> Iterator[str]:
    """Yield what a module imports, wherever in it; ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def importing(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each file below a folder, by its path in it, with each name that it imports."""
    for file in sorted(folder.rglob("*.py")):
        for name in imports(file.read_text(encoding="utf-8")):
            yield file.relative_to(folder).as_posix(), name


def package_of(file: str) -> str:
    """Return the package of a file of the library; on the top shelf a file is its own."""
    return file.partition("/")[0].removesuffix(".py")


def floor(package: str) -> int:
    return ORDER.index(package) if package in ORDER else len(ORDER)


def points_up(file: str, name: str) -> str | None:
    """Return what an import reaches up to; ``None`` where it does not."""
    if name.startswith("."):
        return name  # does not say where it points
    library, _, inside = name.partition(".")
    if library != LIBRARY.name:
        return None
    package, own = inside.partition(".")[0], package_of(file)
    if package not in {path.stem for path in LIBRARY.iterdir()}:
        package = "__init__"  # a name of the face itself
    allowed = package == own or own not in ORDER or floor(package) < floor(own)
    return None if allowed else package


def test_no_import_points_up() -> None:
    wrong = {
        f"{file} imports {package}"
        for file, name in importing(LIBRARY)
        if (package := points_up(file, name))
    }
    assert wrong == set()


def test_every_room_is_one_of_the_house() -> None:
    assert {path.name for path in LIBRARY.iterdir()} - SHELF - {"__pycache__"} == set()


def test_an_import_that_points_up_is_seen() -> None:
    """The other test would pass as well if it saw nothing."""
    assert points_up("plan/spec.py", "llm_latency.machine.host") == "machine"
    assert points_up("machine/host.py", "llm_latency.plan.spec.Trial") is None
    assert points_up("machine/host.py", "llm_latency.machine.limits") is None
    assert points_up("errors.py", "llm_latency.words.span") is None
    assert points_up("words.py", "llm_latency.errors") == "errors"
    assert points_up("questions/sweep.py", "llm_latency.__version__") == "__init__"
    assert points_up("questions/sweep.py", "llm_latency") == "__init__"
    assert points_up("__main__.py", "llm_latency.doctor") is None
    assert points_up("plan/spec.py", "..host.state") == "..host.state"
    inside = "def f():\n    from a import b, c\nif TYPE_CHECKING:\n    import d.e as f\n"
    assert set(imports(inside)) == {"a.b", "a.c", "d.e"}


def test_only_the_engine_knows_llama_cpp() -> None:
    knowing = {
        package_of(file)
        for file, name in importing(LIBRARY)
        if name.partition(".")[0] == "llama_cpp"
    }
    assert knowing == {"engine"}


def test_benchmarks_take_of_the_tests_only_what_is_for_both() -> None:
    names = {name for _, name in importing(ROOT / "benchmarks") if name.startswith("tests")}
    assert {name for name in names if not name.startswith("tests.support.")} == set()


def test_a_measured_process_loads_nothing_that_draws() -> None:
    code = (
        "import sys\nfrom llm_latency.engine import probe, timed, worker\n"
        "print(*({'pandas', 'matplotlib', 'papermill', 'IPython', 'scipy'} & set(sys.modules)))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.split() == []
