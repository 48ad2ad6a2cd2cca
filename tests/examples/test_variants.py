"""Training of a benchmark's variants: what was made with other settings is not taken for a result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def variants(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import variants

    return variants


def test_a_run_of_other_settings_is_no_result(variants, tmp_path):
    from openmm_les.training.settings import TrainingSettings

    def options(steps: int) -> argparse.Namespace:
        return argparse.Namespace(run=tmp_path, init="", steps=steps, minutes=1.0, accelerator="cpu")

    run = tmp_path / "charges"
    run.mkdir()
    made = TrainingSettings(data=("x.h5",), max_steps=7, accelerator="cpu", threads=1, name="charges")
    made.write(run / "settings.json")
    (tmp_path / "charges.json").write_text(json.dumps({"force": 1.0}))
    with pytest.raises(SystemExit, match="charges was trained with other settings"):
        variants.variant("charges", options(8), {"data": ("x.h5",)}, lambda path: {})
    with pytest.raises(SystemExit, match="charges was trained with other settings"):
        variants.variant("charges", options(7), {"data": ("y.h5",)}, lambda path: {})
