"""What the explanations are worth: scores on what passes committed.

published       the one opener of what is published: a dataset, its encoder, clusters and archive; seen: what they saw
written         results on disk
questions       labels, and what the network says, in one form
metrics         scores under weights and their intervals over patients
forests         random forests, on features in memory or out of core

surrogate/      does a forest on cluster proportions reproduce the network?
sweep/          other K, records, layers, depth factors, γ, τ
localise/       clusters against P, QRS, T and TP
uncertainty     entropy against error and calibration
temporal        the order of clusters against their shares; order: sequences and their likelihoods
probe           what the probes say
audit           records whose label, network and surrogate disagree
reproduction    the published experiment again
"""
