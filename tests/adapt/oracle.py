"""Writes oracle.json: what scipy, numpy and river make of random cases, for tests/adapt.rs.

pip install scipy numpy river; python tests/adapt/oracle.py
"""
import json
import math
import pathlib

import numpy as np
from river.drift.adwin import AdaptiveWindowing
from scipy import optimize, stats

RNG = np.random.default_rng(20260101)


def likelihood(shape, scale, y, c=()):
    """Of excesses y, and of others of which is known that they were at least c."""
    if scale <= 0:
        return -math.inf
    value = stats.genpareto.logpdf(y, shape, scale=scale).sum()
    return value + (stats.genpareto.logsf(c, shape, scale=scale).sum() if len(c) else 0.0)


def fit(y, c=()):
    """The best local maximum with shape above -1, from many starts."""
    best = (0.0, (y.sum() + sum(c)) / len(y))
    for shape in (-0.9, -0.5, -0.2, 0.01, 0.2, 0.5, 1.0):
        for scale in (0.3, 1.0, 2.0):
            start = [shape, math.log(scale * y.mean() * (2.0 if shape < 0 else 1.0))]
            def loss(p):
                if p[0] <= -0.999:
                    return 1e9
                value = likelihood(p[0], math.exp(p[1]), y, c)
                return -value if math.isfinite(value) else 1e9
            got = optimize.minimize(loss, start, method="Nelder-Mead",
                                    options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000})
            shape_, scale_ = got.x[0], math.exp(got.x[1])
            if shape_ > -0.99 and likelihood(shape_, scale_, y, c) > likelihood(*best, y, c) + 1e-9:
                best = (shape_, scale_)
    return best


def pareto_cases():
    cases = []
    for shape in (-0.4, -0.2, 0.0, 0.15, 0.4):
        for n in (24, 60, 200):
            y = np.round(stats.genpareto.rvs(shape, scale=RNG.uniform(0.1, 30), size=n, random_state=RNG), 6)
            y, c = y[y > 0], []
            if n == 60:  # the largest are known only to be at least so large
                limit = float(np.round(np.quantile(y, 0.93), 6))
                y, c = y[y < limit], [limit] * int((y >= limit).sum())
            got = fit(y, c)
            cases.append({
                "excesses": y.tolist(), "open": c, "shape": got[0], "scale": got[1],
                "likelihood": likelihood(*got, y, c),
                "passed": [float(stats.genpareto.isf(p, got[0], scale=got[1])) for p in (0.1, 0.01, 0.001)],
            })
    return cases


def tail_cases():
    """Peaks over the 95 % quantile of 1000 values, then SPOT without anomalies."""
    cases = []
    for name, draw in (
        ("normal", lambda n: RNG.normal(size=n)),
        ("exponential", lambda n: RNG.exponential(size=n)),
        ("gamma", lambda n: RNG.gamma(2.0, 3.0, size=n)),
    ):
        x = np.round(draw(1400), 5)
        first = x[:1000]
        order = np.argsort(-first, kind="stable")[:51]
        level = first[order].min()
        peaks = [v - level for v in first if v > level]
        peaks += [v - level for v in x[1000:] if v > level]
        peaks = np.array(peaks[-256:])
        # The library fits anew with every eighth peak: give only whole eighths.
        new = len(peaks) - int((first > level).sum())
        shape, scale = fit(peaks)
        rate = len(peaks) / len(x)
        q = 1e-4
        cases.append({"name": name, "values": x.tolist(), "level": level, "peaks": len(peaks), "new": new, "q": q,
                      "value": level + float(stats.genpareto.isf(q / rate, shape, scale=scale))})
    return cases


def tenths_cases():
    cases = []
    for name, base, now in (
        ("same", RNG.normal(size=4000), RNG.normal(size=900)),
        ("shifted", RNG.normal(size=4000), RNG.normal(0.6, 1, size=900)),
        ("wider", RNG.normal(size=4000), RNG.normal(0, 2, size=900)),
        ("far", RNG.normal(size=4000), RNG.normal(20, 1, size=900)),
        ("skewed", RNG.gamma(1.5, size=3000), RNG.gamma(2.5, size=500)),
        ("few", RNG.normal(size=4000), RNG.normal(0.4, 1, size=40)),
    ):
        edges = np.quantile(base, np.linspace(0, 1, 11)).astype(np.float32)
        now = now.astype(np.float32)
        inner = np.concatenate([[-np.inf], edges[1:-1], [np.inf]])
        actual = np.histogram(now, bins=inner)[0] / len(now)
        a, e = np.clip(actual, 1e-4, None), np.full(10, 0.1)
        psi = float(((a - e) * np.log(a / e)).sum())
        # scipy's D against the piecewise-linear distribution that the tenths describe, at the edges alone.
        at_edges = max(abs((now < edge).mean() - k / 10) for k, edge in enumerate(edges[1:-1], start=1))
        whole = float(stats.ks_2samp(base, now).statistic)
        cases.append({"name": name, "edges": edges.tolist(), "windows": len(base), "values": now.tolist(),
                      "psi": psi, "ks": float(at_edges), "ks_whole": whole})
    return cases


def adwin_cases():
    cases = []
    for name, parts in (
        ("steady", [(0.5, 0.1, 1500)]),
        ("step", [(0.3, 0.1, 700), (0.6, 0.1, 700)]),
        ("small step", [(0.5, 0.15, 900), (0.58, 0.15, 900)]),
        ("two steps", [(0.2, 0.05, 400), (0.8, 0.05, 300), (0.4, 0.05, 500)]),
    ):
        x = np.round(np.clip(np.concatenate([RNG.normal(m, s, n) for m, s, n in parts]), 0, 1), 4)
        helper = AdaptiveWindowing(delta=0.002, clock=32, max_buckets=5, min_window_length=5, grace_period=10)
        detected, widths = [], []
        for i, v in enumerate(x):
            if helper.update(float(v)):
                detected.append(i)
            if i % 50 == 49:
                widths.append(int(helper.get_width()))
        cases.append({"name": name, "values": x.tolist(), "detected": detected, "widths": widths})
    return cases


out = {"pareto": pareto_cases(), "tail": tail_cases(), "tenths": tenths_cases(), "adwin": adwin_cases()}
path = pathlib.Path(__file__).with_name("oracle.json")
path.write_text(json.dumps(out, separators=(",", ":")).replace('},{', '},\n{') + "\n")
print(path.stat().st_size, [c["detected"] for c in out["adwin"]])
