"""Clusters against the heartbeat.

heartbeat       which records are looked at, and where their waves come from
timelines       clusters and waves on one axis
shifts          circular shifts, and scores against what they give; boundaries on the network's grid
localisation    the scores
physiology      all of it for what was published, and average beats
"""
