"""What people call the clusters: `names.json` beside a model, written by hand or saved from the report.

    {"model_id": "k20-…", "names": {"3": "QRS, upstroke", "7": "T wave"}}

Names are for readers alone: nothing is computed from them, and the model's identity does not know them.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ecgscale.errors import UsageError
from ecgscale.places import is_remote, place

NAMES_FILE = "names.json"
LONGEST_NAME = 60


class _Names(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model_id: str
    names: dict[int, str]


def read_names(model_dir: str | Path, n_clusters: int) -> dict[int, str]:
    """Names by cluster id, those that are blank left out; empty when there is no `names.json`.

    Raises `UsageError` for a file of another form, for another model, or naming a cluster that is not there.
    """
    path = place(model_dir) / NAMES_FILE
    if not path.is_file():
        return {}
    try:
        content = _Names.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise UsageError(
            f'{path} is not of the form {{"model_id": "…", "names": {{"0": "…"}}}}: {error}. '
            "The report saves such a file; correct it, or move it away."
        ) from error
    if content.model_id != (place(model_dir) if is_remote(model_dir) else Path(model_dir).resolve()).name:
        raise UsageError(f"{path} names the clusters of model {content.model_id}; move it beside that model")
    unknown = sorted(cluster for cluster in content.names if not 0 <= cluster < n_clusters)
    if unknown:
        told = ", ".join(map(str, unknown))
        raise UsageError(f"{path} names cluster {told}; the model has clusters 0 to {n_clusters - 1}")
    cleaned = {cluster: " ".join(name.split())[:LONGEST_NAME] for cluster, name in content.names.items()}
    return {cluster: name for cluster, name in sorted(cleaned.items()) if name}
