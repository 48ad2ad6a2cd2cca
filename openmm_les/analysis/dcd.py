"""What the headers of DCD files say, and whether it is true."""

from __future__ import annotations

import struct
from pathlib import Path

import mdtraj

_AKMA_PS = 0.04888821  # CHARMM's unit of time, in which a DCD header counts


def dcd_spacing(path: Path) -> float | None:
    """Time between frames by the header of a DCD file, ps; None where it says nothing.

    mdtraj's own files hold a step of 1 in CHARMM's units whatever their times were.
    """
    with open(path, "rb") as file:
        header = file.read(48)
    if len(header) < 48 or header[4:8] != b"CORD":
        return None
    (interval,) = struct.unpack("<i", header[16:20])
    (step,) = struct.unpack("<f", header[44:48])
    if interval < 1 or not step > 0.0 or (interval == 1 and step == 1.0):
        return None
    return float(step * interval * _AKMA_PS)


def check_dcd(path: Path, stop: int | None) -> None:
    """Refuse a DCD file that is shorter than its header says; mdtraj reads it without a word."""
    if path.suffix != ".dcd":
        return
    with open(path, "rb") as file:
        header = file.read(92)
        if len(header) < 92 or header[4:8] != b"CORD":
            raise ValueError(f"{path} is not a DCD file")
        (claimed,) = struct.unpack("<i", header[8:12])
    with mdtraj.open(str(path)) as file:
        whole = len(file)
    if whole < claimed and (stop is None or stop > whole):
        raise ValueError(
            f"{path} was cut off: its header says {claimed} frames, {whole} are there. "
            f"Read those with `stop` {whole} (--stop {whole})"
        )


__all__ = ["check_dcd", "dcd_spacing"]
