"""README and docs: every Python snippet runs in a process of its own, and links lead somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Blocks marked `python notest` need names that earlier text defines.
SNIPPETS = [
    pytest.param(snippet, id=f"{document.stem}-{i}")
    for document in DOCUMENTS
    for i, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", document.read_text(), re.M | re.S))
]


def test_documents_have_snippets() -> None:
    assert len(SNIPPETS) >= 10


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", snippet],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def anchors(document: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, hyphens for spaces, no other punctuation."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script that writes the tables."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    yield importlib.import_module("summary")
    for name in ("summary", "result_rows"):
        del sys.modules[name]


def test_measured_numbers_are_those_of_the_result_files(summary: ModuleType) -> None:
    for path, table in summary.TABLES.items():
        written = path.read_text().split(summary.BEGIN)[1].split(summary.END)[0]
        assert written.strip() == table(), f"{path.name}: run examples/benchmarks/summary.py --write"


def test_every_result_file_has_its_rows(summary: ModuleType) -> None:
    read = {name for section in summary.SECTIONS.values() for name in section}
    assert {path.stem for path in summary.RESULTS.glob("*.json")} <= read
