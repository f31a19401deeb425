"""Whole passes over an archive.

fit             activations of many records to centroids
selection       which records a fit takes
activations     the network over them, once
memory          what a fit will take, said before it starts
random_weights  the same network before it learned anything, to compare with
explain         every record to facts, committed shard by shard and published; chosen_model: with which model
plan            which shards are known, which moved, which are to be computed
shard           one shard to one output file: what a worker does
beside          the model stands beside its explanations
prefetch        reading ahead of the network
ingest          a source into an archive, in pieces that workers take (ingest_worker)
simulate        a simulated archive, a shard a task
pipeline        one configuration, all steps
probes          what needs the network again, on a sample (probe_…: its network, masks, waves, rows, worker)
"""
