"""Every Python snippet of the README runs, each in a process of its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
# Blocks marked `python notest` need names that earlier text defines.
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_readme_has_snippets() -> None:
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.splitlines()[0][:40])
def test_snippet_runs(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", snippet],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_measured_numbers_are_those_of_the_result_files() -> None:
    script = README.parent / "examples" / "benchmarks" / "summary.py"
    spec = importlib.util.spec_from_file_location("summary", script)
    assert spec is not None and spec.loader is not None
    summary = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(summary)
    written = README.read_text().split(summary.BEGIN)[1].split(summary.END)[0]
    assert written.strip() == summary.table(), "run examples/benchmarks/summary.py --write"
