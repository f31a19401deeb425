"""Parquet at rest, exactly once: commits, numbered manifests, and the dataset they make.

`commit` turns one input shard into one output file, and finds record ids that came twice; `manifest` publishes a set of
them; `dataset` opens what was published; `holds` are about what is kept back from that; `garbage` removes what nobody
refers to; `lease` and `presence` say who is at work.
"""

from __future__ import annotations

from ecgscale.store.dataset import find_dataset, newest_manifest, open_explanations

__all__ = ["find_dataset", "newest_manifest", "open_explanations"]
