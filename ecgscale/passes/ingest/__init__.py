"""A source or a simulation into an archive, in pieces that workers take."""
