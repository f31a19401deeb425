"""A new cluster model under the old ids, compared with the old one, and the choice of what is served."""
