"""MACE and MACE-LES: the numbers of the original program, in every form the model takes."""

from __future__ import annotations

import copy
import warnings

import ase.io
import numpy as np
import pytest
import torch

from openmm_les.exceptions import CheckpointError, LicenseWarning
from openmm_les.models.adapters.convert import convert_mace
from openmm_les.models.adapters.mace_blocks import Readout, SymmetricContraction
from openmm_les.models.adapters.probes import charge_sign
from openmm_les.models.checkpoint import load_model, model_card, read_description, save_model
from tests.models.adapters.files import REFERENCES, replaced, unpack

HEADS = {"density": "second"}
# The plain one is in single precision: so are the constants inside the original's kernels.
TOLERANCES = {"maceles": 1e-10, "density": 1e-10, "plain": 1e-6}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mace")
    return {name: convert_mace(unpack(name, folder), head=HEADS.get(name)) for name in TOLERANCES}


def evaluated(model, reference):
    """Evaluation of a reference structure, each as one molecule."""
    n = len(reference["numbers"])
    return model.evaluate(
        np.array(reference["positions"]),
        np.array(reference["numbers"]),
        None if reference["cell"] is None else np.array(reference["cell"]),
        molecules=np.zeros(n, dtype=np.int64),
    )


@pytest.mark.parametrize("structure", ["molecule", "box"])
@pytest.mark.parametrize("name", list(TOLERANCES))
def test_numbers_of_the_original(models, name, structure):
    reference = REFERENCES[name][structure]
    result = evaluated(models[name], reference)
    tolerance = TOLERANCES[name]
    assert result.energy == pytest.approx(reference["energy"], abs=tolerance * len(reference["numbers"]))
    np.testing.assert_allclose(result.forces, reference["forces"], atol=tolerance)
    np.testing.assert_allclose(result.latent_charges, reference["charges"], atol=tolerance)
    assert np.abs(reference["forces"]).max() > 0.05  # the comparison compares something


@pytest.mark.parametrize("name", list(TOLERANCES))
def test_folded_and_scripted_forms_agree(models, name):
    folded = copy.deepcopy(models[name])
    folded.fold()
    scripted = torch.jit.script(folded.backbone)
    from openmm_les.neighbors import single_graph

    for reference in REFERENCES[name].values():
        n = len(reference["numbers"])
        graph = single_graph(
            torch.tensor(reference["positions"], dtype=torch.float64),
            torch.tensor(reference["numbers"]),
            None if reference["cell"] is None else torch.tensor(reference["cell"], dtype=torch.float64),
            torch.zeros(n, dtype=torch.int64),
            torch.zeros(1, dtype=torch.float64),
            folded.cutoff,
        )
        expected = models[name].backbone(graph)
        for form in (folded.backbone, scripted):
            found = form(graph)
            torch.testing.assert_close(found.energies, expected.energies, atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(found.features, expected.features, atol=1e-12, rtol=1e-12)


def test_gradients_of_a_batch_are_right(models):
    from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS, make_graph

    numbers = [[z if z != 7 else 8 for z in FORMAMIDE_NUMBERS], WATER_NUMBERS]
    graph = make_graph([FORMAMIDE, WATER], numbers, cutoff=4.0)
    backbone = models["maceles"].backbone

    def energy(positions):
        output = backbone(graph._replace(positions=positions))
        return output.energies.sum() + output.features.sum()

    positions = graph.positions.requires_grad_(True)
    assert torch.autograd.gradcheck(energy, positions, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, positions, fast_mode=True)
    alone = make_graph([WATER], [WATER_NUMBERS], cutoff=4.0)
    torch.testing.assert_close(backbone(graph).energies[6:], backbone(alone).energies)


def test_lone_atoms(models):
    model = models["maceles"]
    far = model.evaluate(
        np.array([[0.0, 0.0, 0.0], [90.0, 0.0, 0.0]]), np.array([8, 8]), molecules=[0, 1], total_charge=[0, 0]
    )
    one = model.evaluate(np.zeros((1, 3)), np.array([8]), total_charge=[0])
    assert far.energy_short_range == pytest.approx(2.0 * one.energy_short_range, abs=1e-9)
    assert np.isfinite(far.forces).all()


def test_saved_and_loaded_again(models, tmp_path):
    for name, model in models.items():
        path = tmp_path / f"{name}.safetensors"
        save_model(model, path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LicenseWarning)
            again = load_model(path)
        reference = REFERENCES[name]["molecule"]
        assert evaluated(again, reference).energy == evaluated(model, reference).energy
        assert again.metadata == model.metadata
        assert again.charge_scale == model.charge_scale
        for part in ("backbone", "charge_head"):  # everything needed stands in the description
            assert read_description(path)[part]["type"] == type(getattr(model, part)).__name__


def test_constants_come_from_the_file(models):
    solver = models["maceles"].electrostatics
    assert solver.smearing == 1.1
    assert solver.k_cutoff == pytest.approx(2.0 * np.pi / 2.2)
    assert solver.coulomb_constant == pytest.approx(90.0474 / (2.0 * np.pi))
    assert solver.self_interaction
    assert not models["plain"].electrostatics.self_interaction


def test_converged_sum_on_request(tmp_path, caplog):
    path = unpack("maceles", tmp_path)
    with pytest.warns(LicenseWarning), caplog.at_level("INFO"):
        model = load_model(path, electrostatics="converged")
    assert model.electrostatics.k_cutoff is None and model.electrostatics.self_interaction
    record = model.metadata["electrostatics"]
    assert record["sum"] == "converged" and record["was_cut_at"] == pytest.approx(2.0 * np.pi / 2.2)
    assert record["energy_difference_meV_per_atom"] != 0.0
    assert "complete sum instead of |k| <= 2.856 1/Å" in caplog.text
    sharp = convert_mace(path)
    box = REFERENCES["maceles"]["box"]
    assert evaluated(model, box).energy != evaluated(sharp, box).energy
    molecule = REFERENCES["maceles"]["molecule"]
    assert evaluated(model, molecule).energy == evaluated(sharp, molecule).energy
    with pytest.raises(ValueError, match="`electrostatics` must be"):
        load_model(path, electrostatics="other")


def test_sign_of_the_charges(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        model = convert_mace(unpack("maceles", tmp_path))
    notes = model.metadata["charge_sign"]
    # Hydrogen is negative in its weights; not so in their mirror image, and without charges nothing is clear.
    assert model.charge_scale == -1.0 and notes["correlation"] < -0.5 and not notes["ambiguous"]
    assert "ambiguous" not in caplog.text
    head = model.charge_head.forward
    for factor, sign, ambiguous in ((-1.0, 1.0, False), (0.0, 1.0, True)):
        model.charge_head.forward = lambda *arguments, by=factor: by * head(*arguments)
        found, notes = charge_sign(model)
        assert (found, notes["ambiguous"]) == (sign, ambiguous)


def test_plain_mace_has_no_charges(models):
    for structure in REFERENCES["plain"].values():
        result = evaluated(models["plain"], structure)
        assert not result.latent_charges.any() and result.energy_long_range == 0.0


def test_heads(tmp_path):
    path = unpack("density", tmp_path)
    with pytest.raises(CheckpointError, match=r"several heads \(first, second\): choose one"):
        load_model(path)
    with pytest.raises(CheckpointError, match="no head 'third', it has first, second"):
        load_model(path, head="third")
    assert load_model(path, head="first").metadata["head"] == "first"
    with pytest.raises(ValueError, match="`head` is for checkpoints of mace"):
        load_model(_saved(path, tmp_path), head="first")


def _saved(path, folder):
    target = folder / "saved.safetensors"
    save_model(load_model(path, head="first"), target)
    return target


def test_renamed_file(tmp_path):
    path = unpack("plain", tmp_path)
    other = path.rename(tmp_path / "weights.bin")
    assert load_model(other).elements == [1, 6, 8]


def test_license(tmp_path):
    path = unpack("plain", tmp_path)
    assert "not stated" in load_model(path).metadata["license"]
    assert convert_mace(path, license="MIT").metadata["license"] == "MIT"
    off = path.rename(tmp_path / "MACE-OFF23_small.model")
    with pytest.warns(LicenseWarning, match="MACE-OFF23_small.model are licensed: ASL"):
        model = load_model(off)
    save_model(model, tmp_path / "off.safetensors")
    assert "non-commercial" in model_card(str(tmp_path / "off.safetensors"))
    with pytest.warns(LicenseWarning):
        load_model(tmp_path / "off.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"mace.modules.extensions\nMACELES",
            b"mace.modules.extensions\nPolarMACE",
            "holds a mace.modules.extensions.Polar",
        ),
        (b"RealAgnosticResidualInteractionBlock", b"RealAgnosticAttResidualBlock", "the interaction"),
        (b"mace.modules.radial\nBesselBasis", b"mace.modules.radial\nOther", "the radial basis Other"),
        (b"NonLinearReadoutBlock", b"NonLinearDipoleBlock_", "the readout NonLinearDipoleBlock_"),
        (b"FullyConnectedNet", b"FullyConvolvedNet", "the radial network FullyConvolvedNet"),
        (b"torch.nn.functional\nsilu", b"torch.nn.functional\ngelu", "the activation gelu"),
        (b"weights_max", b"weights_min", "lacks 'weights_max'"),
        (b"norm_factor", b"norm_fact__", "lacks 'norm_factor' in les.module.ewald.Ewald"),
        (b"radial_embedding", b"radial_embeddin_", "lacks 'radial_embedding'"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(tmp_path, old, new, message):
    path = replaced(unpack("maceles", tmp_path), old, new)
    with pytest.raises(CheckpointError, match=message):
        convert_mace(path)


def test_broken_weights(tmp_path):
    import zipfile

    path = unpack("plain", tmp_path)
    with zipfile.ZipFile(path) as file:
        contents = {info.filename: file.read(info) for info in file.infolist()}
    largest = max((n for n in contents if "/data/" in n), key=lambda n: len(contents[n]))
    for change, message in (
        (lambda b: b"\xff" * len(b), "NaN or infinite"),
        (lambda b: b[:-8], "numbers for a tensor"),
    ):
        with zipfile.ZipFile(path, "w") as file:
            for name, content in contents.items():
                file.writestr(name, change(content) if name == largest else content)
        with pytest.raises(CheckpointError, match=message):
            load_model(path)


def test_contraction_in_pieces_is_the_full_sum():
    generator = torch.Generator().manual_seed(0)
    contraction = SymmetricContraction(2, 3, 4, 1, 5, 6, 2, 20).double()
    contraction.factors.random_(0, 5, generator=generator)
    contraction.term_rows.random_(0, 24, generator=generator)
    contraction.term_paths.random_(0, 5, generator=generator)
    contraction.term_values.normal_(generator=generator)
    x = torch.randn(7, 4, 3, dtype=torch.float64, generator=generator)
    expected = torch.zeros(7, 1, 3, dtype=torch.float64)
    extended = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    for row, path, value in zip(contraction.term_rows, contraction.term_paths, contraction.term_values):
        monomial, last = int(row) // 4, int(row) % 4
        product = extended[:, contraction.factors[monomial]].prod(1) * x[:, last]
        weights = torch.cat(
            [contraction.weights[0, path].expand(3, 3), contraction.weights[1, path].expand(4, 3)]
        )
        expected[:, 0] += value * weights * product
    torch.testing.assert_close(contraction(x, [3, 4]), expected)


@pytest.mark.parametrize("activation", ["silu", "tanh", "none"])
def test_readout(activation):
    readout = Readout([3, 4], activation, bias=True).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hidden = readout.maps[0](x)
    hidden = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "none": lambda y: y}[activation](hidden)
    torch.testing.assert_close(readout(x), readout.maps[1](hidden)[:, 0])
    torch.testing.assert_close(torch.jit.script(readout)(x), readout(x))


def test_published_model_on_its_validation_set(shared_data):
    with pytest.warns(LicenseWarning, match="CC-BY-NC"):
        model = load_model(shared_data / "models" / "maceles-dipeptides-r4.5.model")
    assert model.metadata["charge_sign"]["correlation"] > 0.8 and model.charge_scale == 1.0
    forces, energies = [], []
    for atoms in ase.io.read(shared_data / "benchmark" / "spice-dipep-dipolar_val.xyz", ":"):
        result = model.evaluate(
            atoms.positions, atoms.numbers, molecules=np.zeros(len(atoms), dtype=np.int64)
        )
        forces.append(np.abs(result.forces - atoms.arrays["force"]).ravel())
        energies.append(abs(result.energy - atoms.get_potential_energy()) / len(atoms))
    assert 1e3 * np.concatenate(forces).mean() == pytest.approx(28.4, abs=0.05)
    assert 1e3 * np.mean(energies) == pytest.approx(0.64, abs=0.005)
