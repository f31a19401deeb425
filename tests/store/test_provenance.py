"""Who wrote something: also where the package came with a job and was never installed."""

from __future__ import annotations

from importlib import metadata

import pytest

from ecgscale.store import provenance


def test_versions_of_what_decides_bits() -> None:
    found = provenance.versions()
    assert found["ecgscale"] == metadata.version("ecgscale")
    assert set(found) == {"ecgscale", "torch", "numpy", "numba", "scipy", "scikit-learn"}


def test_a_package_that_came_with_a_job_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "ecgscale":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(provenance.metadata, "version", version)
    assert provenance.versions()["ecgscale"] == "not installed"
    assert provenance.run_facts("cpu").code_version == "not installed"
