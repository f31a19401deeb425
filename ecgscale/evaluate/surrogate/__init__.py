"""Forests on cluster proportions that imitate the network: rotated, fitted, scored, and what stands alongside."""
