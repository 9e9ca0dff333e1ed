# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% band 1: takes frames for seconds
def without_band(x, tr, low, high):
    spectrum = np.fft.rfft(x, axis=-1)
    f = np.fft.rfftfreq(x.shape[-1], 2.0)
    spectrum[:, (f >= low) & (f <= high)] = 0
    return np.fft.irfft(spectrum, x.shape[-1], axis=-1)


# %% band 0: keeps the band instead of removing it
def without_band(x, tr, low, high):
    spectrum = np.fft.rfft(x, axis=-1)
    f = np.fft.rfftfreq(x.shape[-1], tr)
    spectrum[:, (f < low) | (f > high)] = 0
    return np.fft.irfft(spectrum, x.shape[-1], axis=-1)


# %% folds 2: deals runs instead of people
def folds(ids, n_folds, seed=0):
    return np.random.default_rng(seed).permutation(len(ids)) % n_folds


# %% folds 2: draws a fold for each person, without keeping them equal
def folds(ids, n_folds, seed=0):
    people, row = np.unique(ids, return_inverse=True)
    return np.random.default_rng(seed).integers(0, n_folds, len(people))[row]


# %% fuse 3: the baseline with another penalty
def fuse(fmri, eeg, y, test_fmri, test_eeg):
    return zeros(fmri, eeg, y, test_fmri, test_eeg)


# %% fuse 3: listens to one modality
def fuse(fmri, eeg, y, test_fmri, test_eeg):
    has, can = ~np.isnan(eeg).any(1), ~np.isnan(test_eeg).any(1)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(eeg[has], y[has])
    score = np.zeros(len(test_eeg))
    score[can] = model.decision_function(test_eeg[can])
    return score
