"""Makes tests/spectra/cases.json and tests/golden/bearing/input.ndjson: waveforms of bearings, and what NumPy and SciPy
find in them by another road than the engine: filtered signals instead of sums over their spectra.

python tests/spectra/make.py   (needs numpy, scipy; deterministic)
"""
import json
import math
import pathlib

import numpy as np
from scipy.signal import hilbert
from scipy.signal.windows import hann

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "bearing"


def waveform(case):
    """Strikes that ring, a shaft, and noise from a linear congruence; tests/oracle.rs makes the same."""
    rate, strikes, shaft = case["rate"], case["strikes"], case["speed"]
    state, samples = case["seed"], []
    for at in range(case["count"]):
        state = (state * 1664525 + 1013904223) % 2**32
        t = at / rate
        since = t % (1 / strikes)
        ring = math.exp(-since * rate / 15) * math.sin(2 * math.pi * rate * 0.26 * since)
        turn = math.sin(2 * math.pi * shaft * t)
        samples.append(case["strength"] * ring + 2 * turn + state / 2**31 - 1 + case["offset"])
    return np.array(samples)


def filtered(x, rate, low, high):
    spectrum = np.fft.rfft(x)
    frequency = np.fft.rfftfreq(len(x), 1 / rate)
    spectrum[(frequency < low) | (frequency > high)] = 0
    return np.fft.irfft(spectrum, len(x))


def orders(balls, ball, pitch, angle):
    ratio = ball / pitch * math.cos(math.radians(angle))
    return [balls / 2 * (1 - ratio), balls / 2 * (1 + ratio), pitch / ball * (1 - ratio**2), (1 - ratio) / 2]


def prominence(amplitude, frequency, line, shaft):
    """Mean height of three harmonics over the highest of as many lines of noise, in dB, without the shaft's lines."""
    off = np.abs(frequency / shaft - np.round(frequency / shaft)) * shaft
    free = off > 1.5 * frequency[1]
    heights = []
    for harmonic in (1, 2, 3):
        centre = line * harmonic
        reach = max(0.02 * centre, frequency[1])
        near = amplitude[free & (np.abs(frequency - centre) <= reach)]
        ground = np.sort(amplitude[free & (frequency >= 0.7 * centre) & (frequency <= 1.3 * centre)])
        if len(near):
            noise = math.sqrt(math.log(len(near) + 1) / math.log(2))
            heights.append(20 * math.log10(near.max() / (ground[len(ground) // 2] * noise)))
    return sum(heights) / len(heights)


def found(case, x):
    rate, band = case["rate"], case["band"] or [case["rate"] / 6, case["rate"] / 2]
    strikes = np.abs(hilbert(filtered(x, rate, *band)))
    strikes -= strikes.mean()
    amplitude = np.abs(np.fft.rfft(strikes * hann(len(x), sym=False))) * 4 / len(x)
    frequency = np.fft.rfftfreq(len(x), 1 / rate)
    lines = {
        name: prominence(amplitude, frequency, order * case["speed"], case["speed"])
        for name, order in zip(["bpfo", "bpfi", "bsf", "ftf"], orders(**case["geometry"]))
    }
    low, high = case["rms"]
    return lines | {f"rms_{low}_{high}": math.sqrt(np.mean(filtered(x, rate, low, high) ** 2))}


def cases():
    skf = dict(balls=9, ball=7.94, pitch=39.04, angle=0)
    tilted = dict(balls=12, ball=9.5, pitch=46.0, angle=15)
    plain = dict(strength=3.0, offset=0.0, seed=7)
    yield dict(plain, rate=12000, count=24000, speed=29.9537, strikes=107.4, geometry=skf, band=[2000, 5000], rms=[10, 1000])
    yield dict(plain, rate=12000, count=23999, speed=29.5137, strikes=159.8, geometry=skf, band=None, rms=[0, 6000], offset=4.0)
    yield dict(plain, rate=25600, count=25600, speed=24.3137, strikes=116.5, geometry=tilted, band=[5000, 9000], rms=[3000, 12800])
    yield dict(plain, rate=10000, count=9000, speed=49.8137, strikes=235.7, geometry=skf, band=None, rms=[40, 60], strength=0.0)


def golden():
    """1.8 s at 1.2 kHz: a whole window, and one in which 0.1 s of samples are lost. The speed comes once a second,
    beside the grid."""
    case = dict(rate=1200, count=2160, speed=25.0, strikes=61.25, strength=4.0, offset=0.0, seed=3, band=[150, 600],
                rms=[10, 100], geometry=dict(balls=7, ball=12.0, pitch=40.0, angle=0))
    x = waveform(case).round(3)
    start = 1772366400_000000
    lines = []
    for first in range(0, len(x), 120):
        if first == 1560:
            continue
        samples = []
        for at in range(first, min(first + 120, len(x))):
            samples.append({"t": start + at * 1000000 // 1200, "a": x[at]})
        if first % 1200 == 0:
            samples.append({"t": start + first * 1000000 // 1200 + 333, "n": 1500})
        lines.append({"at": "2026-03-01T12:00:05Z", "asset": "m1", "payload": {"samples": samples}})
    last = {"samples": [{"t": start + 1_900_000, "n": 1500}]}
    lines.append({"at": "2026-03-01T12:00:05Z", "asset": "m1", "payload": last})
    lines.append({"at": "2026-03-01T12:01:00Z"})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (GOLDEN / "input.ndjson").write_text(text)
    # `expected.ndjson` is the engine's; it must be this.
    expected = GOLDEN / "expected.ndjson"
    if expected.exists():
        features = json.loads(expected.read_text().splitlines()[0])["features"]
        for name, value in found(case, x[:1200]).items():
            assert abs(features[f"a.{name}"] - value) < 1e-6, (name, value, features)
        print("golden case is as computed here")


made = [case | {"found": found(case, waveform(case))} for case in cases()]
(HERE / "cases.json").write_text(json.dumps(made, indent=1) + "\n")
for case in made:
    print({name: round(value, 3) for name, value in case["found"].items()})
golden()
