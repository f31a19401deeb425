# %% [markdown]
# # Your own analysis, on what was published
#
# Run `make demo` first. Explanations are Parquet: DuckDB, Polars and pandas read them; this is pandas and scikit-learn.
# The question: which states of the network go with which diagnosis, and how much of it would chance show?

# %%
import numpy as np
import pandas as pd
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict

import ecgscale

explanations = ecgscale.open_explanations("ecgscale-demo/results")
columns = ["record_id", "patient_id", "superclasses", "proportions", "mean_entropy", "segments"]
table = explanations.to_table(columns=columns, filter=pc.field("status") == "ok").to_pandas()
shares = np.stack(table["proportions"].to_numpy())
print(f"{len(table)} recordings, {shares.shape[1]} clusters")

# %% [markdown]
# Share of time a cluster has in recordings with a diagnosis over that in those without.

# %%
diagnoses = sorted({name for names in table["superclasses"] for name in names})
has = pd.DataFrame({name: [name in names for names in table["superclasses"]] for name in diagnoses})
lift = pd.DataFrame({name: shares[has[name]].mean(0) / shares[~has[name]].mean(0) for name in diagnoses})
lift.index.name = "cluster"
print(lift.round(2).to_string())

# %% [markdown]
# Do proportions tell the diagnosis? Patients are kept together, and the same is tried with labels drawn anew: that is
# what chance shows.

# %%
patients = table["patient_id"].fillna(table["record_id"])
folds = GroupKFold(5)
model = LogisticRegression(C=10.0, max_iter=1000)


def accuracy(labels: np.ndarray) -> float:
    """Of out-of-fold predictions, balanced over the two classes."""
    called = cross_val_predict(model, np.sqrt(shares), labels, cv=folds, groups=patients)
    return float(np.mean([np.mean(called[labels == one] == one) for one in (False, True)]))


draw = np.random.default_rng(0)
for name in diagnoses:
    labels = has[name].to_numpy()
    chance = [accuracy(draw.permutation(labels)) for _ in range(10)]
    print(f"{name:5} {accuracy(labels):.2f}, shuffled {np.mean(chance):.2f} (at most {max(chance):.2f})")

# %% [markdown]
# Where is the network undecided? Segments know their place in time.

# %%
pieces = table[["record_id", "segments"]].explode("segments", ignore_index=True)
segments = pd.json_normalize(pieces["segments"].tolist()).assign(record_id=pieces["record_id"])
segments["steps"] = segments["stop"] - segments["start"]
by_cluster = segments.groupby("cluster").agg(
    segments=("steps", "size"), median_steps=("steps", "median"), entropy=("entropy", "mean")
)
print(by_cluster.sort_values("entropy", ascending=False).round(2).head(10).to_string())
