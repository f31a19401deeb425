"""Records apart by what had seen them before: only those that nothing has seen say what new recordings will bring."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecgscale.evaluate.holdout import FEWEST_TEST
from ecgscale.evaluate.seen import Seen

NEITHER, CLUSTERS, ENCODER, ALL = "neither", "clusters", "encoder", "all"

TOLD = {
    NEITHER: "seen by neither encoder nor K-means",
    CLUSTERS: "seen by K-means, not by the encoder",
    ENCODER: "seen by the encoder",
    ALL: "all records scored",
}


def groups_of(scored: NDArray[np.bool_], seen: Seen | None) -> dict[str, NDArray[np.bool_]]:
    """Name → which of N records; "encoder", "clusters" and "neither" share nothing, "all" is everything scored.

    Of those three, the ones that can be told: without lists of what was seen there is "all" alone. Empty ones are left
    out.
    """
    groups = {ALL: scored}
    if seen is not None and seen.encoder is not None:
        groups[ENCODER] = scored & seen.encoder
        if seen.clusters is not None:
            groups[CLUSTERS] = scored & seen.clusters & ~seen.encoder
            groups[NEITHER] = scored & ~seen.clusters & ~seen.encoder
    return {name: groups[name] for name in (NEITHER, CLUSTERS, ENCODER, ALL) if name in groups and groups[name].any()}


def headline_of(groups: dict[str, NDArray[np.bool_]]) -> tuple[str, str | None]:
    """The group whose scores come first, and what has to be said about that.

    Records seen by neither; where they are fewer than FEWEST_TEST, those seen by K-means alone (it learns no labels);
    else all.
    """
    for name in (NEITHER, CLUSTERS):
        if name in groups and groups[name].sum() >= FEWEST_TEST:
            told = None if name == NEITHER else (
                "too few of the records scored are new to K-means: the headline is of records that K-means has seen "
                "and the encoder has not"
            )  # fmt: skip
            return name, told
    if ENCODER in groups:
        return ALL, (
            "too few of the records scored are new to the encoder: the headline is of records that it has learnt, "
            "and says little about others"
        )
    return ALL, "what encoder and K-means had seen is not known: the headline is of all records scored"
