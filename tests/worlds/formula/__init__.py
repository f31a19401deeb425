"""Arrays, networks and archives whose every value is known."""
