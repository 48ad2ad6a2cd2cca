"""``openmm-les train``: a model from labelled configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openmm_les.cli import label_options as labels
from openmm_les.cli.given import given_options

INSTALL = "training needs Lightning: pip install 'openmm-les[train]'"


def train(
    ctx: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="HDF5 (flat, SPICE), extended XYZ, ASE database.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the run, new.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Directory of an interrupted run to go on with.", show_default=False),
    ] = None,
    valid: Annotated[
        list[Path] | None, typer.Option(help="Validation data instead of a split.", show_default=False)
    ] = None,
    init: Annotated[
        str,
        typer.Option(help="Model to train further, by name or file; its sizes replace those given."),
    ] = "",
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.", show_default=False)] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps to take.", show_default=False)] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Minutes to train; the schedule follows.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model, kept in its file.")] = "model",
    level_of_theory: Annotated[str, typer.Option(help="Of the labels; default: what the file says.")] = "",
    reference_energies: Annotated[
        str, typer.Option(help='Of the elements, "H=-13.6,O=-2041.2", eV; default: fitted.')
    ] = "",
    groups: Annotated[str, typer.Option(help='Take these groups of the data only, "one,another".')] = "",
    group_shares: Annotated[
        str,
        typer.Option(help='Groups that join part of the passes over the data, "one=0.3,other=0.5".'),
    ] = "",
    max_force: Annotated[float, typer.Option(help="Drop configurations with larger forces, eV/Å.")] = 10.0,
    valid_fraction: Annotated[
        float, typer.Option(help="Held out by molecule where the data have no split.")
    ] = 0.1,
    max_valid: Annotated[int, typer.Option(help="Validate on so many configurations at most.")] = 1000,
    cutoff: Annotated[float, typer.Option(help="Of the short-range model, Å.")] = 4.5,
    channels: Annotated[int, typer.Option(help="Channels of scalars, vectors and tensors each.")] = 48,
    message_channels: Annotated[int, typer.Option(help="Channels of travelling vectors and tensors.")] = 8,
    layers: Annotated[int, typer.Option(help="Rounds of message passing.")] = 2,
    smearing: Annotated[float, typer.Option(help="Width of the latent charges, Å.")] = 1.0,
    batch_atoms: Annotated[int, typer.Option(help="Atoms in a batch, about.")] = 160,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 4e-3,
    weight_decay: Annotated[float, typer.Option(help="Of weight matrices.")] = 3e-2,
    warm_up: Annotated[int, typer.Option(help="Steps of rising learning rate.")] = 200,
    gradient_clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 10.0,
    ema: Annotated[float, typer.Option(help="Decay of the weights' moving average.")] = 0.997,
    energy_weight: Annotated[float, typer.Option(help="Of energies against forces, 1/Å.")] = 4.0,
    force_weight: Annotated[float, typer.Option(help="Of forces.")] = 1.0,
    late_energy_factor: Annotated[
        float, typer.Option(help="On the energies' weight in the last part of the run.")
    ] = 5.0,
    late_start: Annotated[float, typer.Option(help="Fraction of the run after which that is.")] = 0.7,
    stress: Annotated[bool, typer.Option("--stress", help="Train on stress labels, too.")] = False,
    stress_weight: Annotated[float, typer.Option(help="Of virials per atom, 1/Å.")] = 1.0,
    dipoles: Annotated[bool, typer.Option("--dipoles", help="Tune charges on dipoles, too.")] = False,
    dipole_weight: Annotated[float, typer.Option(help="Of dipoles, V/Å.")] = 1.0,
    born_charges: Annotated[
        bool, typer.Option("--born-charges", help="Tune charges on Born effective charges, too.")
    ] = False,
    born_charges_weight: Annotated[float, typer.Option(help="Of Born charges, V/Å.")] = 0.2,
    polarizability_labels: Annotated[
        bool, typer.Option("--polarizability-labels", help="Tune polarizabilities on theirs, too.")
    ] = False,
    polarizability_weight: Annotated[float, typer.Option(help="Of polarizabilities per atom, eV/Å⁴.")] = 1.0,
    molecule_weight: Annotated[
        float, typer.Option(help="Of net forces and torques on molecules among others, which tell charges.")
    ] = 0.0,
    latent_dipoles: Annotated[
        bool, typer.Option("--latent-dipoles", help="Latent dipoles beside the charges.")
    ] = False,
    latent_quadrupoles: Annotated[
        bool, typer.Option("--latent-quadrupoles", help="Latent quadrupoles, too.")
    ] = False,
    polarizability: Annotated[
        str, typer.Option(help="isotropic or tensor: dipoles that fields induce.", show_default=False)
    ] = "",
    short_range_only: Annotated[
        bool, typer.Option("--short-range-only", help="No charges: the same backbone without Coulomb.")
    ] = False,
    equilibration: Annotated[
        bool, typer.Option("--equilibration", help="Charges that equilibrate, and follow fields.")
    ] = False,
    charge_embedding: Annotated[
        bool, typer.Option("--charge-embedding", help="Energies know the charge of an atom's molecule.")
    ] = False,
    conserve: Annotated[
        str, typer.Option(help="With --equilibration, what keeps its charge: molecule or configuration.")
    ] = "molecule",
    freeze_backbone: Annotated[
        bool, typer.Option("--freeze-backbone", help="With --init: train the charges only.")
    ] = False,
    elements: Annotated[
        str, typer.Option(help='Those that the model is for, "H,O"; it refuses others. Default: all.')
    ] = "",
    charge_start: Annotated[
        float,
        typer.Option(
            help="Fraction of the run after which charges leave the elements' values; without --init."
        ),
    ] = 0.15,
    charge_gain: Annotated[
        float, typer.Option(help="By which the network counts in the charges, e; more: they learn faster.")
    ] = 0.1,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 1000,
    patience: Annotated[
        int, typer.Option(help="Stop after so many validations without a better one; 0: do not.")
    ] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the log for TensorBoard, too.")
    ] = False,
    save_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of weights, order and splits.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    accelerator: Annotated[str, typer.Option(help="Lightning's name: auto, cpu, gpu.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes on a node, one per device.")] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes.")] = 1,
    strategy: Annotated[str, typer.Option(help="Lightning's name: auto, ddp …")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    energy_key: labels.EnergyKey = "",
    forces_key: labels.ForcesKey = "",
    stress_key: labels.StressKey = "",
    dipole_key: labels.DipoleKey = "",
    born_charges_key: labels.BornChargesKey = "",
    polarizability_key: labels.PolarizabilityKey = "",
    charge_key: labels.ChargeKey = "",
    energy_unit: labels.EnergyUnit = "",
    length_unit: labels.LengthUnit = "",
    force_unit: labels.ForceUnit = "",
    stress_unit: labels.StressUnit = "",
    dipole_unit: labels.DipoleUnit = "",
    born_charges_order: labels.BornChargesOrder = "polarisation-displacement",
) -> None:
    """Train a model on energies and forces; charges come out of them alone, unless told otherwise.

    Ctrl-C saves and stops; --resume goes on. The best model by validation is kept in
    model.safetensors, its card in CARD.md, the errors along the way in log.csv and curves.png.
    """
    given = dict(locals())
    del given["ctx"]
    try:
        from openmm_les.training import trainer
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lightning":
            raise
        raise ImportError(INSTALL) from error
    from openmm_les.training.settings import TrainingSettings

    if resume is not None:
        others = sorted(given_options(ctx) - {"resume"})
        if others:
            raise ValueError(
                f"a run resumes with the settings it has: --resume goes without {others[0]}. To train "
                "further or otherwise, start a new run from its model with --init"
            )
        finished = trainer.resume_training(resume)
    else:
        if not data or output is None:
            raise ValueError("give data files and --output, or --resume a run")
        for key in ("resume", "output"):
            del given[key]
        if init and Path(init).is_file():
            given["init"] = str(Path(init).resolve())
        given["data"] = tuple(str(path.resolve()) for path in data)
        given["valid"] = tuple(str(path.resolve()) for path in valid or [])
        finished = trainer.train(TrainingSettings(**given), output)
    if not finished:
        raise typer.Exit(130)


__all__ = ["train"]
