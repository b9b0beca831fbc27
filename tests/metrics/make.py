"""Cases for the measures, with the values that other people's code gives: scikit-learn, and for the Numenta score and
the changepoints of SKAB the published formulas, written down here independently.

    python tests/metrics/make.py > tests/metrics/cases.json     # scikit-learn 1.x, numpy

A value that is not defined is null. Random numbers start from a fixed seed.
"""
import json
import math
import warnings

import numpy as np
from sklearn import metrics as m

warnings.filterwarnings("ignore")
rng = np.random.default_rng(20261124)


def one_class(labels):
    return len(set(labels)) < 2


def binary():
    shapes = [("empty", 0, 0.5), ("all normal", 12, 0.0), ("all faulty", 9, 1.0), ("one row", 1, 1.0)]
    shapes += [(f"random {n}", n, p) for n, p in [(2, 0.5), (7, 0.4), (40, 0.1), (200, 0.537), (999, 0.03)]]
    for name, n, p in shapes:
        for kind in ["smooth", "ties", "same", "missing"]:
            labels = (rng.random(n) < p).astype(int)
            scores = rng.random(n) * 0.7 + 0.3 * labels * rng.random(n)
            if kind == "ties":
                scores = np.round(scores * 4) / 4
            if kind == "same":
                scores = np.full(n, 0.25)
            given = [float(s) for s in scores]
            if kind == "missing":
                for at in range(0, n, 5):
                    given[at] = None
                # A row without a score is the least suspicious of all.
                scores = np.array([-1e9 if s is None else s for s in given])
            alarmed = (scores >= 0.5).astype(int)
            case = {"name": f"{name}, {kind}", "labels": labels.tolist(), "scores": given, "threshold": 0.5}
            both = n > 0 and not one_class(labels)
            case["roc_auc"] = float(m.roc_auc_score(labels, scores)) if both else None
            case["pr_auc"] = float(m.average_precision_score(labels, scores)) if both else None
            if n:
                case["accuracy"] = float(m.accuracy_score(labels, alarmed))
                case["precision"] = float(m.precision_score(labels, alarmed, zero_division=0))
                case["recall"] = float(m.recall_score(labels, alarmed, zero_division=0))
                case["f1"] = float(m.f1_score(labels, alarmed, zero_division=0))
                kappa = float(m.cohen_kappa_score(labels, alarmed))
                case["kappa"] = None if math.isnan(kappa) else kappa
                matrix = m.confusion_matrix(labels, alarmed, labels=[0, 1])
                case["confusion"] = [int(x) for x in matrix.ravel()]
            if n and kind != "missing":
                case["brier"] = float(np.mean((scores - labels) ** 2))
                if both:
                    assert abs(case["brier"] - m.brier_score_loss(labels, scores)) < 1e-12
                case["ece"] = ece(scores, labels)
            yield case


def ece(chances, labels, bins=10):
    place = np.minimum((chances * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        here = place == b
        if here.any():
            total += here.sum() * abs(chances[here].mean() - labels[here].mean())
    return float(total / len(labels))


def classes():
    for n, k in [(1, 2), (20, 3), (300, 6), (50, 4)]:
        truth = rng.integers(0, k, n)
        found = np.where(rng.random(n) < 0.6, truth, rng.integers(0, k, n))
        if k == 4:
            truth[truth == 3] = 0  # a class that never is, but is answered
        kappa = float(m.cohen_kappa_score(truth, found))
        each = m.precision_recall_fscore_support(truth, found, labels=range(k), zero_division=0)
        yield {
            "each": [[float(value) for value in row] for row in zip(*each)],
            "k": k, "truth": truth.tolist(), "found": found.tolist(),
            "matrix": m.confusion_matrix(truth, found, labels=range(k)).tolist(),
            "accuracy": float(m.accuracy_score(truth, found)),
            "macro_f1": float(m.f1_score(truth, found, average="macro", zero_division=0)),
            "kappa": None if math.isnan(kappa) else kappa,
        }


def regression():
    for n in [1, 5, 100]:
        truth = np.round(rng.random(n) * 150, 3)
        found = truth + rng.normal(0, 12, n)
        d = found - truth
        yield {
            "truth": truth.tolist(), "found": found.tolist(),
            "rmse": float(math.sqrt(m.mean_squared_error(truth, found))),
            "mae": float(m.mean_absolute_error(truth, found)),
            "nasa": float(np.sum(np.where(d < 0, np.exp(-d / 13) - 1, np.exp(d / 10) - 1))),
        }


PROFILES = [(1.0, 0.11, 1.0), (1.0, 0.22, 1.0), (1.0, 0.11, 2.0)]


def worth(position):
    """The scaled sigmoid of Lavin and Ahmad, 2015."""
    return -1.0 if position >= 3 else 2 / (1 + math.exp(5 * position)) - 1


def nab_score(n, found, windows, tp, fp, fn):
    probation = min(math.floor(0.15 * n), 750)
    total, best = 0.0, {}
    for row in range(probation, n):
        inside = [w for w in windows if w[0] <= row <= w[1]]
        if not inside:
            if row in found:
                past = [w for w in windows if w[1] < row]
                position = 3.0 if not past else (row - past[-1][1]) / (past[-1][1] - past[-1][0])
                total += fp * worth(position)
        else:
            left, right = inside[0]
            best.setdefault(left, -fn)
            if row in found:
                value = worth(-(right - row + 1) / (right - left + 1)) * tp / worth(-1.0)
                best[left] = max(best[left], value)
    return total + sum(best.values()), -fn * len(best), tp * len(best)


def nab():
    for n, windows in [(1000, [(200, 260), (500, 599), (900, 950)]), (8000, [(300, 700), (2000, 2600)]), (400, [])]:
        for share in [0.0, 0.002, 0.05, 1.0]:
            found = sorted(int(x) for x in np.where(rng.random(n) < share)[0])
            results = [nab_score(n, set(found), windows, *p) for p in PROFILES]
            yield {"rows": n, "windows": windows, "found": found, "results": results}


def cp_score(truth, found, width, tp, fp, fn):
    """Windows to the right of each change; where two overlap, the later one is cut."""
    windows = [[at, at + width] for at in truth]
    for a, b in zip(windows, windows[1:]):
        if a[1] >= b[0]:
            b[0] = a[1]
    x = np.linspace(-math.pi / 2, math.pi / 2, 1000)
    y = (tp + fp) / 2 * -np.tanh(x) / np.tanh(math.pi / 2) + (tp - fp) / 2
    score, missed = 0.0, 0
    for left, right in windows:
        hits = [at for at in found if left <= at <= right]
        if hits:
            score += float(y[min((hits[0] - left) * 1000 // (right - left), 999)])
        else:
            score, missed = score - fn, missed + 1
    outside = [at for at in found if not any(left <= at <= right for left, right in windows)]
    score -= fp * len(outside)
    return [score, -fn * len(windows), tp * len(windows), missed, len(outside)]


def changepoints():
    for truth in [[], [100], [600, 660, 960, 1021], [100, 120, 180]]:
        for count in [0, 1, 4, 30]:
            found = sorted(set(int(x) for x in rng.integers(0, 1200, count)))
            results = [cp_score(truth, found, 60, *p) for p in PROFILES]
            yield {"truth": truth, "found": found, "results": results}


print(json.dumps({
    "binary": list(binary()), "classes": list(classes()), "regression": list(regression()),
    "nab": list(nab()), "changepoints": list(changepoints()),
}, separators=(",", ":")))
