"""What the models of the protocol share: the real functions read from the model what lies in its store."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ecgscale.passes.explain.explain as explain_module
import ecgscale.passes.explain.resent as resent_module
import ecgscale.passes.explain.resolve as resolve_module
import ecgscale.store.columns as columns_module
from ecgscale.store.commit import Commit
from tests.store.interleaved import View, explained


def _read(store: View, commit: Commit, columns: list[str] | None = None) -> pa.Table:
    table = pq.read_table(pa.BufferReader(store.read(commit.output.file)))
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


@pytest.fixture(scope="module")
def in_a_model() -> Iterator[None]:
    """All files of the model have one schema, and nothing is served there."""
    schema = pq.read_schema(pa.BufferReader(explained("", ())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolve_module, "_read", _read)
        patch.setattr(resent_module, "_read", _read)
        patch.setattr(columns_module, "read_schema", lambda where: schema)
        patch.setattr(explain_module, "newest_pointer", lambda root: 0)
        yield
