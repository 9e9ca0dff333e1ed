# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% shd 1: a reversed edge counts twice
def hamming(graph, truth):
    off = ~np.eye(len(truth), dtype=bool)
    return int((np.asarray(graph).astype(bool) != np.asarray(truth).astype(bool))[off].sum())


# %% shd 1: forgets directions
def hamming(graph, truth):
    a, b = (np.triu(np.asarray(g) + np.asarray(g).T, k=1) > 0 for g in (graph, truth))
    return int((a != b).sum())


# %% order 0: moves the data but not the truth
def fair_share(method, bold, truth, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return float(
        np.mean(
            [share_right(method(bold[:, rng.permutation(len(truth))]), truth) for _ in range(n)]
        )
    )


# %% order 2: draws one order and uses it n times
def fair_share(method, bold, truth, n=40, seed=0):
    order = np.random.default_rng(seed).permutation(len(truth))
    return share_right(method(bold[:, order]), truth[np.ix_(order, order)])


# %% lingam 3: points every edge the wrong way
def direction(bold):
    z = standardise(bold)
    half = z @ np.tanh(z).swapaxes(-1, -2) / z.shape[-1]
    return (z @ z.swapaxes(-1, -2) / z.shape[-1] * (half.swapaxes(-1, -2) - half)).mean(0)


# %% lingam 3: asks the past
def direction(bold):
    return lagged(bold)
