"""Activations to centroids: the definition, the exact algebra that avoids computing it, K-means on top.

    features    what a timestep's feature vector is; the dense oracle
    packed      activations as the kernels read them
    kernels     the factored algebra on CPUs, compiled; accumulate and soft put its pieces together
    tensors     the same algebra in tensor form, for GPUs
    compiled    how the kernels are compiled
    sums        what a pass over timesteps returns: integers, added in any order
    init        k-means++ on a sample, or the centroids of an earlier fit
    kmeans      mini-batch and Lloyd, one loop, any backend
    checkpoint  where a fit stands
    matching    which cluster of a new fit is which of an old one
    cache       low-resolution activations between epochs; device_cache keeps them on a GPU
    model       the cluster model on disk
    assign      labels, entropy and proportions under a frozen model

Shape suffixes: B record, C channel, L low-resolution step, T timestep, K cluster.
Nothing here has seen an ECG.
"""
