"""A patient leaves the archive and everything that was made of it; then all of it is searched."""
