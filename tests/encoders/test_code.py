"""A user's own code is part of what an encoder is: which files count, and how a change is told."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ecgscale.encoders.code import code_of
from ecgscale.encoders.network import build_module
from ecgscale.encoders.spec import changes, encoder_files, encoder_parts, write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from ecgscale.passes.alongside import copy_encoder
from tests.worlds.formula.small_networks import spec_of, write_small_encoder

FILES = {
    "mynets/__init__.py": "",
    "mynets/net.py": "from torch import nn\nfrom . import blocks\nfrom .parts.heads import Head\nimport json, beside\n"
    "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.conv = nn.Conv1d(12, 3, 5)\n        self.head = Head()\n"
    "    def forward(self, x):\n        return self.head(self.conv(x))\n",
    "mynets/blocks.py": "from mynets import deeper\n",
    "mynets/deeper.py": "import ecgscale.encoders.resnet1d\n",
    "mynets/parts/__init__.py": "",
    "mynets/parts/heads.py": "from torch import nn\nclass Head(nn.Module):\n"
    "    def forward(self, x):\n        return x.mean(-1)[:, :2]\n",
    "mynets/unused.py": "x = 1\n",
    "beside.py": "",
    "other.py": "",
}
COUNTED = sorted(set(FILES) - {"mynets/unused.py", "other.py"})


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mynets", "beside")]:
        del sys.modules[name]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget_modules()


def encoder(tree: Path) -> Path:
    write_spec(tree / "enc", spec_of(factory="mynets.net:Net", arguments={}, layers=["conv"]))
    build = build_module(spec_of(factory="mynets.net:Net", arguments={}, layers=["conv"]))
    save_file(build.state_dict(), tree / "enc" / "weights.safetensors")
    return tree / "enc"


def test_what_the_factory_imports_from_its_own_tree_counts(tree: Path) -> None:
    (tree / "enc").mkdir()
    before = code_of("mynets.net:Net")
    assert before is not None
    assert sorted(before) == COUNTED
    assert "mynets" not in sys.modules
    build_module(spec_of(factory="mynets.net:Net", arguments={}))
    assert code_of("mynets.net:Net") == before
    # What was imported is what runs, whatever the file says now.
    (tree / "mynets" / "deeper.py").write_text("x = 2\n")
    assert code_of("mynets.net:Net") == before
    forget_modules()
    after = code_of("mynets.net:Net")
    assert after is not None
    assert {name for name in COUNTED if after[name] != before[name]} == {"mynets/deeper.py"}


def test_a_package_that_a_finder_brings_has_the_same_code_before_and_after_it_is_imported(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `pip install -e` does it, which leaves no folder on sys.path."""

    class Finder(MetaPathFinder):
        def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            file = tree / "mynets" / "__init__.py"
            folders = [str(file.parent)]
            return spec_from_file_location(name, file, submodule_search_locations=folders) if name == "mynets" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    (tree / "elsewhere").mkdir()
    monkeypatch.chdir(tree / "elsewhere")
    before = code_of("mynets.net:Net")
    assert before is not None
    assert sorted(before) == COUNTED
    monkeypatch.syspath_prepend(tree)  # for `beside`
    build_module(spec_of(factory="mynets.net:Net", arguments={}))
    assert code_of("mynets.net:Net") == before


def test_a_change_of_the_code_is_another_encoder_and_is_told(tree: Path) -> None:
    (tree / "enc").mkdir()
    directory = encoder(tree)
    first = Encoder.load(directory, batch=2)
    assert first.parts is not None
    kept = first.parts.facts()
    assert list(changes(encoder_parts(directory), first.digest, kept)) == []
    # Models of before had the digest of contract and weights alone.
    assert list(changes(encoder_parts(directory), first.parts.files, {})) == []
    (tree / "mynets" / "parts" / "heads.py").write_text(FILES["mynets/parts/heads.py"].replace("mean(-1)", "amax(-1)"))
    forget_modules()
    assert list(changes(encoder_parts(directory), first.digest, kept)) == ["the network's code (mynets/parts/heads.py)"]
    assert Encoder.load(directory, batch=2).encoder_id != first.encoder_id
    (directory / "weights.safetensors").write_bytes(b"cut")
    assert next(changes(encoder_parts(directory), first.digest, kept)) == "the weights"
    (tree / "mynets" / "net.py").unlink()
    forget_modules()
    assert code_of("mynets.net:Net") is None
    assert "not to be found here" in list(changes(encoder_parts(directory), first.digest, kept))[-1]


def test_networks_of_ecgscale_are_named_by_its_version(tmp_path: Path) -> None:
    parts = encoder_parts(write_small_encoder(tmp_path))
    assert parts.code == {}
    assert parts.digest == parts.files


def test_of_an_installed_package_its_version_counts() -> None:
    code = code_of("torch.nn:Conv1d")
    assert code is not None
    assert code["torch"] == __import__("importlib.metadata").metadata.version("torch")
    assert set(code) == {"torch", "torch.nn"}
    assert code_of("not_there_at_all.nets:Net") is None
    assert code_of("not_there_at_all:Net") is None


def beside(folder: Path, factor: int) -> Path:
    """An encoder whose class lies in its own directory, in files that all such encoders may have."""
    folder.mkdir(parents=True)
    (folder / "parts").mkdir()
    (folder / "net.py").write_text(
        "import parts.heads as heads\nfrom torch import nn\nfrom blocks import conv\nimport parts\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.conv = conv()\n"
        "    def forward(self, x):\n        from late import factor\n"
        "        return heads.Head()(self.conv(x)) * factor + 0 * parts.N\n"
    )
    (folder / "blocks.py").write_text("from torch import nn\ndef conv(): return nn.Conv1d(12, 3, 5, bias=False)\n")
    (folder / "parts" / "__init__.py").write_text("N = 1\n")
    (folder / "parts" / "heads.py").write_text(
        "from .deep import mean\nfrom torch import nn\n"
        "class Head(nn.Module):\n    def forward(self, x): return mean(x)[:, :2]\n"
    )
    (folder / "parts" / "deep.py").write_text("def mean(x): return x.mean(-1)\n")
    (folder / "late.py").write_text(f"factor = {factor}\n")
    write_spec(folder, spec_of(factory="net:Net", arguments={}, layers=["conv"]))
    save_file({"conv.weight": torch.ones(3, 12, 5)}, folder / "weights.safetensors")
    return folder


BESIDE = ["blocks.py", "late.py", "net.py", "parts/__init__.py", "parts/deep.py", "parts/heads.py"]


def test_the_class_may_lie_beside_the_contract_and_is_that_encoders_alone(tmp_path: Path) -> None:
    before = set(sys.modules)
    one, other = Encoder.load(beside(tmp_path / "a", 1), batch=2), Encoder.load(beside(tmp_path / "b", 7), batch=2)
    x = np.ones((2, 12, 256), np.float32)
    assert (other.forward(x).prediction == 7 * one.forward(x).prediction).all()
    assert (one.forward(x).prediction != 0).all()
    assert one.parts is not None
    assert one.parts.code is not None
    assert sorted(one.parts.code) == BESIDE
    assert one.digest != other.digest
    assert not {"net", "blocks", "parts", "late"} & (set(sys.modules) - before)
    assert not list(tmp_path.rglob("*.pyc"))
    files = [path.relative_to(tmp_path / "a").as_posix() for path in encoder_files(tmp_path / "a")]
    assert files == ["encoder.toml", "weights.safetensors", *BESIDE]
    # What was changed is imported anew, also by the same process.
    (tmp_path / "a" / "parts" / "deep.py").write_text("def mean(x): return x.mean(-1) + 5\n")
    assert (Encoder.load(tmp_path / "a", batch=2).forward(x).prediction == one.forward(x).prediction + 5).all()


def test_an_encoder_takes_its_class_along(tmp_path: Path) -> None:
    encoder = Encoder.load(beside(tmp_path / "a", 2), batch=2)
    copy_encoder(encoder, tmp_path / "root")
    there = tmp_path / "root" / "encoders" / encoder.encoder_id
    shutil.rmtree(tmp_path / "a")
    assert Encoder.load(there, batch=2).digest == encoder.digest
    (there / "late.py").unlink()
    (tmp_path / "late.py").write_text("factor = 3\n")
    (there / "late.py").symlink_to(tmp_path / "late.py")
    with pytest.raises(EncoderError, match="leads out of the encoder's folder"):
        encoder_files(there)
