"""Where passes run and how they report; the only package that may import Ray."""
