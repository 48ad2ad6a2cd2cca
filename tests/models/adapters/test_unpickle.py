"""Files that would run a program are refused; damaged ones say what is wrong with them."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from openmm_les.exceptions import CheckpointError
from openmm_les.models.adapters.unpickle import PickledModule, TensorRecord
from openmm_les.models.checkpoint import load_model
from tests.models.adapters.files import archive, calling, replaced, unpack

CODE = "def forward(self):\n    return {}"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "__import__"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.utils.cpp_extension", "load_inline"),
        ("torch.jit", "load"),
        ("pathlib", "Path"),
        ("e3nn.o3", "os.system"),
        ("torch.nn.modules", "module.__builtins__"),
        ("torch.serialization", "os.system"),
        ("mace", "__loader__"),
    ],
)
def test_foreign_names_are_refused_by_name(tmp_path, module, name):
    victim = tmp_path / "victim"
    path = archive(tmp_path / "bad.model", calling(module, name, f"touch {victim}"))
    with pytest.raises(CheckpointError, match=f"'{module}.{name}'.*nothing of the file was run"):
        load_model(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import os\n", "os"),
        ("from subprocess import run\n", "subprocess"),
        (CODE.format("__import__('os')"), "__import__"),
        (CODE.format("eval('1')"), "eval"),
        (CODE.format("().__class__"), "__class__"),
        (CODE.format("open('x', 'w')"), "open"),
        (CODE.format("torch.load('x')"), "load"),
        ("no python at all", "no python at all"),
    ],
)
def test_graph_code_that_reaches_out_is_refused(tmp_path, code, named):
    for arguments in (({"_code": code}, ""), ({"_code": ""}, code)):
        path = archive(
            tmp_path / "bad.model", calling("torch.fx.graph_module", "reduce_graph_module", *arguments)
        )
        with pytest.raises(CheckpointError, match=f"reduce_graph_module.*{named!r}: refused"):
            load_model(path)


def test_graph_code_alone_is_no_model(tmp_path):
    body = ({"_code": CODE.format("torch.zeros(1)")}, "import torch")
    path = archive(tmp_path / "bad.model", calling("torch.fx.graph_module", "reduce_graph_module", *body))
    with pytest.raises(CheckpointError, match=r"holds a torch\.fx\.graph_module\.reduce_graph_module"):
        load_model(path)


def test_getattr_gives_activations_only(tmp_path):
    nested = b"\x80\x02c__builtin__\ngetattr\nctorch.nn\nModule\nX\x04\x00\x00\x00load\x86R."
    with pytest.raises(CheckpointError, match=r"attribute 'load' of torch\.nn\.Module .* getattr: refused"):
        load_model(archive(tmp_path / "bad.model", nested))


def test_what_a_file_does_to_a_stand_in_stays_in_the_file(tmp_path):
    # BUILD sets attributes: here on the function that stands for numpy.dtype.
    path = archive(tmp_path / "odd.model", b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(CheckpointError, match="holds a function; the models"):
        load_model(path)
    again = PickledModule(archive(tmp_path / "even.model", calling("numpy", "dtype", "f8")))
    assert again.root == "f8"


def test_numbers_of_numpy(tmp_path):
    number = b"\x80\x02cnumpy.core.multiarray\nscalar\n" + calling("numpy", "dtype", "f8")[2:-1]
    text = np.float64(2.5).tobytes().decode("latin1").encode()
    number += b"c_codecs\nencode\nX" + len(text).to_bytes(4, "little") + text
    number += b"X\x06\x00\x00\x00latin1\x86R\x86R."
    assert PickledModule(archive(tmp_path / "a.model", number)).root == 2.5
    with pytest.raises(CheckpointError, match="numbers of numpy type 'O8'"):
        PickledModule(archive(tmp_path / "b.model", calling("numpy", "dtype", "O8")))


def test_tensors(tmp_path):
    path = tmp_path / "t.pt"
    whole = torch.arange(12, dtype=torch.float64).view(3, 4)
    torch.save({"a": whole, "b": whole.t()[1:], "c": torch.zeros(0, 3), "d": torch.tensor(7)}, path)
    file = PickledModule(path)
    assert torch.equal(file.tensor(file.root["a"]), whole)
    assert torch.equal(file.tensor(file.root["b"]), whole.t()[1:])
    assert file.tensor(file.root["c"]).shape == (0, 3)
    assert int(file.tensor(file.root["d"])) == 7
    with pytest.raises(CheckpointError, match="has dict where a tensor belongs"):
        file.tensor(file.root)
    key = file.root["a"].key
    for bad in (
        TensorRecord(key, torch.float64, 1, (3, 4), (4, 1)),
        TensorRecord(key, torch.float64, -1, (3,), (1,)),
        TensorRecord(key, torch.float64, 0, (3,), (-1,)),
        TensorRecord(key, torch.float64, 0, (1 << 40,), (0,)),
        TensorRecord(key, torch.float64, 0, (3, 1 << 62), (1, 1 << 62)),
    ):
        with pytest.raises(CheckpointError, match="numbers"):
            file.tensor(bad)
    with pytest.raises(CheckpointError, match="lacks the numbers of storage '99'"):
        file.tensor(TensorRecord("99", torch.float64, 0, (1,), (1,)))


def test_not_an_archive(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a complete file of torch"):
        load_model(path)
    path.write_bytes(b"\x80\x02}.")  # torch before 1.6
    with pytest.raises(CheckpointError, match=r"before 1\.6"):
        load_model(path)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, fraction):
    path = unpack("plain", tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(CheckpointError, match="not a complete file of torch"):
        load_model(path)


def test_damaged_pickle(tmp_path):
    with pytest.raises(CheckpointError, match="damaged pickle"):
        load_model(archive(tmp_path / "a.model", b"\x80\x02}("))
    with pytest.raises(CheckpointError, match="holds a tuple; the models"):
        load_model(archive(tmp_path / "b.model", b"\x80\x02(((((t."))


def test_compressed_entries_are_refused(tmp_path):
    path = archive(tmp_path / "bomb.model", b"\x80\x02" + b"N0" * 10**6 + b"N.", zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"compressed entry 'archive/data\.pkl'"):
        load_model(path)


def test_other_archives(tmp_path):
    with pytest.raises(CheckpointError, match="compiled TorchScript"):
        load_model(archive(tmp_path / "a.pt", b"", **{"constants.pkl": b"", "code/x.py": b""}))
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        file.writestr("archive/readme", "x")
    with pytest.raises(CheckpointError, match="without a pickled model"):
        load_model(tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="big-endian"):
        load_model(archive(tmp_path / "c.pt", b"\x80\x02N.", byteorder=b"big"))


def test_unknown_persistent_objects(tmp_path):
    with pytest.raises(CheckpointError, match="unknown persistent object"):
        load_model(archive(tmp_path / "a.model", b"\x80\x02K\x01Q."))


def test_hostile_name_hidden_in_a_real_checkpoint(tmp_path):
    path = replaced(unpack("maceles", tmp_path), b"ctorch.nn.functional\nsilu\n", b"cos\nsystem\n")
    with pytest.raises(CheckpointError, match=r"'os\.system'"):
        load_model(path)
