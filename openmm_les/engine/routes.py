"""Which ways into OpenMM the installed versions allow, found out before anything is imported.

A mismatch of openmmtorch, torch and openmm does not raise, it kills the process. Versions are
therefore read from the packages' metadata and held against what was tried.
"""

from __future__ import annotations

import functools
import importlib
import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from openmm_les.exceptions import RouteError

logger = logging.getLogger(__name__)

ROUTES = ("torchforce", "python")
"""In the order in which "auto" tries them."""
INSTALL = {
    "torchforce": "pip install 'openmm-les[torchforce]'",
    "python": "pip install 'openmm-les[python]'",
}
# (openmmtorch, torch) -> OpenMM from and before. openmmtorch 1.5 with OpenMM 8.6 computes, but
# kills the process when a System is copied or read from XML; with another torch it does not load.
_TORCHFORCE_KNOWN = {("1.5", "2.9"): ((8, 4), (8, 6))}
_PYTHONFORCE_FROM = (8, 5)


@dataclass(frozen=True)
class RouteStatus:
    """Whether a route can be used, and why or why not, in words."""

    name: str
    available: bool
    reason: str


def installed_version(package: str) -> str | None:
    """Version of an installed package without its local part ("2.9.1+cpu" is "2.9.1"), or None."""
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return None


def available_routes() -> dict[str, RouteStatus]:
    """State of every route by name; imports neither openmm nor openmmtorch."""
    return {"torchforce": _torchforce_status(), "python": _python_status()}


def choose_route(route: str = "auto") -> str:
    """Name of the route to use: the one asked for, or with "auto" the first that works.

    Raises
    ------
    ValueError
        An unknown name.
    RouteError
        The installed versions do not allow the route; the message says what to install.
    """
    if route not in ("auto", *ROUTES):
        raise ValueError(f"`route` must be one of auto, {', '.join(ROUTES)}, got {route!r}")
    states = available_routes()
    if route != "auto":
        if not states[route].available:
            raise RouteError(f"route {route!r} cannot be used: {states[route].reason}")
        logger.info("route %s as asked: %s", route, states[route].reason)
        return route
    for name in ROUTES:
        if states[name].available:
            passed = [f"{n}: {states[n].reason}" for n in ROUTES[: ROUTES.index(name)]]
            logger.info("route %s: %s", name, "; ".join([states[name].reason, *passed]))
            return name
    raise RouteError("no route into OpenMM: " + "; ".join(f"{s.name}: {s.reason}" for s in states.values()))


def import_torchforce() -> Any:
    """The module openmmtorch, imported after what it needs and only where it is known to load.

    Raises
    ------
    RouteError
        The versions are not known to work together, or a library is missing.
    """
    status = _torchforce_status()
    if not status.available:
        raise RouteError(f"route 'torchforce' cannot be used: {status.reason}")
    # Only in this order are the CUDA libraries and the neighbour list's TorchScript class found.
    for name in ("torch", "vesin_torch"):
        importlib.import_module(name)
    try:
        openmmtorch = importlib.import_module("openmmtorch")
    except ImportError as error:
        raise RouteError(
            f"openmmtorch does not load: {error}. Reinstall both from PyPI: {INSTALL['torchforce']}"
        ) from error
    _load_torch_plugins()
    return openmmtorch


@functools.cache
def _load_torch_plugins() -> None:
    """Load the kernels of TorchForce that failed because openmm was imported before torch."""
    import openmm

    folder = Path(openmm.version.openmm_library_path) / "plugins"
    failures = " ".join(openmm.Platform.getPluginLoadFailures())
    for library in sorted(folder.glob("*OpenMMTorch*")):
        if library.name not in failures:
            continue
        try:
            openmm.Platform.loadPluginLibrary(str(library))
        except openmm.OpenMMException as error:
            if "Reference" in library.name:
                raise RouteError(f"the kernels of TorchForce do not load: {error}") from error
            # Without its platform (OpenCL, CUDA) on this machine nothing is lost.
            logger.debug("plugin not loaded: %s", error)


def _torchforce_status() -> RouteStatus:
    found = {name: installed_version(name) for name in ("openmmtorch", "torch", "openmm")}
    named = ", ".join(f"{name} {value}" for name, value in found.items())
    missing = [name for name, value in found.items() if value is None]
    if missing:
        return _unavailable("torchforce", f"{', '.join(missing)} not installed")
    torch_series = ".".join(str(n) for n in _numbers(str(found["torch"]))[:2])
    known = _TORCHFORCE_KNOWN.get((str(found["openmmtorch"]), torch_series))
    if known is None:
        return _unavailable("torchforce", f"{named} were never seen to work together")
    if not known[0] <= _numbers(str(found["openmm"])) < known[1]:
        return _unavailable(
            "torchforce", f"{named}: this OpenMM kills the process when a System is copied or read from XML"
        )
    return RouteStatus("torchforce", True, named)


def _python_status() -> RouteStatus:
    found = installed_version("openmm")
    if found is None:
        return _unavailable("python", "openmm not installed")
    if _numbers(found) < _PYTHONFORCE_FROM:
        return _unavailable("python", f"openmm {found} has no PythonForce")
    return RouteStatus("python", True, f"openmm {found} has PythonForce")


def _unavailable(name: str, problem: str) -> RouteStatus:
    return RouteStatus(name, False, f"{problem}; install with: {INSTALL[name]}")


def _numbers(text: str) -> tuple[int, ...]:
    """Leading whole numbers of a version: "8.6.1rc1" is (8, 6)."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


__all__ = [
    "ROUTES",
    "RouteStatus",
    "available_routes",
    "choose_route",
    "import_torchforce",
    "installed_version",
]
