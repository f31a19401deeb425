"""Small worlds that tests begin with, in three tiers, each built once and copied where a test changes it.

formula/    arrays, networks and archives whose every value is known
published/  roots as a run leaves them, written by hand: any facts, no network
commands/   roots that commands made: slower, and nothing in them is made up
"""
