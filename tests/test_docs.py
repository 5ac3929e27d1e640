"""What the documents name is there: files, tests, packages in their order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_architecture import ORDER

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
HOMES = (ROOT, ROOT / "lib" / "llm_latency", ROOT / "tests", ROOT / "notebooks", ROOT / "docs")


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w[\w.-]*/)*\w[\w.-]*\.(?:py|md|css))`", text)
    linked = re.findall(r"\]\((?!\w+://)([^)#]+)\)", text)
    missing = {name for name in named if not any((home / name).is_file() for home in HOMES)}
    missing |= {name for name in linked if not (ROOT / page).parent.joinpath(name).exists()}
    assert missing == set()


def test_tests_that_a_page_names_are_there() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    tests = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) >= 10
    files = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert {name for name in named - files if f"def {name}(" not in tests} == set()


def test_the_map_has_the_packages_in_their_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (`[^|]+) \|", text.split("## The packages")[1].split("##")[0])
    names = [name.strip("`/") for row in rows for name in row.split(", ")]
    assert names[: len(ORDER)] == list(ORDER)
