# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% scrub 1: drops the bad frame alone
def good_frames(displacement, limit, before=1, after=2):
    return np.asarray(displacement) <= limit


# %% scrub 1: takes the scan for a circle
def good_frames(displacement, limit, before=1, after=2):
    bad = np.asarray(displacement) > limit
    return ~np.any([np.roll(bad, k) for k in range(-before, after + 1)], axis=0)


# %% length 2: trusts shrinkage to remove what scan length does
def fair_connectivity(scans):
    return np.stack([connectivity.ledoit_wolf(scan)[0] for scan in scans])


# %% length 0: pads the short scans with zeros
def fair_connectivity(scans):
    longest = max(scan.shape[1] for scan in scans)
    padded = [np.pad(scan, ((0, 0), (0, longest - scan.shape[1]))) for scan in scans]
    return np.stack([np.cov(scan) for scan in padded])


# %% alpha 3: absolute power, which follows the gain
def closed_score(segments, rate):
    f, power = welch(segments, rate, nperseg=rate)
    return power[..., (f >= 8) & (f <= 12)].sum(axis=(1, 2))


# %% alpha 0: the wrong band
def closed_score(segments, rate):
    f, power = welch(segments, rate, nperseg=rate)
    return np.log(power[..., (f >= 13) & (f <= 30)].sum(axis=(1, 2)) / power.sum(axis=(1, 2)))
