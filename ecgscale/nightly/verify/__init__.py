"""Is what is published whole and right, row by row and computed again?"""
