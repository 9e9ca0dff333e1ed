# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% mask 1: hides the rows only
def hide(fc, hidden, token=0.0):
    masked = fc.clone()
    for b, regions in enumerate(hidden):
        masked[b, regions] = token
    return masked


# %% mask 1: hides the regions of the first person in everybody
def hide(fc, hidden, token=0.0):
    masked = fc.clone()
    masked[:, hidden[0]] = token
    masked[:, :, hidden[0]] = token
    return masked


# %% steal 2: believes the token where two hidden regions meet
def steal(masked, hidden):
    return masked[:, hidden].mT


# %% steal 0: reads the row that was masked
def steal(masked, hidden):
    return masked[hidden]


# %% nce 3: contrasts with the regions of all people
def which_region(prediction, truth, tau=0.1):
    p, t = (F.normalize(x.flatten(0, 1), dim=-1) for x in (prediction, truth))
    similar = p @ t.mT / tau
    target = torch.arange(len(p))
    return F.cross_entropy(similar, target), float((similar.argmax(-1) == target).float().mean())


# %% nce 3: softmax over the predictions instead of the candidates
def which_region(prediction, truth, tau=0.1):
    similar = F.normalize(prediction, dim=-1) @ F.normalize(truth, dim=-1).mT / tau
    target = torch.arange(similar.shape[1]).expand(similar.shape[:2])
    accuracy = float((similar.argmax(1) == target).float().mean())
    return F.cross_entropy(similar, target), accuracy
