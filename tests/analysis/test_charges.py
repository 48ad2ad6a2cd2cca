"""Charges and Born charges of frames: against the model itself, finite differences and sum rules."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest

from openmm_les.analysis.charges import ChargeModel, sum_rule_violation
from openmm_les.analysis.dipoles import CellDipole, MoleculeSums, compute_dipoles
from openmm_les.analysis.rendering import draw_charges
from openmm_les.analysis.trajectories import TrajectorySource
from openmm_les.exceptions import UnknownElementError
from openmm_les.models.equilibration import equilibrate_charges
from tests.analysis.systems import BOX, bound_model, jittered, places_of, topology_of, trajectory_of
from tests.builders import small_model

NAMES = ["HOH", "FOR", "HOH", "CL"]


def total_dipole(model: ChargeModel, positions: np.ndarray, cells: np.ndarray | None) -> np.ndarray:
    """Σ q r of one frame whose molecules are in one piece, [3]."""
    frame = None if cells is None else cells[None]
    return model.charges(positions[None], frame)[0] @ positions


@pytest.mark.parametrize("cell", [None, BOX], ids=["isolated", "triclinic"])
def test_charges_and_energies_are_those_of_evaluate(cell):
    les_model = small_model(cutoff=4.0)
    model = bound_model(NAMES, les_model, total_charge=-1, batch_atoms=30)
    frames = jittered(places_of(NAMES), 5)
    cells = None if cell is None else np.repeat(cell[None], 5, axis=0)
    charges = model.charges(frames, cells)
    energies = model.energies(frames, cells)
    for k in range(5):
        alone = les_model.evaluate(frames[k], model.numbers, cell, model.molecule_charges, model.molecules)
        np.testing.assert_allclose(charges[k], alone.latent_charges, atol=1e-12)
        assert energies.short_range[k] == pytest.approx(alone.energy_short_range, abs=1e-9)
        # The constant sum may run by the mesh, whose tolerance is 1e-4 in forces.
        assert energies.long_range[k] == pytest.approx(alone.energy_long_range, abs=1e-6)


def test_scale_and_permittivity_act_once_each():
    plain = bound_model(["FOR"])
    scaled = bound_model(["FOR"], small_model(cutoff=4.0, charge_scale=-2.0), epsilon_infinity=1.8)
    frames = places_of(["FOR"])[None]
    expected = -2.0 * np.sqrt(1.8) * plain.charges(frames)
    np.testing.assert_allclose(scaled.charges(frames), expected, atol=1e-12)
    np.testing.assert_allclose(scaled.born_charges(frames), -2 * np.sqrt(1.8) * plain.born_charges(frames),
                               atol=1e-12)  # fmt: skip


@pytest.mark.parametrize("cell", [None, BOX], ids=["isolated", "triclinic"])
def test_born_charges_are_derivatives_of_the_dipole(cell):
    model = bound_model(NAMES, total_charge=-1)
    places = places_of(NAMES)
    cells = None if cell is None else cell[None]
    born = model.born_charges(places[None], cells)[0]
    step = 1e-4
    for atom in (0, 1, 4, 9, 12):
        for axis in range(3):
            moved = np.repeat(places[None], 2, axis=0)
            moved[:, atom, axis] += [step, -step]
            up, down = (total_dipole(model, x, cell) for x in moved)
            np.testing.assert_allclose(born[atom, :, axis], (up - down) / (2 * step), atol=2e-7)


def test_a_large_box_is_as_good_as_none():
    model = bound_model(NAMES, total_charge=-1)
    frames = jittered(places_of(NAMES), 2)
    cells = np.repeat(40.0 * np.eye(3)[None], 2, axis=0)
    np.testing.assert_allclose(
        model.born_charges(frames, cells), model.born_charges(frames), rtol=0, atol=1e-12
    )


def test_the_formula_with_phases_agrees_in_the_limit_of_a_large_box():
    # Zhong, Kim and Cheng (2025): P_α = Σ q exp(i k r_α)/(i k), Z = Re[exp(-i k r_α) ∂P_α/∂r], k = 2π/L.
    model = bound_model(["FOR"])
    places = places_of(["FOR"])
    born = model.born_charges(places[None])[0]
    length, step = 400.0, 1e-4
    k = 2 * np.pi / length

    def polarization(x: np.ndarray) -> np.ndarray:
        charges = model.charges(x[None], length * np.eye(3)[None])[0]
        return (charges[:, None] * np.exp(1j * k * x)).sum(0) / (1j * k)

    for atom in (0, 3):
        for axis in range(3):
            moved = np.repeat(places[None], 2, axis=0)
            moved[:, atom, axis] += [step, -step]
            slope = (polarization(moved[0]) - polarization(moved[1])) / (2 * step)
            phases = np.exp(-1j * k * places[atom])
            np.testing.assert_allclose(born[atom, :, axis], (phases * slope).real, atol=2e-4)


@pytest.mark.parametrize("total_charge", [-1.0, [0.0, 1.0, 0.0, -1.0]])
def test_acoustic_sum_rule(total_charge):
    model = bound_model(NAMES, total_charge=total_charge)
    born = model.born_charges(jittered(places_of(NAMES), 3), np.repeat(BOX[None], 3, axis=0))
    assert model.total_charge == np.sum(total_charge)
    assert (sum_rule_violation(born, model.total_charge) < 1e-10).all()
    # The charges respond: without that, Born charges would be multiples of the identity.
    assert np.abs(born[..., 0, 1]).max() > 1e-3


def test_single_precision_and_batches_change_little():
    double = bound_model(NAMES, total_charge=-1)
    single = bound_model(NAMES, total_charge=-1, precision="single", batch_atoms=1)
    frames = jittered(places_of(NAMES), 3) + 1000.0  # far from the origin
    np.testing.assert_allclose(single.born_charges(frames), double.born_charges(frames), atol=2e-5)


def test_dipoles_do_not_depend_on_where_the_molecules_lie():
    model = bound_model(NAMES, total_charge=-1)
    frames = jittered(places_of(NAMES), 4)
    sums = MoleculeSums(model.molecules, model.masses)
    charges = model.charges(frames)
    cell, of_molecules = CellDipole(sums).update(charges, frames, None)
    moved, moved_molecules = CellDipole(sums).update(charges, frames + np.array([5.0, -3.0, 40.0]), None)
    np.testing.assert_allclose(moved, cell, atol=1e-10)
    np.testing.assert_allclose(moved_molecules, of_molecules, atol=1e-10)


def test_no_dipole_where_charge_flows_between_molecules_of_a_cell():
    model = small_model(cutoff=4.0)
    equilibrate_charges(model, conserve="configuration")
    bound = bound_model(["HOH", "HOH"], model)
    places = places_of(["HOH", "HOH"])[None]
    assert bound.born_charges(places).shape == (1, 6, 3, 3)  # without a cell
    with pytest.raises(ValueError, match="dipole and Born charges depend on the images"):
        bound.born_charges(places, BOX[None])
    trajectory = trajectory_of(topology_of(["HOH", "HOH"]), places, BOX)
    with pytest.raises(ValueError, match="dipole and Born charges depend on the images"):
        compute_dipoles(TrajectorySource(trajectory), bound)


def test_two_atoms_are_drawn(tmp_path):
    topology = mdtraj.Topology()
    residue = topology.add_residue("HCL", topology.add_chain())
    atoms = [topology.add_atom(s, mdtraj.element.Element.getBySymbol(s), residue) for s in ("H", "Cl")]
    topology.add_bond(*atoms)
    for n in (1, 2):
        draw_charges(
            topology.subset(range(n)), np.eye(3)[:n], np.array([0.2, -0.2])[:n], tmp_path / f"{n}.png", "HCl"
        )
        assert (tmp_path / f"{n}.png").stat().st_size > 1000


def test_what_cannot_be_bound_is_said():
    les_model = small_model()
    with pytest.raises(ValueError, match="no bond to"):
        bare = mdtraj.Topology()
        residue = bare.add_residue("HOH", bare.add_chain())
        for name in ("O", "H"):
            bare.add_atom(name, mdtraj.element.Element.getBySymbol(name), residue)
        ChargeModel.from_topology(les_model, bare)
    topology = topology_of(["HOH"])
    topology.add_atom("M", mdtraj.element.virtual, topology.residue(0))
    with pytest.raises(UnknownElementError, match="virtual sites"):
        ChargeModel.from_topology(les_model, topology)
    with pytest.raises(ValueError, match="cannot be shared"):
        bound_model(["HOH", "HOH"], les_model, total_charge=1)
    with pytest.raises(ValueError, match="`epsilon_infinity` must be at least 1"):
        bound_model(["HOH"], les_model, epsilon_infinity=0.5)
    with pytest.raises(ValueError, match="`precision` must be one of"):
        bound_model(["HOH"], les_model, precision="half")
    model = bound_model(["HOH"], les_model)
    with pytest.raises(ValueError, match=r"`positions` must have shape \[n_frames, 3, 3\]"):
        model.charges(np.zeros((1, 4, 3)))
    with pytest.raises(ValueError, match=r"`cells` must have shape \[1, 3, 3\]"):
        model.charges(np.zeros((1, 3, 3)), np.eye(3))
