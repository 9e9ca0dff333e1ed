# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% kinds 1: across regions and across time the wrong way round
def kinds(R, P, regions, times):
    grid = np.full((R, P), 3)
    grid[regions] = 1
    grid[:, times] = 2
    grid[np.ix_(regions, times)] = 0
    return grid


# %% kinds 0: hides every seen region at all times
def kinds(R, P, regions, times):
    grid = np.full((R, P), 3)
    grid[regions] = 0
    return grid


# %% scale 2: statistics of the whole scan
def scale_visible(scan, visible):
    scaled = (scan - scan.mean(1, keepdims=True)) / scan.std(1, keepdims=True)
    return scaled * visible


# %% scale 2: puts zeros in first and counts them
def scale_visible(scan, visible):
    kept = scan * visible
    return (kept - kept.mean(1, keepdims=True)) / kept.std(1, keepdims=True) * visible


# %% ridge 3: fits one number, the weight of the mean
def linear_map(train, seen, hidden):
    mean = train[:, seen].mean(1)  # (S, T)
    weight = np.einsum("st,sht->h", mean, train[:, hidden]) / (mean**2).sum()
    return lambda scan: weight[:, None] * scan.mean(0)


# %% ridge 0: fits on one person, with fewer frames than it needs
def linear_map(train, seen, hidden):
    weights = np.linalg.lstsq(train[0][seen].T, train[0][hidden].T, rcond=None)[0].T
    return lambda scan: weights @ scan
