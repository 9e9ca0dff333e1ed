# Typical wrong answers. Above each: the solution cell, the points it should earn, the mistake.

# %% auc 1: ties count nothing
def auc(y, score):
    y, score = np.asarray(y), np.asarray(score)
    return float((score[y == 1][:, None] > score[y == 0][None]).mean())


# %% auc 0: accuracy at the median
def auc(y, score):
    return float((np.asarray(y) == (np.asarray(score) > np.median(score))).mean())


# %% leak 2: chooses with the test people's labels
def honest_scores(x, y, fold, n_edges=50):
    return leaky_scores(x, y, fold, n_edges)


# %% leak 2: chooses without labels, by variance, and misses the effect
def honest_scores(x, y, fold, n_edges=50):
    scores = np.zeros(len(y))
    for k in np.unique(fold):
        test = fold == k
        chosen = x[~test].var(axis=0).argsort()[:n_edges]
        model = make_pipeline(StandardScaler(), LogisticRegression())
        scores[test] = model.fit(x[~test][:, chosen], y[~test]).decision_function(
            x[test][:, chosen]
        )
    return scores


# %% beat 3: the baseline with another penalty
def informed(train_fc, train_y, test_fc, networks):
    return all_edges(train_fc, train_y, test_fc, networks)


# %% beat 3: scales with the test people
def informed(train_fc, train_y, test_fc, networks):
    inside = np.array(networks) == "Default"
    train, test = (connectivity.upper(fc[:, inside][:, :, inside]) for fc in (train_fc, test_fc))
    both = np.r_[train, test]
    train, test = ((x - both.mean(0)) / both.std(0) for x in (train, test))
    return LogisticRegression(C=1e-2).fit(train, train_y).decision_function(test)
