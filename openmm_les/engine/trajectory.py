"""Trajectory files (DCD, XTC) that can be cut back to a number of frames and continued."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Any

from openmm import State, app, unit

_XTC_MAGIC = 1995


class TrajectoryWriter:
    """Writes wrapped frames to a DCD or XTC file, each of them on disk when `write` returns.

    Parameters
    ----------
    path : ends in ``.dcd`` or ``.xtc``
    timestep : ps
    interval : steps between frames
    keep_frames : cut an existing file to this many frames and append; None starts a new file
    """

    def __init__(
        self,
        path: Path,
        topology: app.Topology,
        timestep: float,
        interval: int,
        *,
        keep_frames: int | None = None,
    ) -> None:
        append = keep_frames is not None
        if keep_frames is not None:
            truncate_frames(path, keep_frames)
            # With no frame left there is nothing to append to: the file starts anew.
            append = keep_frames > 0
        self._file: IO[bytes] | None = None
        self._writer: Any
        arguments = (topology, timestep * unit.picosecond, interval, interval, append)
        if path.suffix == ".dcd":
            self._file = open(path, "r+b" if append else "wb")
            self._writer = app.DCDFile(self._file, *arguments)
        else:
            if not append:
                path.unlink(missing_ok=True)
                path.touch()  # as DCD has it: a run may stop before its first frame
            self._writer = app.XTCFile(str(path), *arguments)

    def write(self, state: State) -> None:
        """Append the positions and the box of a state."""
        self._writer.writeModel(
            state.getPositions(asNumpy=True), periodicBoxVectors=state.getPeriodicBoxVectors()
        )
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        if self._file is not None:
            self._file.close()


def truncate_frames(path: Path, n_frames: int) -> None:
    """Cut a DCD or XTC file after its first ``n_frames`` frames.

    Raises
    ------
    ValueError
        for a file that holds fewer whole frames, or is no such file
    """
    ends = _dcd_frame_ends(path) if path.suffix == ".dcd" else _xtc_frame_ends(path)
    if len(ends) - 1 < n_frames:
        raise ValueError(f"{path} holds {len(ends) - 1} whole frames, {n_frames} are needed")
    os.truncate(path, ends[n_frames])
    if path.suffix == ".dcd":
        with open(path, "r+b") as file:
            file.seek(8)  # the frame count in the header
            file.write(struct.pack("<i", n_frames))


def _dcd_frame_ends(path: Path) -> list[int]:
    """Offsets of the end of the header and of each whole frame, bytes."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(92)
        if len(header) < 92 or header[4:8] != b"CORD":
            raise ValueError(f"{path} is not a DCD file")
        (has_box,) = struct.unpack("<i", header[48:52])
        (comments,) = struct.unpack("<i", file.read(4))
        file.seek(104 + comments)
        (n_atoms,) = struct.unpack("<i", file.read(4))
    begin = 112 + comments
    frame = (56 if has_box else 0) + 3 * (8 + 4 * n_atoms)
    return list(range(begin, size + 1, frame))


def _xtc_frame_ends(path: Path) -> list[int]:
    """Offset 0 and the end of each whole frame, bytes.

    A frame is a header of 16 bytes, a box of 36, and the coordinates: up to nine atoms as plain
    floats, more of them as a compressed block whose length precedes it, padded to four bytes.
    """
    size = path.stat().st_size
    ends = [0]
    with open(path, "rb") as file:
        while True:
            start = file.read(92)
            if len(start) < 56:
                break
            magic, n_atoms = struct.unpack(">2i", start[:8])
            if magic != _XTC_MAGIC:
                if len(ends) == 1:
                    raise ValueError(f"{path} is not an XTC file")
                break
            if n_atoms <= 9:
                end = ends[-1] + 56 + 12 * n_atoms
            elif len(start) == 92:
                (n_bytes,) = struct.unpack(">i", start[88:92])
                end = ends[-1] + 92 + (n_bytes + 3) // 4 * 4
            else:
                break
            if end > size:
                break
            ends.append(end)
            file.seek(end)
    return ends
