"""Probes: what needs the network again, on a sample of the explained records.

probe       a run: which shards, committed and published; schema: its settings and rows
worker      a shard's sample to rows; batch: a batch under every probe; network: the network with its taps open
"""
