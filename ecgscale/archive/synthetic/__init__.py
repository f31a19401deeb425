"""Simulated recordings with known truth: who is recorded, the signal of twelve leads, and whole archives of them."""
