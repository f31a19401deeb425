"""Centroids to facts: what each record looks like to the network, when, and how surely.

facts       one forward pass and the assignment of its timesteps
segments    labels at every timestep to half-open segments; proportions, mean entropy, distortion
schema      the output table and its Parquet files; what changes their bytes; RESULTS_VERSION
record      one in-memory signal, for notebooks
"""
