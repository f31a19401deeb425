"""Whole passes over an archive, on the workers of a pool; this process is one.

stream      from recordings to activations, read ahead of the network
workers     what passes ask of a pool, and the pool that is this process
spread      independent tasks of an evaluation, on the same workers
ingest/     a source into an archive, in pieces that workers take; a simulated archive, a shard a task
fit/        activations of chosen records to centroids
explain/    every record to facts, committed shard by shard and published
probe/      what needs the network again, on a sample
run/        one configuration: all steps, and what they will take
features    activations of chosen records in memory, for evaluations
memory      what a fit will take, said before it starts
alongside   the encoder and the model stand alongside their explanations
watch       where a run's seconds and records are reported to
"""
