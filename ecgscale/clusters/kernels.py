"""The factored algebra on a CPU, compiled: nothing of shape (timesteps × clusters) or (timesteps × channels) exists.

A record is projected once, g[l, k] = ⟨r_l, c_k⟩ for its Σ L_b low-resolution steps; everything else is done for runs of
at most CHUNK timesteps in which the neighbours of every block are constant, so a centroid costs 2B broadcast scalars
and one vector of timesteps. Centroid sums go back the same way: interpolation weights are gathered on the
low-resolution steps (few clusters touch a step, so the rest is skipped), then multiplied with its activations.

This module holds the compiled pieces; `accumulate` (K-means) and `soft` (labels, entropy) put them together.
"""

from __future__ import annotations

import numpy as np

from ecgscale.clusters.packed import CHUNK, kernel

CANCELLED = 1e-13
"""Share of ‖a r_l‖² + ‖b r_{l+1}‖² under which ‖z‖² is what float64 rounding leaves, and the norm counts as 0."""
LOWEST = np.float32(-3e38)

# A run's vectors lie in one flat array at constant places, so that the compiler sees that they do not overlap.
BEST, SECOND, LABEL, NORM, VALUE, SCRATCH = 0, CHUNK, 2 * CHUNK, 3 * CHUNK, 4 * CHUNK, 5 * CHUNK


@kernel()
def project(values, channels, lengths, centroids, g):  # type: ignore[no-untyped-def]
    """g (Σ L_b, K) = ⟨r_l, c_k⟩ of one record, K even; `centroids` holds each block's (K, C'_b) part, flattened.

    Tiles of 4 steps × 2 centroids: eight sums stay in vector registers while six vectors are read. Steps past the end
    repeat the last one, so a tile is never cut.
    """
    n_clusters = g.shape[1]
    value, low, part = 0, 0, 0
    for b in range(len(channels)):
        size, length = channels[b], lengths[b]
        steps = values[value : value + size * length].reshape(length, size)
        rows = centroids[part : part + size * n_clusters].reshape(n_clusters, size)
        for l in range(0, length, 4):
            l1, l2, l3 = min(l + 1, length - 1), min(l + 2, length - 1), min(l + 3, length - 1)
            r0, r1, r2, r3 = steps[l], steps[l1], steps[l2], steps[l3]
            for k in range(0, n_clusters, 2):
                c0, c1 = rows[k], rows[k + 1]
                s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = np.float32(0)
                for c in range(size):
                    x, y = c0[c], c1[c]
                    s00 += r0[c] * x
                    s01 += r0[c] * y
                    s10 += r1[c] * x
                    s11 += r1[c] * y
                    s20 += r2[c] * x
                    s21 += r2[c] * y
                    s30 += r3[c] * x
                    s31 += r3[c] * y
                g[low + l, k], g[low + l, k + 1] = s00, s01
                g[low + l1, k], g[low + l1, k + 1] = s10, s11
                g[low + l2, k], g[low + l2, k + 1] = s20, s21
                g[low + l3, k], g[low + l3, k + 1] = s30, s31
        value, low, part = value + size * length, low + length, part + size * n_clusters


@kernel()
def neighbour_weights(gram, rows, fraction, scales, tile):  # type: ignore[no-untyped-def]
    """Interpolation weights of a run's neighbours, times w_b/‖z_b(t)‖, and ‖f(t)‖², into `tile`.

    `gram` (2, Σ L_b), `rows` (2B,) and `fraction` (B · CHUNK,) are the record's and the run's.
    """
    for u in range(CHUNK):
        tile[NORM + u] = np.float32(0)
    for b in range(len(scales)):
        q, x, p = gram[0, rows[2 * b]], gram[1, rows[2 * b]], gram[0, rows[2 * b + 1]]
        # The loops run over len(part), always CHUNK: a constant would be unrolled before it could become a vector.
        w, part = scales[b], fraction[b * CHUNK : (b + 1) * CHUNK]
        if x >= 0.0 and min(q, p) > 1e-30:
            # No term is negative: float32 loses nothing, and there is a norm.
            q32, x32, p32 = np.float32(q), np.float32(2.0 * x), np.float32(p)
            for u in range(len(part)):
                after = part[u]
                before = np.float32(1) - after
                tile[VALUE + u] = w / np.sqrt(before * before * q32 + before * after * x32 + after * after * p32)
                tile[NORM + u] += w * w
        else:
            for u in range(len(part)):
                after = np.float64(part[u])
                before = 1.0 - after
                aa, bb = before * before * q, after * after * p
                n2 = aa + bb + 2.0 * before * after * x
                alive = n2 > CANCELLED * (aa + bb) + 1e-36
                tile[VALUE + u] = w / np.sqrt(np.float32(n2)) if alive else np.float32(0)
                tile[NORM + u] += w * w if alive else np.float32(0)
        left = tile[SCRATCH + 2 * b * CHUNK : SCRATCH + (2 * b + 1) * CHUNK]
        right = tile[SCRATCH + (2 * b + 1) * CHUNK : SCRATCH + (2 * b + 2) * CHUNK]
        for u in range(len(part)):
            inverse = tile[VALUE + u]
            left[u] = inverse * (np.float32(1) - part[u])
            right[u] = inverse * part[u]


@kernel()
def nearest_two(g, rows, half_norm, first, last, tile):  # type: ignore[no-untyped-def]
    """The largest two ⟨f(t), c_k⟩ − ‖c_k‖²/2 over centroids first..last of one run, into `tile`; lowest k on ties.

    `rows` has six entries for every three blocks. Their values are scalars, and everything else a vector of timesteps.
    """
    for u in range(CHUNK):
        tile[BEST + u], tile[SECOND + u], tile[LABEL + u] = LOWEST, LOWEST, np.float32(0)
    r0, r1, r2, r3, r4, r5 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    for k in range(first, last):
        n0, n1, n2, n3, n4, n5 = g[r0, k], g[r1, k], g[r2, k], g[r3, k], g[r4, k], g[r5, k]
        base, name = -half_norm[k], np.float32(k - first)
        for u in range(CHUNK):
            tile[VALUE + u] = base
        for group in range(6, len(rows), 6):
            add_neighbours(g, rows, group, k, tile)
        for u in range(CHUNK):
            v = tile[VALUE + u] + tile[SCRATCH + u] * n0 + tile[SCRATCH + CHUNK + u] * n1
            v += tile[SCRATCH + 2 * CHUNK + u] * n2 + tile[SCRATCH + 3 * CHUNK + u] * n3
            v += tile[SCRATCH + 4 * CHUNK + u] * n4 + tile[SCRATCH + 5 * CHUNK + u] * n5
            b, s = tile[BEST + u], tile[SECOND + u]
            better = v > b
            runner = b if better else v
            tile[SECOND + u] = runner if runner > s else s
            tile[LABEL + u] = name if better else tile[LABEL + u]
            tile[BEST + u] = v if better else b


@kernel()
def add_neighbours(g, rows, group, k, tile):  # type: ignore[no-untyped-def]
    """Add the terms of three further blocks, whose neighbours begin at `group`, to the values of centroid k."""
    for m in range(group, group + 6):
        near, at = g[rows[m], k], SCRATCH + m * CHUNK
        for u in range(CHUNK):
            tile[VALUE + u] += tile[at + u] * near


@kernel()
def tally(tile, begin, end, offset, counts, distortion):  # type: ignore[no-untyped-def]
    """Add timesteps begin..end of a run to `counts` and `distortion`, cluster 0 at `offset`.

    Returns (Σ (best − second), True if the run lies in one cluster, as most do).
    """
    best, second, label, norm = tile[BEST:SECOND], tile[SECOND:LABEL], tile[LABEL:NORM], tile[NORM:VALUE]
    margin, total, others = np.float32(0), np.float32(0), np.float32(0)
    here = label[begin]
    # Over the whole run with a mask: a loop from begin to end would mostly be what is left of a vector.
    for u in range(len(best)):
        inside = begin <= u < end
        margin += best[u] - second[u] if inside else np.float32(0)
        total += max(norm[u] - np.float32(2) * best[u], np.float32(0)) if inside else np.float32(0)
        others += np.float32(1) if inside and label[u] != here else np.float32(0)
    if others == np.float32(0):
        counts[offset + int(here)] += end - begin
        distortion[offset + int(here)] += total
    else:
        for u in range(begin, end):
            counts[offset + int(label[u])] += 1
            distortion[offset + int(label[u])] += max(norm[u] - np.float32(2) * best[u], np.float32(0))
    return margin, others == np.float32(0)


@kernel()
def gather(rows, tile, begin, end, one_cluster, offset, back):  # type: ignore[no-untyped-def]
    """Add the weights of timesteps begin..end of a run to `back` (Σ L_b, K): the transpose of interpolation."""
    label = tile[LABEL:NORM]
    for m in range(len(rows)):
        weight, row = tile[SCRATCH + m * CHUNK : SCRATCH + (m + 1) * CHUNK], back[rows[m]]
        if one_cluster:
            total = np.float32(0)
            for u in range(len(weight)):
                total += weight[u] if begin <= u < end else np.float32(0)
            row[offset + int(label[begin])] += total
        else:
            for u in range(begin, end):
                row[offset + int(label[u])] += weight[u]


@kernel()
def multiply_back(values, channels, lengths, back, sums):  # type: ignore[no-untyped-def]
    """sums (K, Σ C'_b) = Σ_l back[l, k] r_l for one record, and `back` is zeroed for the next."""
    value, low, column = 0, 0, 0
    for b in range(len(channels)):
        size = channels[b]
        for _ in range(lengths[b]):
            step = values[value : value + size]
            for k in range(back.shape[1]):
                a = back[low, k]
                if a != np.float32(0):
                    target = sums[k, column : column + size]
                    for c in range(size):
                        target[c] += a * step[c]
                    back[low, k] = np.float32(0)
            value, low = value + size, low + 1
        column += size


@kernel(fast=False)
def to_integer(value, scale):  # type: ignore[no-untyped-def]
    """Round to the nearest integer, halves to even, at a scale; one addition instead of a call.

    Adding 1.5 · 2⁵² leaves no room for a fraction below 2⁵¹; larger values have none that matters at these scales.
    """
    scaled = value * scale
    if abs(scaled) < 2.0**51:
        shifted = scaled + 6755399441055744.0
        return np.int64(shifted - 6755399441055744.0)
    return np.int64(scaled)
