"""What an encoder's `factory` may be, and what is refused before it is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ecgscale.encoders.network import build_module, find_factory
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from tests.worlds.formula.small_networks import ARGUMENTS, spec_of

OWN = """
import functools, os, subprocess
from subprocess import check_output
from os import system
from torch import nn
from torch.hub import load as from_the_net
import numpy as np

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.conv = nn.Conv1d(12, width, 5)
    @classmethod
    def of(cls, width): return cls(width)
    @staticmethod
    def wide(): return Net(9)

class NoNet: pass

def make(width=4): return Net(width)
@functools.lru_cache
def kept(width=5): return Net(width)
wide = functools.partial(Net, width=7)
partly = functools.partial(check_output, "ls")
instance = Net()
load_mine = make
number = 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_factories.py").write_text(OWN)
    (tmp_path / "broken_factories.py").write_text("1 / 0")
    (tmp_path / "leaving_factories.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_factories", None)


@pytest.mark.parametrize(
    ("name", "arguments", "width"),
    [
        ("Net", {}, 3),
        ("Net.of", {"width": 6}, 6),
        ("Net.wide", {}, 9),
        ("make", {}, 4),
        ("kept", {}, 5),
        ("wide", {}, 7),
        ("load_mine", {"width": 2}, 2),
    ],
)
def test_classes_and_functions_of_ones_own(name: str, arguments: dict[str, int], width: int) -> None:
    module = build_module(spec_of(factory=f"own_factories:{name}", arguments=arguments))
    assert module.get_submodule("conv").out_channels == width


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        ("subprocess:check_output", "standard library"),
        ("os:system", "standard library"),
        ("posix:system", "standard library"),
        ("builtins:eval", "standard library"),
        ("importlib:import_module", "standard library"),
        ("own_factories:check_output", "of subprocess, in Python's standard library"),
        ("own_factories:partly", "of subprocess, in Python's standard library"),
        ("own_factories:subprocess.check_output", "subprocess is of Python's standard library"),
        ("own_factories:os.system", "os is of Python's standard library"),
        ("own_factories:system", "builtin_function_or_method, neither a class nor a function"),
        ("own_factories:from_the_net", "torch.hub.load makes no network of its own"),
        ("own_factories:NoNet", "no class of torch.nn.Module"),
        ("own_factories:instance", "neither a class nor a function"),
        ("own_factories:number", "neither a class nor a function"),
        ("torch:load", "torch.serialization.load makes no network of its own"),
        ("torch.jit:load", "makes no network of its own"),
        ("torch.hub:load", "makes no network of its own"),
        ("torch.utils.cpp_extension:load_inline", "makes no network of its own"),
        ("numpy:load", "loads or runs what a file may say"),
        ("numpy:loadtxt", "does not rest on torch"),
        ("joblib:load", "loads or runs what a file may say"),
        ("pandas:read_pickle", "loads or runs what a file may say"),
        ("pandas:read_csv", "does not rest on torch"),
        ("ecgscale.nightly.forget.forget:forget_patient", "makes no network of its own"),
        ("ecgscale.archive.reader:Archive", "no class of torch.nn.Module"),
        ("broken_factories:Net", "fails with ZeroDivisionError"),
        ("leaving_factories:Net", "fails with SystemExit"),
    ],
)
def test_what_is_no_factory_is_never_called(factory: str, why: str) -> None:
    with pytest.raises(EncoderError, match=why) as caught:
        find_factory(factory) if "factories" not in factory else build_module(spec_of(factory=factory))
    assert factory in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_come_with_packages_are_fine() -> None:
    assert find_factory("torch.nn:Conv1d")
    assert find_factory("torch.nn:Embedding.from_pretrained")
    build_module(spec_of(factory="ecgscale.encoders.resnet1d:ResNet1d", arguments=ARGUMENTS))


FAILING = {
    "quits.py": ("import sys\nsys.exit(2)", "Net", "SystemExit: 2. It is a program"),
    "stops.py": ("class Stop(BaseException): pass\nraise Stop('now')", "Net", "fails with Stop: now"),
    "typo.py": ("class Net(:", "Net", r"SyntaxError: invalid syntax .*typo.py, line 1"),
    "lines.py": ("raise RuntimeError('one\\ntwo')", "Net", "RuntimeError: one two"),
    "needs.py": ("import not_there_at_all", "Net", "It imports not_there_at_all, which is not here: install it"),
    "partly.py": ("from torch import Nothing", "Net", "cannot import name 'Nothing'.* partly itself was found"),
    "gpu.py": (
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(2, 2).cuda()",
        "Net",
        r"Take .cuda\(\) and device='cuda' out",
    ),
    "online.py": (
        "from urllib.error import URLError\ndef net(pretrained=True):\n    raise URLError('no route')",
        "net",
        "URLError.*It downloads.*pretrained = false",
    ),
    "script.py": ("def net():\n    raise SystemExit('usage: script')", "net", "SystemExit: usage: script"),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
@pytest.mark.parametrize("file", FAILING)
def test_what_goes_wrong_in_somebody_elses_code_is_one_line_with_a_remedy(tmp_path: Path, file: str) -> None:
    source, name, message = FAILING[file]
    (tmp_path / file).write_text(source)
    with pytest.raises(EncoderError, match=message) as caught:
        build_module(spec_of(factory=f"{file.removesuffix('.py')}:{name}", arguments={}), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"\(none\): n_leads, width missing. It takes \(n_leads, width, depth=3\)"),
        ({"n_leads": 12, "widht": 3}, r"width missing; widht unknown. Did you mean 'width'\?. It takes \(n_leads"),
    ],
)
def test_arguments_that_do_not_fit_are_told_with_the_signature(
    tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, n_leads: int, width, *, depth=3): super().__init__()\n"
    )
    with pytest.raises(EncoderError, match=message):
        build_module(spec_of(factory="net:Net", arguments=arguments), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
def test_cuda_in_a_forward_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv1d(12, 2, 5)\n    def forward(self, x): return x.cuda()\n"
    )
    module = build_module(spec_of(factory="net:Net", arguments={}), tmp_path)
    with pytest.raises(EncoderError, match=r"Take .cuda\(\)"):
        Encoder(module, spec_of(layers=["conv"]), batch=2)
