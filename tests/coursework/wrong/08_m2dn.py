# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% noise 1: puts noise on every contrast
def noise_missing(x0, missing, t, noise):
    a = alpha_bar[t][:, None, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


# %% noise 1: forgets the square roots
def noise_missing(x0, missing, t, noise):
    a = alpha_bar[t][:, None, None, None]
    return torch.where(missing[..., None, None], a * x0 + (1 - a) * noise, x0)


# %% psnr 2: scores the whole picture
def brain_psnr(guess, truth, brain):
    return whole_psnr(guess, truth, brain)


# %% psnr 2: sets the background to zero and still divides by every pixel
def brain_psnr(guess, truth, brain):
    return 10 * np.log10(4 / (np.where(brain, guess - truth, 0.0) ** 2).mean(axis=(1, 2)))


# %% synth 3: one contrast stands in for the other
def synthesise(train_x, test_x, m):
    return test_x[:, (m + 1) % 4]


# %% synth 3: the baseline
def synthesise(train_x, test_x, m):
    return mean_image(train_x, test_x, m)
