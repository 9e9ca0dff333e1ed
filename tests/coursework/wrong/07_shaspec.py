# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% drop 1: leaves samples with nothing
def draw_available(B, M, rate, generator):
    return torch.rand(B, M, generator=generator) >= rate


# %% drop 1: always keeps the first modality
def draw_available(B, M, rate, generator):
    available = torch.rand(B, M, generator=generator) >= rate
    available[:, 0] = True
    return available


# %% mean 2: multiplies by zero, and zero times nan is nan
def mean_of_available(features, available):
    return (features * available[..., None]).sum(1) / available.sum(1, keepdim=True)


# %% mean 0: divides by the number of modalities
def mean_of_available(features, available):
    return features.masked_fill(~available[..., None], 0.0).mean(1)


# %% beat 3: zeros instead of the mean
def segment(train_x, train_y, test_x):
    return fill_with_mean(train_x, train_y, np.nan_to_num(test_x))


# %% beat 3: the mean of the contrasts at hand in place of the missing ones
def segment(train_x, train_y, test_x):
    mean = np.nanmean(test_x, axis=1, keepdims=True)
    return fill_with_mean(train_x, train_y, np.where(np.isnan(test_x), mean, test_x))
