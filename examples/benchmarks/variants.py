"""What the benchmarks of variants of one model share: training alike, resuming, calls timed in turn."""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from model_speed import peptide

import openmm_les
from openmm_les.engine.compile import freeze
from openmm_les.models.checkpoint import read_description
from openmm_les.training.recorder import LAST
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.trainer import MODEL, SETTINGS, resume_training, train


def add_options(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """Options of training the variants ``names``."""
    parser.add_argument("run", type=Path, help="folder of the runs")
    parser.add_argument("--init", default="peptide-gfn2-small", help="model that all start from")
    parser.add_argument("--minutes", type=float, default=6.0, help="of training each, wall time")
    parser.add_argument("--steps", type=int, help="of training each, in place of minutes: on a busy machine")
    parser.add_argument("--accelerator", default="cpu", help="to train on, as Lightning names it")
    parser.add_argument(
        "--only", choices=names, help="train and evaluate this one, no table; several may run side by side"
    )


def budget(options: argparse.Namespace) -> dict[str, float]:
    """How long each variant trains, by the unit that says so."""
    return {"steps": options.steps} if options.steps else {"minutes": options.minutes}


def variant(
    name: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    evaluate: Callable[[Path], dict[str, Any]],
) -> dict[str, Any] | None:
    """What ``evaluate`` finds of a variant's model, from its file where that is there.

    Parameters
    ----------
    name : of the variant; its run lies in this folder of the runs
    options : see `add_options`
    settings : of the training, beside what the options say
    evaluate : from the file of a trained model to its errors, JSON-ready

    Returns
    -------
    found : with the number of ``steps`` trained; None where Ctrl-C stopped the training

    Raises
    ------
    SystemExit
        Its run was made with other settings.
    """
    run, kept = options.run / name, options.run / f"{name}.json"
    training = TrainingSettings(
        init=options.init,
        **{f"max_{unit}": length for unit, length in budget(options).items()},
        accelerator=options.accelerator,
        threads=1,
        name=name,
        **settings,
    )
    if (run / SETTINGS).is_file() and TrainingSettings.read(run / SETTINGS) != training:
        raise SystemExit(f"{run} was trained with other settings: name another folder, or remove it")
    if not kept.exists():
        finished = resume_training(run) if (run / LAST).is_file() else train(training, run)
        if not finished:
            return None
        kept.write_text(json.dumps(evaluate(run / MODEL)))
    # Of the same minutes, steps that cost more are fewer.
    steps = read_description(run / MODEL)["metadata"]["validation"]["step"]
    return json.loads(kept.read_text()) | {"steps": steps}


def times_of_calls(models: Mapping[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Wall median, processor median and least processor time of a call by model name, ms.

    Energy and forces of capped alanine (22 atoms), frozen script, one thread. The models take turns, so
    that what else the machine does meets all of them.
    """
    torch.set_num_threads(1)
    calls = {}
    for name, path in models.items():
        force, arguments = peptide(openmm_les.load_model(path))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
            calls[name] = partial(freeze(torch.jit.script(force)), *arguments)
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    with torch.jit.optimized_execution(False):
        for call in calls.values():
            for _ in range(5):
                call()
        for _ in range(rounds):
            for name, call in calls.items():
                start, used = time.perf_counter(), time.process_time()
                call()
                wall[name].append(1e3 * (time.perf_counter() - start))
                processor[name].append(1e3 * (time.process_time() - used))
    return {
        name: {
            "median_ms": statistics.median(wall[name]),
            "median_cpu_ms": statistics.median(processor[name]),
            "least_cpu_ms": min(processor[name]),
        }
        for name in calls
    }
