"""Checkpoints of mace for tests, and hostile ones."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "data" / "mace"
REFERENCES = json.loads((DATA / "references.json").read_text())


def unpack(name: str, folder: Path) -> Path:
    """A checkpoint of ``tests/data/mace`` as mace wrote it."""
    path = folder / f"{name}.model"
    path.write_bytes(gzip.decompress((DATA / f"{name}.model.gz").read_bytes()))
    return path


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    """A file as torch.save writes it, with any pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return path


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """The checkpoint ``path`` with bytes of its pickle replaced, in a file beside it."""
    with zipfile.ZipFile(path) as source:
        contents = {info.filename: source.read(info) for info in source.infolist()}
    name = next(n for n in contents if n.endswith("/data.pkl"))
    assert old in contents[name]
    contents[name] = contents[name].replace(old, new)
    target = path.with_name("changed.model")
    with zipfile.ZipFile(target, "w") as file:
        for entry, content in contents.items():
            file.writestr(entry, content)
    return target


def calling(module: str, name: str, *arguments: Any) -> bytes:
    """Pickle that calls ``module.name(*arguments)`` when it is loaded by `pickle`."""
    import pickle

    body = io.BytesIO()
    body.write(b"\x80\x02c" + f"{module}\n{name}\n".encode())
    body.write(pickle.dumps(tuple(arguments), 2)[2:-1])
    body.write(b"R.")
    return body.getvalue()
