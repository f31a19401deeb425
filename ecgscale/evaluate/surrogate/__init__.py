"""Forests on cluster proportions that imitate the network: how they are rotated, fitted, scored, and what stands beside."""
