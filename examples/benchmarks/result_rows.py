"""What each benchmark measured, in words: rows of a table from the JSON that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Rows = list[tuple[str, str]]
"""What was measured, and the number in words."""


def shipped_model(result: dict[str, Any]) -> Rows:
    """Held-out errors of a shipped model."""
    every, neutral = result["all"], result["dipole_neutral"]
    data = f"{every['configurations']} held-out configurations of {result['data'][0]}"
    errors = (
        f"forces {1000 * every['force_mae']:.1f} meV/Å, energies {1000 * every['energy_mae']:.1f} meV/atom"
    )
    if every["stress"]:
        errors += f", stress r {every['stress']['r']:.3f}"
    if neutral:
        errors += f"; dipoles (never trained on, neutral) r {neutral['r']:.3f}, slope {neutral['slope']:.2f}"
    return [(f"`{result['model']}` on {data}", errors)]


def nve(result: dict[str, Any]) -> Rows:
    """Energy drift of an isolated molecule."""
    drifts = ", ".join(
        f"{result[p]['drift_kJ_per_mol_per_ps']:+.4f} ({p})" for p in ("single", "double") if p in result
    )
    time = result["single"]["picoseconds"]
    return [(f"NVE of {result['molecule']}, {time:g} ps at 0.5 fs, drift in kJ/mol/ps", drifts)]


def nvt(result: dict[str, Any]) -> Rows:
    """Bonds kept at constant temperature."""
    run = result["single"]
    return [
        (
            f"NVT of {result['molecule']}, {run['picoseconds']:g} ps at 300 K",
            f"{run['frames_with_changed_bonds']} of {run['frames']} frames with a broken bond",
        )
    ]


def step_time(result: dict[str, Any]) -> Rows:
    """Time of a step of the demo system against its force field alone."""
    rows = []
    atoms = f"{result['atoms']['ml']} of {result['atoms']['total']} atoms ML"
    if result["platform"] != "CPU":
        atoms += f", {result['device']}"
    for name, row in result["times"].items():
        if name.startswith("mixed"):
            rows.append(
                (
                    f"a step of the demo ({atoms}), {name}",
                    f"{row['ms_per_step']:.1f} ms, {row['ratio']:.1f} × the force field alone",
                )
            )
    return rows


def multipole_speed(result: dict[str, Any]) -> Rows:
    """Least processor time of a box of water with multipoles."""
    times = ", ".join(f"{name} {t['least_ms']:.0f} ms" for name, t in result["processor_times"].items())
    return [(f"{result['atoms']} atoms of water, energy and forces, processor time", times)]


def electrostatics(result: dict[str, Any], key: str = "least_cpu_ms") -> Rows:
    """Time (``key``) of the Coulomb sum alone against other codes, energy and forces."""
    rows = []
    where = "" if key == "least_cpu_ms" else f", {result['device']}"
    for atoms in sorted({entry["atoms"] for entry in result["results"]}):
        times = {e["code"]: e[key] for e in result["results"] if e["atoms"] == atoms}
        memory = {e["code"]: e["memory_mib"] for e in result["results"] if e["atoms"] == atoms}["ours"]
        own = times.pop("ours")
        others = {name: time for name, time in times.items() if not name.startswith("ours")}
        ratios = ", ".join(f"{name} {time / own:.3g} ×" for name, time in others.items())
        rows.append(
            (
                f"Coulomb sum of {atoms} atoms, energy and forces{where}",
                f"{own:.1f} ms and {memory:.0f} MiB; {ratios} the time",
            )
        )
    return rows


def named(name: str, atoms: int) -> str:
    """A system with its size; boxes of water once held fewer waters than they were asked for."""
    waters = f"{atoms // 3} waters" if name.endswith("waters") else name
    return f"{waters} ({atoms} atoms)"


def cuda_graphs(result: dict[str, Any]) -> Rows:
    """A force call on a GPU."""
    return [
        (
            f"force call of {named(name, found['atoms'])} on one {result['device']}",
            f"{found['replayed: median_ms']:.2f} ms as a CUDA graph, "
            f"{found['one by one: median_ms']:.2f} ms kernel by kernel",
        )
        for name, found in result["systems"].items()
    ]


def overhead(result: dict[str, Any]) -> Rows:
    """What the long range adds to a model's step."""
    added = ", ".join(
        f"{100 * e['added_median_of_rounds']:.1f} % ({e['atoms']} atoms)" for e in result["results"]
    )
    where = f" on one {result['device']}" if "platform" in result else ""
    return [(f"long range of `{result['model']}` in OpenMM, added to its short range{where}", added)]


def water_nve(result: dict[str, Any]) -> Rows:
    """Energy drift of a box of water."""
    drift = result["drift_kJ_per_mol_per_ps_per_molecule"]
    what = f"NVE of {result['waters']} waters, all ML, {result['picoseconds']:g} ps, {result['precision']}"
    return [(what, f"drift {drift:+.5f} kJ/mol/ps per molecule")]


def embedding_interactions(result: dict[str, Any]) -> Rows:
    """Interaction energies of embedded peptides against quantum chemistry."""
    rows = []
    for name, found in result["errors"].items():
        rmse = ", ".join(f"{e} {found[e]['rmse']:.1f}" for e in ("mechanical", "electrostatic"))
        rows.append((f"{name} ({found['geometries']}), RMSE to {result['reference']} in kJ/mol", rmse))
    return rows


def embedding_nve(result: dict[str, Any]) -> Rows:
    """Energy drift of a solvated peptide."""
    names = ("force field", "mechanical", "electrostatic")
    drifts = ", ".join(f"{n} {result[n]['drift_kJ_per_mol_per_ps']:+.2f}" for n in names)
    time = result["electrostatic"]["picoseconds"]
    what = f"NVE of a peptide in water, {result['atoms']} atoms, {time:g} ps, drift in kJ/mol/ps"
    return [(what, drifts)]


def embedding_time(result: dict[str, Any]) -> Rows:
    """Time of a step with an embedded ligand."""
    ratios = ", ".join(f"{n} {t['ratio']:.2f} ×" for n, t in result["times"].items() if n != "force field")
    atoms = result["atoms"]
    load = f"{result['device']}, load average {result['load_average']:.0f}"
    what = f"a step with {atoms['ml']} of {atoms['total']} atoms ML, against the force field ({load})"
    return [(what, ratios)]


def embedding_box_size(result: dict[str, Any]) -> Rows:
    """Energy of a charged ligand in growing boxes."""
    slopes = ", ".join(
        f"{name} {result[name]['slope_kJ_nm_per_mol']:.1f}" for name in ("force field", "electrostatic")
    )
    law = f"law {result['law_kJ_nm_per_mol']:.1f} kJ nm/mol"
    what = f"Charged ligand in boxes of edge L, coefficient of 1/L, {law}"
    return [(what, slopes)]


def literature(data: str, result: dict[str, Any]) -> Rows:
    """The built-in model on data of the LES papers, beside the best published model there."""
    errors, settings = result["errors"], result["model"]
    title, best = next(iter(result["published"].items()))

    def words(row: dict[str, float]) -> str:
        text = f"{row['force_mae_mev_per_angstrom']:.1f} meV/Å, {row['energy_mae_mev_per_atom']:.2f} meV/atom"
        if row.get("born_charge_r_squared", 0.0) > 0.0:  # there are none without charges
            text += f", Born charges r² {row['born_charge_r_squared']:.3f}"
        return text

    kind = "short range only" if settings["short_range_only"] else f"charge gain {settings['charge_gain']:g}"
    if settings.get("latent_dipoles", False):  # older results had none
        kind += ", latent dipoles"
    what = f"LES papers' {data}, built-in model, {settings['minutes']:g} min on one core, {kind}"
    return [(f"{what}, seed {settings['seed']}", f"{words(errors)}; {title} {words(best)}")]


def budget(result: dict[str, Any]) -> str:
    """How long variants were trained."""
    return f"{result['steps']} steps" if "steps" in result else f"{result['minutes']:g} min"


def extensions(result: dict[str, Any]) -> Rows:
    """What each extension of latent charges buys."""
    rows = []
    for name, found in result["variants"].items():
        forces = [found[f"force_mae_{k}mev_per_angstrom"] for k in ("", "charged_", "probes_")]
        numbers = (
            f"forces {forces[0]:.1f}, of charged molecules {forces[1]:.1f}, among ions {forces[2]:.1f} "
            "meV/Å; "
            f"dipoles r {found['dipole_neutral']['r']:.3f}; Born charges r² "
            f"{found['born_charges']['r_squared']:.3f}"
        )
        if found["polarizability"] is not None:
            alpha = found["polarizability"]
            numbers += f"; polarizabilities r {alpha['r']:.3f}, slope {alpha['slope']:.2f}"
        steps = f"{found['steps']} steps in {budget(result)}"
        rows.append((f"`{Path(result['init']).stem}`, {steps} further, {name}", numbers))
    if "calls" in result:
        times = ", ".join(f"{name} {call['least_cpu_ms']:.2f}" for name, call in result["calls"].items())
        rows.append(("a call of these, 22 atoms, frozen script, least processor time in ms", times))
    return rows


def extensions_nve(result: dict[str, Any]) -> Rows:
    """Energy drift with each kind of charges."""
    rows = []
    for name, run in result["runs"].items():
        what = (
            f"NVE of {result['molecule']}, {name}, {run['atoms']} atoms, {run['picoseconds']:g} ps at 0.5 fs"
        )
        drift, spread = run["drift_kJ_per_mol_per_ps"], run["fluctuation_kJ_per_mol"]
        rows.append((what, f"drift {drift:+.4f} kJ/mol/ps, fluctuation {spread:.3f} kJ/mol"))
    return rows


def charge_states(result: dict[str, Any]) -> Rows:
    """What the molecule's charge in the backbone buys."""
    rows = []
    for name, found in result["variants"].items():
        forces = [found[f"force_mae_{state}_mev_per_angstrom"] for state in ("neutral", "cation")]
        ionisation = found["ionisation_energy_ev"]
        what = f"cations and neutral parents, {budget(result)} further, {name}"
        numbers = (
            f"forces {forces[0]:.1f} (neutral) and {forces[1]:.1f} meV/Å (cations); ionisation energies "
            f"MAE {ionisation['mae']:.2f} eV, r {ionisation['r']:.3f}"
        )
        rows.append((what, numbers))
    return rows


def ion_response(result: dict[str, Any]) -> Rows:
    """What an ion induces, by kind of charge."""
    rows = []
    for way in ("Cl- to water", "Cl- to peptide"):
        found = {name: row for name, row in result[way].items() if name != "GFN2-xTB"}
        energies = ", ".join(f"{n} {row['energy_rmse_kJ_per_mol']:.1f}" for n, row in found.items())
        dipoles = ", ".join(f"{n} {row['induced_dipole_rmse_debye']:.2f}" for n, row in found.items())
        rows.append((f"{way}, 3 to 7 Å, RMSE to GFN2-xTB of energies in kJ/mol", energies))
        rows.append((f"{way}, 3 to 7 Å, RMSE to GFN2-xTB of induced dipoles in D", dipoles))
    return rows


def walls(key: str, verb: str, result: dict[str, Any]) -> Rows:
    """Energies along a distance, beside their reference."""
    rows = []
    for name, wall in result[key].items():
        energies = dict(wall["energies_eV"])
        reference = energies.pop("GFN2-xTB")
        for model, values in energies.items():
            numbers = []
            for distance in wall["marked_angstrom"]:
                i = wall["distances_angstrom"].index(distance)
                numbers.append(f"{values[i]:.2f} at {distance:g} Å ({reference[i]:.2f})")
            rows.append((f"`{model}`, {verb} {name}, eV (GFN2-xTB)", ", ".join(numbers)))
    return rows


def stability_molecules(result: dict[str, Any]) -> Rows:
    """Bonds of molecules that the model has not seen."""
    runs = result["molecules"].values()
    broken, frames = (sum(r[k] for r in runs) for k in ("frames_with_changed_bonds", "picoseconds"))
    times = [r["picoseconds"] // result["copies"] for r in runs]
    length = f"{result['copies']} × {' to '.join(map(str, sorted({min(times), max(times)})))} ps each"
    step = f"{result['time_step_fs']:g} fs with hydrogens of {result['hydrogen_mass_Da']:g} Da"
    what = (
        f"NVT of {len(runs)} unseen peptides and ligands at {result['temperature_K']:g} K, {length}, {step}"
    )
    return [(what, f"{broken} of {frames} frames with a broken bond")]


def charges_against_gfn2(result: dict[str, Any]) -> Rows:
    """Born charges and dipoles, never trained on, beside the level of theory."""
    test = result["test"]
    born, dipoles = test["born_charges"], test["dipoles"]
    return [
        (
            f"`{result['model']}` on {test['configurations']} held-out configurations of {result['data']}",
            f"Born charges (never trained on) r² {born['r2']:.3f}, slope {born['slope']:.2f}, "
            f"MAE {born['mae']:.3f} e; dipoles r² {dipoles['r2']:.3f}, slope {dipoles['slope']:.2f}",
        )
    ]


def model_speed(result: dict[str, Any]) -> Rows:
    """Force call of the scripted model on one thread."""
    setting = f"`{result['model']}`, one thread, {result['device']}"
    return [
        (
            f"force call of {named(name, row['atoms'])}, {setting}",
            f"{row['times']['script, optimised']['median_ms']:.1f} ms",
        )
        for name, row in result["systems"].items()
    ]


def kept_memory(result: dict[str, Any]) -> Rows:
    """Force calls with and without freed memory kept."""
    rows = []
    for box in result["boxes"]:
        kept, given_back = box["kept"], box["given_back"]
        rows.append(
            (
                f"force call of {box['waters']} waters, freed memory kept against given back",
                f"{kept['processor_median_ms']:.0f} against {given_back['processor_median_ms']:.0f} ms, "
                f"{kept['page_faults']:.0f} against {given_back['page_faults']:.0f} page faults, "
                f"{kept['largest_MB']:.0f} against {given_back['largest_MB']:.0f} MB",
            )
        )
    return rows


def mace_comparison(result: dict[str, Any]) -> Rows:
    """A published architecture in OpenMM, beside openmm-ml's own path."""
    rows = []
    for box in result["boxes"]:
        ours, theirs = box["engines"]["les python"], box["engines"]["mace"]
        times = " against ".join(f"{e['processor_seconds_per_step']:.2f}" for e in (ours, theirs))
        memory = " against ".join(f"{e['peak_memory_MB']:.0f}" for e in (ours, theirs))
        rows.append(
            (
                f"a converted MACE, {box['atoms']} atoms of water, against openmm-ml's own MACE",
                f"{times} processor seconds a step, {memory} MB",
            )
        )
    return rows
