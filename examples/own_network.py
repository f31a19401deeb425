# %% [markdown]
# # Your own network, from its weights to what it saw
#
# Run `make demo` first; it leaves an archive of simulated recordings in `ecgscale-demo/`. Then, cell by cell in an
# editor that knows `# %%`, or at once: `python examples/own_network.py`. Your network stays as it is (`mynet.py`): put
# its weights and a file `encoder.toml` into a folder, and everything else follows.

# %%
from pathlib import Path

import numpy as np
import torch
from mynet import MyNet
from safetensors.torch import save_file

import ecgscale
from ecgscale.passes.fit.request import FitRequest

archive = ecgscale.Archive.open("ecgscale-demo/archive")
folder, results = Path("own-encoder"), Path("own-results")
folder.mkdir(exist_ok=True)

# %% [markdown]
# The contract: how to build it, which layers to listen to, what it expects to see, what it puts out.

# %%
CONTRACT = """
name = "my-network"
factory = "mynet:MyNet"
weights = "weights.safetensors"
layers = ["early", "middle", "late"]
depth_scales = [1.0, 1.0, 1.0]

[arguments]
n_leads = 3
n_classes = 5

[input]
leads = ["I", "II", "V1"]
sampling_rate = 100.0
length = 1024

[output]
kind = "multilabel"
scale = "logit"
names = ["CD", "HYP", "MI", "NORM", "STTC"]
"""
(folder / "encoder.toml").write_text(CONTRACT)

# %% [markdown]
# Yours is trained already. This one learns for a few seconds, from three leads in millivolts.

# %%
torch.manual_seed(0)
network = MyNet(n_leads=3, n_classes=5)
optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
table = archive.metadata(["record_id", "superclasses"]).to_pydict()
diagnoses = dict(zip(table["record_id"], table["superclasses"], strict=True))
losses = []
for shard in archive.shards:
    for batch in archive.batches(shard):
        x = np.stack([batch.signal(i)[[0, 1, 6]] / batch.units_per_mv[i] for i in range(len(batch.record_ids))])
        names = ("CD", "HYP", "MI", "NORM", "STTC")
        y = [[float(name in diagnoses[record]) for name in names] for record in batch.record_ids]
        outputs = network(torch.from_numpy(x.astype(np.float32)))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, torch.tensor(y))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
save_file(network.eval().state_dict(), folder / "weights.safetensors")
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

# %% [markdown]
# K-means on every timestep of the three layers, then one row for each recording.

# %%
[fitted] = ecgscale.fit_archive(archive, folder, results, FitRequest(clusters=(8,)))
for warning in fitted.warnings:
    print("note:", warning)
done = ecgscale.explain_archive(archive, fitted.directory, results)
print(f"{done.records} recordings in {done.shards} shards: {done.path}")

# %% [markdown]
# One recording: in which state was the network, from when to when?

# %%
batch = next(archive.batches(archive.shards[0]))
record = ecgscale.explain_record(
    batch.signal(0),
    leads=batch.leads[0],
    sampling_rate=batch.sampling_rate[0],
    units_per_mv=batch.units_per_mv[0],
    model=fitted.directory,
)
print(record)
print(record.segments[:5])
