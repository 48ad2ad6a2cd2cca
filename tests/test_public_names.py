from __future__ import annotations

import subprocess
import sys

import pytest

import openmm_les


def test_every_public_name_resolves():
    for name in openmm_les.__all__:
        assert getattr(openmm_les, name) is not None
        assert name in dir(openmm_les)
    assert openmm_les.latent_ewald is openmm_les.electrostatics.latent_ewald


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'openmm_les' has no attribute 'nothing'"):
        openmm_les.nothing  # noqa: B018


def test_importing_the_package_needs_no_heavy_import():
    code = "import sys, openmm_les; print([m for m in ('torch', 'openmm', 'mdtraj') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
