"""Roots as a run leaves them, written by hand: any facts, no network."""
