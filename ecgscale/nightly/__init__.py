"""What runs every night, and what people do about it.

night      what is new is ingested, explained, judged, published; preflight: seconds of looking before hours of work
gates/     may what was explained tonight be published? counts (quarantine rate, volume, freshness) and drift against
           the reference period, over one table of evidence; the gatekeeper reads, judges and keeps
status     what is published, waits, failed or is held back; history: what was published and decided, and deciding
models/    a new cluster model under the old ids (refit), compared with the old one; which dataset is served (promote)
verify/    is everything there, possible, and what the network computes?
forget/    a patient goes from everything, and all of it is searched
"""
