"""What the explanations are worth: scores on what passes committed.

surrogate   does a forest on cluster proportions reproduce the network, and how near does it come to the truth
published   the same for what was published below a ROOT, and what had seen those records
comparison  forests, network, labels and the most frequent answer side by side
forests     from proportions to labels
outputs     a network's raw outputs as probabilities and decisions
truth       a label column as the network's outputs name it
holdout     which records fit and which score
seen        which of them encoder and K-means had seen
bootstrap   weighted scores, and intervals from resampled patients
"""
