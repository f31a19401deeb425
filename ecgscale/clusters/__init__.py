"""Activations to centroids: the definition, the exact algebra that avoids computing it, K-means on top.

    features    what a timestep's feature vector is; the dense oracle
    packed      activations as the kernels read them, and how kernels are compiled
    kernels     the factored algebra on CPUs, compiled
    accumulate  a step of K-means on a CPU: integer sums, added in any order
    soft        labels, entropy and proportions under a frozen model
    tensors     the same algebra in tensor form, for GPUs
    init        k-means++ on a sample, or the centroids of an earlier fit
    kmeans      mini-batch and Lloyd, one loop, any backend; where a fit stands
    matching    which cluster of a new fit is which of an old one
    cache       low-resolution activations between epochs, in memory, on disk or on a GPU
    model       the cluster model on disk

Shape suffixes: B record, C channel, L low-resolution step, T timestep, K cluster.
Nothing here has seen an ECG.
"""
