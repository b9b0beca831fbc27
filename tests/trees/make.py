"""Makes tests/trees/cases.json: small random cases with what other boosters make of them.

python tests/trees/make.py   (needs numpy, scikit-learn, lightgbm; deterministic)
"""
import json
import pathlib

import lightgbm
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import log_loss, mean_squared_error

ROUNDS, RATE, DEPTH, LEAF = 120, 0.08, 4, 5
TRAIN, TEST, WIDTH = 400, 300, 5


def case(name, classes, missing, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(TRAIN + TEST, WIDTH)).round(3)
    hidden = 2 * np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + (x[:, 3] > 0.5) * 1.5
    hidden = hidden + rng.normal(size=len(x)) * 0.5
    if missing:
        x[rng.random(x.shape) < 0.15] = np.nan
    if classes == 0:
        y = hidden.round(3)
    else:
        edges = np.quantile(hidden, {2: [0.9], 3: [0.4, 0.8]}[classes])
        y = np.digitize(hidden, edges).astype(float)
    a, b, ya, yb = x[:TRAIN], x[TRAIN:], y[:TRAIN], y[TRAIN:]
    plain = dict(learning_rate=RATE, max_depth=DEPTH)
    if classes == 0:
        scikit = HistGradientBoostingRegressor(
            max_iter=ROUNDS, min_samples_leaf=LEAF, l2_regularization=1.0, early_stopping=False, max_leaf_nodes=None, **plain)
        light = lightgbm.LGBMRegressor(
            n_estimators=ROUNDS, min_child_samples=LEAF, num_leaves=2**DEPTH, reg_lambda=1.0, verbose=-1, n_jobs=1, **plain)
        loss = lambda model: mean_squared_error(yb, model.fit(a, ya).predict(b))
    else:
        scikit = HistGradientBoostingClassifier(
            max_iter=ROUNDS, min_samples_leaf=LEAF, l2_regularization=1.0, early_stopping=False, max_leaf_nodes=None, **plain)
        light = lightgbm.LGBMClassifier(
            n_estimators=ROUNDS, min_child_samples=LEAF, num_leaves=2**DEPTH, reg_lambda=1.0, verbose=-1, n_jobs=1, **plain)
        loss = lambda model: log_loss(yb, model.fit(a, ya).predict_proba(b))
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in x]
    return dict(name=name, classes=classes, train=TRAIN, rows=rows, targets=y.tolist(),
                scikit_learn=round(loss(scikit), 5), lightgbm=round(loss(light), 5))


cases = [
    case("number", 0, False, 1), case("number, values missing", 0, True, 2),
    case("chance, one in ten", 2, False, 3), case("chance, values missing", 2, True, 4),
    case("three classes", 3, False, 5),
]
out = dict(rounds=ROUNDS, learning_rate=RATE, depth=DEPTH, leaf_rows=LEAF, width=WIDTH, cases=cases)
pathlib.Path(__file__).with_name("cases.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
for c in cases:
    print(c["name"], c["scikit_learn"], c["lightgbm"])
