"""Whole passes over an archive.

fit         activations of many records to centroids
explain     every record to facts, committed shard by shard and published
shard       one shard to one output file: what a worker does
plan        which shards are known, which moved, which are to be computed
prefetch    reading ahead of the network
"""
