"""`import ecgscale`: a dozen names, there when they are asked for, and nothing heavy before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ecgscale


def test_every_public_name_is_there_and_documented() -> None:
    for name in ecgscale.__all__:
        found = getattr(ecgscale, name)
        assert found.__doc__, name
        assert found.__name__ == name
        assert found.__module__.startswith("ecgscale.")
    assert set(ecgscale.__all__) <= set(dir(ecgscale))
    assert len(set(ecgscale.__all__)) == len(ecgscale.__all__) <= 12


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'ecgscale' has no attribute 'explanation'"):
        _ = ecgscale.explanation


def test_star_import_gives_the_public_names() -> None:
    scope: dict[str, object] = {}
    exec("from ecgscale import *", scope)
    assert {name for name in scope if not name.startswith("_")} == set(ecgscale.__all__)


def test_importing_and_asking_for_help_load_nothing_heavy() -> None:
    code = (
        "import sys, ecgscale, ecgscale.cli\n"
        "from click.testing import CliRunner\n"
        "for words in ([], ['fit'], ['explain'], ['run'], ['demo'], ['train'], ['ingest', 'wfdb']):\n"
        "    assert CliRunner().invoke(ecgscale.cli.main, [*words, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'numba', 'pyarrow', 'sklearn', 'scipy', 'ray', 'matplotlib', 'dask', 'wfdb', 'h5py'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
        "assert ecgscale.Archive.__name__ == 'Archive'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
