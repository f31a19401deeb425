"""What ecgscale costs, beside what a user would pick instead.

kernels     one exact K-means iteration: ours, dense torch, scikit-learn, faiss, dask-ml
end_to_end  `explain` beside the bare forward pass, and beside a script of the usual libraries
memory      peaks of `fit` and `explain` against the size of the archive and the records kept
growth      time against records, clusters, timesteps and blocks; several K at once

    python -m benchmarks.kernels [--quick]      one of them; its last line is one JSON object
    python -m benchmarks                        all of them; writes benchmarks/results/ and docs/benchmarks.md

Ours and theirs run in turn on the same arrays with the same number of threads, after a warm-up; a ratio is the median
of the ratios of at least five such pairs.
"""
