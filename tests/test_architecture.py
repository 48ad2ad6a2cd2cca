"""Who may import whom; the arrows of the design, read from the source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import openmm_les

ROOT = Path(openmm_les.__file__).parent

# Layer of a module or subpackage of openmm_les: it may import layers below its own, and itself.
LAYERS = {
    "units": 0,
    "exceptions": 0,
    "elements": 0,
    "memory": 0,
    "folders": 1,
    "graph": 1,
    "neighbors": 1,
    "pairs": 1,
    "records": 1,
    "molecules": 1,
    "electrostatics": 2,
    "models": 3,
    "training": 4,
    "analysis": 4,
    "engine": 4,
    "ase": 4,
    "embedding": 5,
    "cli": 6,
}
# Beside the layers: training, analysis, engine and ase do not know each other, and the embedding
# builds on the engine alone.
FORBIDDEN = {
    ("embedding", "ase"),
    ("embedding", "training"),
    ("embedding", "analysis"),
}
# Third-party packages that only some parts may import.
RESERVED = {
    "openmm": {"engine", "embedding", "cli"},
    "openmmtorch": {"engine"},
    "openmmml": {"embedding"},
    "mdtraj": {"analysis", "cli"},
}
# All that the electrostatics may use beside itself, of the package and of others.
ELECTROSTATICS_ALLOWED = {"__future__", "functools", "math", "typing", "torch", "openmm_les.neighbors"}


def part_of(path: Path) -> str:
    """Subpackage or module of openmm_les that a source file belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(source: str, package: str) -> Iterator[str]:
    """Dotted names that a source text imports anywhere, relative ones resolved in ``package``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join(kept + ([base] if base else []))
            if base == "openmm_les":
                for alias in node.names:
                    yield f"openmm_les.{alias.name}"
            else:
                yield base


def allowed(part: str, target: str) -> bool:
    """Whether the layers let ``part`` import ``target``; the two lowest are of one piece each."""
    below, above = LAYERS[target], LAYERS[part]
    return below < above or below == above <= 1


def violations(part: str, imported: str) -> list[str]:
    """What is wrong when a file of ``part`` imports the dotted name ``imported``."""
    found = []
    words = imported.split(".")
    if words[0] == "openmm_les":
        target = words[1] if len(words) > 1 else "__init__"
        if part == "__init__":
            if target == "cli":
                found.append("nobody imports cli")
        elif target not in LAYERS:
            found.append(f"{target} has no layer (the public names are for users)")
        elif part != target and not allowed(part, target):
            found.append("against the arrows")
        elif (part, target) in FORBIDDEN:
            found.append("these two do not know each other")
    elif words[0] in RESERVED and part not in RESERVED[words[0]]:
        found.append(f"{words[0]} belongs to {', '.join(sorted(RESERVED[words[0]]))}")
    own = words[:2] == ["openmm_les", "electrostatics"]
    if part == "electrostatics" and not own and imported not in ELECTROSTATICS_ALLOWED:
        found.append("electrostatics is torch only")
    return found


def sources() -> list[tuple[str, str, str]]:
    """Part, relative path and text of every source file."""
    paths = sorted(ROOT.rglob("*.py"))
    return [(part_of(p), str(p.relative_to(ROOT)), p.read_text()) for p in paths]


def test_every_part_has_a_layer():
    parts = {part for part, _, _ in sources()} - {"__init__"}
    assert parts <= set(LAYERS), f"give these a layer in this test and in the design: {parts - set(LAYERS)}"


@pytest.mark.parametrize(
    ("part", "path", "text"), sources(), ids=lambda value: value if len(value) < 60 else ""
)
def test_imports_follow_the_arrows(part, path, text):
    package = ".".join(["openmm_les", *Path(path).parent.parts])
    wrong = [f"{name}: {v}" for name in imports_of(text, package) for v in violations(part, name)]
    assert not wrong, f"openmm_les/{path} imports {wrong}"


@pytest.mark.parametrize(
    ("part", "imported"),
    [
        ("electrostatics", "openmm_les.models.model"),
        ("electrostatics", "numpy"),
        ("electrostatics", "openmm_les.units"),
        ("training", "openmm_les.analysis.dipoles"),
        ("training", "openmm_les.engine"),
        ("engine", "openmm_les.embedding"),
        ("ase", "openmm_les.engine"),
        ("ase", "openmm"),
        ("embedding", "openmm_les.ase"),
        ("engine", "openmm_les.training"),
        ("embedding", "openmm_les.analysis"),
        ("models", "openmm"),
        ("models", "openmm_les.cli.main"),
        ("engine", "openmmml"),
        ("engine", "mdtraj"),
        ("analysis", "openmm_les.cli.main"),
        ("units", "openmm_les.graph"),
        ("units", "openmm_les.models.model"),
        ("models", "openmm_les"),
        ("__init__", "openmm_les.cli.main"),
    ],
)
def test_the_rules_catch_violations(part, imported):
    assert violations(part, imported)


@pytest.mark.parametrize(
    ("part", "imported"),
    [
        ("electrostatics", "openmm_les.neighbors"),
        ("electrostatics", "openmm_les.electrostatics.isolated"),
        ("engine", "openmm.unit"),
        ("embedding", "openmmml.models.utils"),
        ("embedding", "openmm_les.engine.boundary"),
        ("graph", "torch"),
        ("models", "openmm_les.electrostatics"),
        ("cli", "openmm_les.analysis.plots"),
        ("elements", "openmm_les.units"),
    ],
)
def test_the_rules_allow_the_arrows(part, imported):
    assert not violations(part, imported)


def test_imports_are_found_in_every_form():
    text = (
        "import a.b, c\nfrom d.e import f\nfrom . import g\nfrom .h import i\nfrom ..j import k\n"
        "from openmm_les import l\ndef late():\n    import m\n"
    )
    found = set(imports_of(text, "openmm_les.models"))
    assert found == {
        "a.b", "c", "d.e", "openmm_les.models", "openmm_les.models.h", "openmm_les.j", "openmm_les.l", "m",
    }  # fmt: skip
