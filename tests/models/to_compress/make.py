"""Makes the models of tests/model/compress.rs with PyTorch, and says how far ONNX Runtime's own quantisation of each is off.

    python -m venv env && env/bin/pip install numpy onnx onnxruntime torch
    env/bin/python tests/models/to_compress/make.py

`expected` are PyTorch's scores; `dynamic` and `static` the largest differences that `quantize_dynamic` (weights of 7 bits, one
scale a channel) and `quantize_static` (QDQ, min-max, calibrated on `calibration`) make of them on the same rows.
"""

import json
import pathlib
import shutil
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_dynamic, quantize_static

HERE = pathlib.Path(__file__).parent
RANDOM = np.random.default_rng(11)
torch.manual_seed(11)
nn = torch.nn
cases = []


class Dense(nn.Module):
    """Gemm, with a wide part that can be pruned."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, x):
        return self.parts(x)


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Conv1d(3, 24, 5), nn.ReLU(), nn.Conv1d(24, 16, 3), nn.ReLU())
        self.out = nn.Linear(16, 1)

    def forward(self, x):
        return self.out(self.parts(x).mean(dim=2))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(3, 16, batch_first=True)
        self.out = nn.Linear(16, 1)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(3, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, dropout=0.0, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(32, 1)

    def forward(self, x):
        return self.out(self.layers(self.wide(x)).mean(dim=1))


class Table(nn.Module):
    """Each of 8 channels is one of 64 states."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(64, 8)
        self.out = nn.Linear(64, 1)

    def forward(self, x):
        return self.out(self.table(torch.clamp(x * 8 + 32, 0, 63).long()).flatten(1))


class Rows(CalibrationDataReader):
    def __init__(self, rows):
        self.rows = iter(rows)

    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {"x": row[None]}


def off(path, rows, expected):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return float(np.abs(session.run(None, {"x": rows})[0].ravel() - expected).max())


def case(name, model, shape, input, opset=17, beside=False):
    model = model.eval()
    rows = RANDOM.normal(size=(24, *shape)).astype(np.float32)
    calibration = RANDOM.normal(size=(48, *shape)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(rows)).numpy().ravel()
    path = HERE / f"{name}.onnx"
    axes = {"x": {0: "n"}, "score": {0: "n"}}
    torch.onnx.export(model, (torch.from_numpy(rows[:1]),), path, input_names=["x"], output_names=["score"],
                      dynamic_axes=axes, opset_version=opset, dynamo=False)
    with tempfile.TemporaryDirectory() as folder:
        dynamic, static = f"{folder}/dynamic.onnx", f"{folder}/static.onnx"
        quantize_dynamic(path, dynamic, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        quantize_static(path, static, Rows(calibration), per_channel=True, reduce_range=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        calibrate_method=CalibrationMethod.MinMax)
        errors = {"dynamic": off(dynamic, rows, expected), "static": off(static, rows, expected)}
    if beside:
        made = onnx.load(path)
        path.unlink()
        shutil.rmtree(HERE / name, ignore_errors=True)
        (HERE / name).mkdir()
        onnx.save(made, HERE / name / f"{name}.onnx", save_as_external_data=True, location="weights.bin", size_threshold=256)
    rounded = lambda a: [[round(float(v), 6) for v in row.ravel()] for row in a]
    cases.append({
        "file": f"{name}/{name}.onnx" if beside else f"{name}.onnx", "input": input, "shape": list(shape),
        "rows": rounded(rows), "calibration": rounded(calibration[:16]), "expected": [float(v) for v in expected], **errors,
    })


case("dense", Dense(), (16,), "features")
case("convolved", Convolved(), (3, 16), "channels_first")
case("recurrent", Recurrent(), (12, 3), "sequence")
case("attending", Attending(), (12, 3), "sequence")
case("attending_beside", Attending(), (12, 3), "sequence", opset=18, beside=True)
case("table", Table(), (8,), "features")
(HERE / "expected.json").write_text(json.dumps(cases) + "\n")
for c in cases:
    spread = max(c["expected"]) - min(c["expected"])
    print(c["file"], "scores spread", round(spread, 4), "dynamic off", c["dynamic"], "static off", c["static"])
