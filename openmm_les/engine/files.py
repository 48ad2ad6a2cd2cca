"""Systems to and from XML, guarded against versions that would kill the process."""

from __future__ import annotations

from pathlib import Path

import openmm

from openmm_les.engine.routes import import_torchforce


def save_system(system: openmm.System, path: str | Path) -> None:
    """Write a System as XML; its ML force carries the whole model along."""
    Path(path).write_text(openmm.XmlSerializer.serialize(system))


def load_system(path: str | Path) -> openmm.System:
    """Read a System from an XML file; errors as in `system_from_xml`."""
    return system_from_xml(Path(path).read_text())


def system_from_xml(text: str) -> openmm.System:
    """System from XML text, with everything imported first that its ML force needs.

    A PythonForce is stored as a pickle: read only what you trust.

    Raises
    ------
    RouteError
        The text holds a TorchForce and the installed versions cannot read it (OpenMM would end
        the process).
    """
    if 'type="TorchForce"' in text:
        import_torchforce()
    return openmm.XmlSerializer.deserialize(text)


__all__ = ["load_system", "save_system", "system_from_xml"]
