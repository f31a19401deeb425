"""Roots and archives that commands made: slower, and nothing in them is made up."""
