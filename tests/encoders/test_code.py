"""A user's own code is part of what an encoder is: which files count, and how a change is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
from safetensors.torch import save_file

from ecgscale.encoders.code import code_of
from ecgscale.encoders.network import build_module
from ecgscale.encoders.spec import changes, encoder_parts, write_spec
from ecgscale.encoders.taps import Encoder
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
