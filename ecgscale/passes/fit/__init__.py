"""Activations of chosen records to centroids; the same bits whoever holds the activations."""
