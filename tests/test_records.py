"""Files of records: rows, continuation, and what a killed run leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from openmm_les.records import Quantity, RecordWriter, read_record, record_attributes, record_names

DIPOLE = Quantity("observables/dipole", (3,), "e angstrom")
CHARGE = Quantity("particles/ml/charge", (5,), "e", "f4")


def rows(first: int, last: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Rows at steps 10·first, …, 10·(last - 1), their values counting up."""
    index = np.arange(first, last)
    values = {
        DIPOLE.name: index[:, None] + np.array([0.0, 0.1, 0.2]),
        CHARGE.name: index[:, None] * np.ones(5),
    }
    return 10 * index, 0.5 * index, values


def test_rows_come_back(tmp_path):
    path = tmp_path / "records.h5"
    with RecordWriter(path, [DIPOLE, CHARGE], {"model": "m", "indices": [1, 2]}) as writer:
        writer.append(*rows(0, 3))
        writer.append(*rows(3, 100))
        assert len(read_record(path, DIPOLE.name).value) == 100  # in the same process, still open
    record = read_record(path, DIPOLE.name)
    assert record.value.shape == (100, 3)
    assert record.unit == "e angstrom"
    np.testing.assert_array_equal(record.value[:, 1], np.arange(100) + 0.1)
    np.testing.assert_array_equal(record.step, 10 * np.arange(100))
    np.testing.assert_array_equal(read_record(path, CHARGE.name).time, 0.5 * np.arange(100))
    assert record_names(path) == [DIPOLE.name, CHARGE.name]
    assert record_attributes(path)["model"] == "m"
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["h5md"].attrs["version"], [1, 1])


def test_a_file_is_continued_after_a_step(tmp_path):
    path = tmp_path / "records.h5"
    with RecordWriter(path, [DIPOLE, CHARGE]) as writer:
        writer.append(*rows(0, 8))
    with RecordWriter(path, [DIPOLE, CHARGE], keep_until=45) as writer:
        assert writer.n_rows == 5
        writer.append(*rows(5, 7))
    np.testing.assert_array_equal(read_record(path, CHARGE.name).value[:, 0], np.arange(7))


def test_a_file_can_be_read_while_it_grows(tmp_path):
    path = tmp_path / "records.h5"
    code = (
        "import sys, numpy as np\n"
        "from openmm_les.records import Quantity, RecordWriter\n"
        f"writer = RecordWriter({str(path)!r}, [Quantity('observables/x', (), 'nm')])\n"
        "writer.append(np.arange(3), np.arange(3), {'observables/x': np.ones(3)})\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        assert len(read_record(path, "observables/x").value) == 3


def test_a_killed_writer_leaves_its_rows(tmp_path):
    path = tmp_path / "records.h5"
    code = (
        "import os, signal, numpy as np\n"
        "from openmm_les.records import Quantity, RecordWriter\n"
        f"writer = RecordWriter({str(path)!r}, [Quantity('observables/x', (2,), 'nm')])\n"
        "for i in range(50):\n"
        "    writer.append(np.array([i]), np.array([i]), {'observables/x': np.ones((1, 2)) * i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(read_record(path, "observables/x").value[:, 0], np.arange(50))
    with RecordWriter(path, [Quantity("observables/x", (2,), "nm")], keep_until=19) as writer:
        assert writer.n_rows == 20


def test_what_cannot_be_used_is_said(tmp_path):
    path = tmp_path / "records.h5"
    with pytest.raises(FileNotFoundError):
        RecordWriter(path, [DIPOLE], keep_until=0)
    with RecordWriter(path, [DIPOLE]) as writer:
        writer.append(*rows(0, 2))
    with pytest.raises(ValueError, match="holds no particles/ml/charge of shape"):
        RecordWriter(path, [DIPOLE, CHARGE], keep_until=0)
    with pytest.raises(ValueError, match=r"holds no quantity 'x'; it holds observables/dipole"):
        read_record(path, "x")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_record(tmp_path / "absent.h5", "x")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        read_record(tmp_path / "text.h5", "x")
    with pytest.raises(ValueError, match="cannot be continued"):
        RecordWriter(tmp_path / "text.h5", [DIPOLE], keep_until=0)


@pytest.mark.parametrize(("with_edges", "boundary"), [(True, b"periodic"), (False, b"none")])
def test_places_come_with_the_box_that_h5md_asks_for(tmp_path, with_edges, boundary):
    path = tmp_path / "records.h5"
    quantities = [Quantity("particles/ml/position", (2, 3), "nm", "f4")]
    if with_edges:
        quantities.append(Quantity("particles/ml/box/edges", (3, 3), "nm", "f4"))
    RecordWriter(path, quantities).close()
    with h5py.File(path) as file:
        box = file["particles/ml/box"].attrs
        assert box["dimension"] == 3
        assert box["boundary"].tolist() == [boundary] * 3
