"""Parquet at rest, exactly once: objects, commits, numbered manifests, and the dataset they make.

`objects` promises whole objects and put-if-absent; `commit` turns one input shard into one output file; `manifest`
publishes a set of them; `dataset` opens what was published; `holds` and `held` are about what is kept back from that;
`doubles` tells of records that came twice; `garbage` finds what nobody refers to, and `cleaning` removes it.
"""

from __future__ import annotations

from ecgscale.store.dataset import find_dataset, newest_manifest, open_explanations

__all__ = ["find_dataset", "newest_manifest", "open_explanations"]
