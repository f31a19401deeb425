"""What the explanations are worth: scores on what passes committed.

surrogate, published    does a forest on cluster proportions reproduce the network? of records; of what was published
questions, truth        what is asked of forests: the network's decisions (outputs, thresholds), and labels
rotation, holdout       which records fit and which score; groups, seen: what encoder and K-means had seen of them
forests, out_of_fold    forests, and what they say about records that they never saw (out_of_core: without memory)
scores, breakdown       everything side by side, and by group, label, part and record (result); bootstrap, metrics
baselines               other features for the same forests: signal_features, published_baselines; importance
sweep, sweep_material   other K, records, layers, depth factors, γ, τ (sweep_result, stability, curves, heartbeat)
audit, label_quality    records whose label, network and surrogate disagree
reproduction            the published experiment again, and reproduction_table
written                 results on disk

localisation            clusters against P, QRS, T and TP (waves of records on one axis: timelines; scores: agreement)
physiology, annotated   the same for what was published below a ROOT, and where its waves come from
shifts, nulls           circular shifts, and scores beside what they give
average_beat, checkerboard    what a cluster looks like in a heartbeat; boundaries on the network's grid
uncertainty             entropy against error and calibration (rank_correlation, calibration), and uncertainty_published
temporal                the order of clusters against their shares (sequences, order), and temporal_published
probes, masking         what probes say, and probes_published
source                  the archive behind a dataset, and a choice of its records
"""
