from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from openmm_les.engine import routes
from openmm_les.engine.doctor import diagnose
from openmm_les.engine.files import load_system, system_from_xml
from openmm_les.exceptions import RouteError
from tests.engine.builders import ROUTES_HERE

GOOD = {"openmmtorch": "1.5", "torch": "2.9.1", "openmm": "8.5.2"}


@pytest.fixture
def install(monkeypatch):
    """Pretend that packages have the given versions; None = not installed."""

    def pretend(**versions):
        found = {**GOOD, **versions}
        monkeypatch.setattr(routes, "installed_version", lambda package: found.get(package))

    return pretend


@pytest.mark.parametrize(
    "versions, reason",
    [
        ({"openmmtorch": None}, "openmmtorch not installed"),
        ({"torch": "2.13.0"}, "never seen to work together"),
        ({"torch": "2.10.0"}, "never seen to work together"),
        ({"torch": "2.7.1"}, "never seen to work together"),
        ({"openmmtorch": "1.6"}, "never seen to work together"),
        ({"openmm": "8.6.1"}, "kills the process"),
        ({"openmm": "8.3.1"}, "kills the process"),
    ],
)
def test_versions_that_crash_are_refused_with_what_to_install(install, versions, reason):
    install(**versions)
    status = routes.available_routes()["torchforce"]
    assert not status.available
    assert reason in status.reason
    assert "pip install 'openmm-les[torchforce]'" in status.reason
    with pytest.raises(RouteError, match=reason):
        routes.choose_route("torchforce")
    with pytest.raises(RouteError, match=reason):
        routes.import_torchforce()


@pytest.mark.parametrize("openmm", ["8.4.0", "8.5.1", "8.5.2"])
def test_versions_that_work_are_accepted(install, openmm):
    install(openmm=openmm)
    assert routes.available_routes()["torchforce"].available


def test_auto_takes_the_first_that_works_and_says_why(install, caplog):
    caplog.set_level(logging.INFO)
    install()
    assert routes.choose_route() == "torchforce"
    install(openmm="8.6.1", torch="2.13.0", openmmtorch=None)
    assert routes.choose_route() == "python"
    assert "route python: openmm 8.6.1 has PythonForce" in caplog.text
    assert "torchforce: openmmtorch not installed" in caplog.text


def test_no_route_at_all(install):
    install(openmm="8.3.0")
    with pytest.raises(RouteError, match=r"no route into OpenMM.*8\.3\.0 has no PythonForce"):
        routes.choose_route()
    with pytest.raises(RouteError, match=r"'python' cannot be used: openmm 8\.3\.0 has no PythonForce"):
        routes.choose_route("python")


def test_unknown_route():
    with pytest.raises(ValueError, match="`route` must be one of auto, torchforce, python, got 'cuda'"):
        routes.choose_route("cuda")


def test_local_and_prerelease_versions_are_read():
    assert routes.installed_version("no-such-package") is None
    assert "+" not in routes.installed_version("torch")
    assert routes._numbers("8.6.1rc1") == (8, 6)


def test_a_torchforce_in_xml_is_refused_before_openmm_reads_it(install, tmp_path):
    install(openmm="8.6.1")
    path = tmp_path / "system.xml"
    path.write_text('<System><Forces><Force type="TorchForce" version="3"/></Forces></System>')
    with pytest.raises(RouteError, match="kills the process"):
        load_system(path)
    with pytest.raises(RouteError, match="kills the process"):
        system_from_xml(path.read_text())


def test_the_doctor_finds_this_installation_well():
    diagnosis = diagnose()
    assert diagnosis.problems == []
    assert {name for name, status in diagnosis.routes.items() if status.available} == set(ROUTES_HERE)
    assert {"Reference", "CPU"} <= set(diagnosis.platforms)
    assert diagnosis.versions["openmm"] == routes.installed_version("openmm")


def test_the_doctor_names_what_is_missing(monkeypatch):
    monkeypatch.setattr("openmm_les.engine.doctor.available_routes", lambda: NO_ROUTES)
    assert diagnose().problems == ["route torchforce: absent", "route python: too old"]


NO_ROUTES = {
    "torchforce": routes.RouteStatus("torchforce", False, "absent"),
    "python": routes.RouteStatus("python", False, "too old"),
}


@pytest.mark.skipif("torchforce" not in ROUTES_HERE, reason="the installed versions have no TorchForce")
def test_torchforce_works_where_openmm_was_imported_first():
    # As scripts do: OpenMM then loads its plugins before torch has brought their libraries.
    code = """
import openmm
from tests.engine.builders import WATER_RESIDUE, energy_of, make_context, quiet_model, topology_of
from tests.builders import WATER
from openmm_les.engine.system import create_system
system = create_system(topology_of([WATER_RESIDUE]), quiet_model(), "torchforce")
print(energy_of(make_context(system, WATER * 0.1)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.0
