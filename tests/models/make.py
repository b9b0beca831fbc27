"""Makes the models of tests/model/conformance.rs, and what each must answer, from the libraries that people export with.

    python -m venv env && env/bin/pip install numpy onnx scikit-learn skl2onnx onnxmltools lightgbm xgboost torch onnxscript
    env/bin/python tests/models/make.py

The expected scores come from the library that trained the model, not from an ONNX runtime; of graphs written by hand, from
numpy. `tract` says whether the built-in runtime has the operators; where it has not, it must say so.
"""

import json
import pathlib
import shutil

import numpy as np
from onnx import TensorProto as T, helper as h, load, numpy_helper, save

HERE = pathlib.Path(__file__).parent
RANDOM = np.random.default_rng(7)
ROWS = RANDOM.normal(size=(6, 3)).astype(np.float32)
LABELS = ROWS[:, 0] + ROWS[:, 1] > 0
MANY = RANDOM.normal(size=(200, 3)).astype(np.float32)
BAD = MANY[:, 0] + 0.5 * MANY[:, 1] > 0.3
cases = []


def case(name, expected, *, rows=ROWS, tract=True, assets=None, **spec):
    """One model with the settings of its `score` stage, its input, and the scores it must give."""
    cases.append(
        {
            "file": f"{name}.onnx",
            "spec": spec,
            "shape": list(rows.shape[1:]),
            "rows": [[round(float(v), 7) for v in row.ravel()] for row in rows],
            # Rows are of one asset each, unless it matters.
            "assets": assets or list(range(len(rows))),
            "expected": [float(v) for v in np.asarray(expected, dtype=np.float64).ravel()],
            "tract": tract,
        }
    )


def graph(name, nodes, inputs, outputs, weights=(), opset=17):
    made = h.make_graph(nodes, name, inputs, outputs, list(weights))
    model = h.make_model(made, opset_imports=[h.make_opsetid("", opset)], ir_version=8)
    save(model, HERE / f"{name}.onnx")


def port(name, kind, *shape):
    return h.make_tensor_value_info(name, kind, list(shape))


def summed(name, kind, kind_out=None, batch="n"):
    """score = the sum of three columns of any type."""
    kind_out = kind_out or kind
    axes = numpy_helper.from_array(np.array([1]), "axes")
    nodes = [
        h.make_node("Cast", ["features"], ["wide"], to=T.FLOAT),
        h.make_node("ReduceSum", ["wide", "axes"], ["sum"], keepdims=0),
        h.make_node("Cast", ["sum"], ["score"], to=kind_out),
    ]
    graph(name, nodes, [port("features", kind, batch, 3)], [port("score", kind_out, batch)], [axes])


def types():
    half = ROWS.astype(np.float16).astype(np.float64)
    summed("float16", T.FLOAT16)
    # The score itself is rounded to float16 too.
    case("float16", half.sum(axis=1).astype(np.float16))
    summed("float64", T.DOUBLE)
    case("float64", ROWS.astype(np.float64).sum(axis=1))
    whole = np.rint(ROWS * 40)
    for name, kind in [("int8", T.INT8), ("int32", T.INT32), ("int64", T.INT64)]:
        summed(name, kind, T.FLOAT)
        # A number that is not whole is rounded, half to even, as DequantizeLinear's counterpart does.
        case(name, whole.sum(axis=1), rows=(ROWS * 40))
    summed("uint8", T.UINT8, T.FLOAT)
    case("uint8", np.clip(whole, 0, 255).sum(axis=1), rows=(ROWS * 40))
    summed("int64_out", T.FLOAT, T.INT64)
    case("int64_out", np.trunc(ROWS.sum(axis=1) * 1.0))
    nodes = [
        h.make_node("ReduceSum", ["features", "axes"], ["sum"], keepdims=0),
        h.make_node("Greater", ["sum", "zero"], ["score"]),
    ]
    weights = [numpy_helper.from_array(np.array([1]), "axes"), numpy_helper.from_array(np.array(0, np.float32), "zero")]
    graph("bool_out", nodes, [port("features", T.FLOAT, "n", 3)], [port("score", T.BOOL, "n")], weights)
    case("bool_out", ROWS.sum(axis=1) > 0)
    summed("batch_of_4", T.FLOAT, batch=4)
    case("batch_of_4", ROWS.sum(axis=1))


def classes():
    """The class is the column with the largest number: as chances, as their place, and with names in the notes."""
    softmax = h.make_node("Softmax", ["features"], ["chances"])
    place = h.make_node("ArgMax", ["chances"], ["place"], axis=1, keepdims=0)
    features = port("features", T.FLOAT, "n", 3)
    chances, places = port("chances", T.FLOAT, "n", 3), port("place", T.INT64, "n")
    graph("class_chances", [softmax], [features], [chances])
    graph("class_places", [softmax, place], [features], [places])
    graph("class_names", [softmax], [features], [chances])
    named = load(HERE / "class_names.onnx")
    meaning = {"chances": {"means": "class", "labels": ["normal", "leak", "bearing"]}}
    h.set_model_props(named, {"forebay.outputs": json.dumps(meaning)})
    save(named, HERE / "class_names.onnx")
    exps = np.exp(ROWS.astype(np.float64))
    case("class_chances", (exps / exps.sum(axis=1, keepdims=True))[:, 2], tensor="chances", **{"class": "2"})
    case("class_places", ROWS.argmax(axis=1) == 2, **{"class": "2"})
    case("class_names", (exps / exps.sum(axis=1, keepdims=True))[:, 1], **{"class": "leak"})


def sklearn_models():
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import IsolationForest, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    text = np.where(BAD, "failing", "healthy")
    forest = RandomForestClassifier(n_estimators=5, max_depth=3, random_state=1).fit(MANY, text)
    # As it comes: the second output is a sequence of maps from label to probability.
    save(to_onnx(forest, MANY[:1], target_opset=17), HERE / "sklearn_maps.onnx")
    failing = list(forest.classes_).index("failing")
    case("sklearn_maps", forest.predict_proba(ROWS)[:, failing], tensor="output_probability", **{"class": "failing"}, tract=False)
    case("sklearn_maps", forest.predict(ROWS) == "failing", tensor="output_label", **{"class": "failing"}, tract=False)

    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(MANY, BAD.astype(int))
    save(to_onnx(linear, MANY[:1], target_opset=17), HERE / "sklearn_int_maps.onnx")
    case("sklearn_int_maps", linear.predict_proba(ROWS)[:, 1], tensor="output_probability", **{"class": "1"}, tract=False)
    save(to_onnx(linear, MANY[:1], target_opset=17, options={"zipmap": False}), HERE / "sklearn_tensor.onnx")
    case("sklearn_tensor", linear.predict_proba(ROWS)[:, 1], tensor="probabilities", **{"class": "1"}, tract=False)
    # The first output is the label, but a class has a chance.
    case("sklearn_tensor", linear.predict_proba(ROWS)[:, 1], **{"class": "1"}, tract=False)

    isolation = IsolationForest(n_estimators=10, max_samples=32, random_state=1).fit(MANY)
    save(to_onnx(isolation, MANY[:1], target_opset={"": 17, "ai.onnx.ml": 3}), HERE / "sklearn_isolation.onnx")
    case("sklearn_isolation", isolation.decision_function(ROWS), tensor="scores", tract=False)

    columns = make_pipeline(
        ColumnTransformer([("scaled", StandardScaler(), [0, 1]), ("as it is", "passthrough", [2])]), LogisticRegression()
    )
    whole = MANY.copy()
    whole[:, 2] = np.rint(whole[:, 2] * 5)
    columns.fit(whole, BAD)
    kinds = [("f0", FloatTensorType([None, 1])), ("f1", FloatTensorType([None, 1])), ("f2", Int64TensorType([None, 1]))]
    made = to_onnx(columns, initial_types=kinds, target_opset=17, options={"zipmap": False})
    save(made, HERE / "sklearn_columns.onnx")
    rows = ROWS.copy()
    rows[:, 2] = np.rint(rows[:, 2] * 5)
    case("sklearn_columns", columns.predict_proba(rows)[:, 1], rows=rows, tensor="probabilities", **{"class": "1"}, tract=False)


def boosted():
    import lightgbm
    import xgboost
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    light = lightgbm.LGBMClassifier(n_estimators=8, max_depth=3, verbose=-1, random_state=1).fit(MANY, BAD.astype(int))
    kind = [("input", FloatTensorType([None, 3]))]
    save(convert_lightgbm(light, initial_types=kind, target_opset=15), HERE / "lightgbm.onnx")
    case("lightgbm", light.predict_proba(ROWS)[:, 1], tensor="probabilities", **{"class": "1"})
    target = MANY[:, 0] * 2 - MANY[:, 2]
    boost = xgboost.XGBRegressor(n_estimators=8, max_depth=3, random_state=1).fit(MANY, target)
    save(convert_xgboost(boost, initial_types=kind, target_opset=15), HERE / "xgboost.onnx")
    case("xgboost", boost.predict(ROWS), tract=False)


def torch_models():
    import torch

    torch.manual_seed(3)
    steps, channels = 8, 3
    windows = RANDOM.normal(size=(5, steps, channels)).astype(np.float32)

    class Convolved(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.there = torch.nn.Conv1d(channels, 4, 3, padding=1)
            self.back = torch.nn.Conv1d(4, channels, 3, padding=1)

        def forward(self, x):
            error = self.back(torch.relu(self.there(x))) - x
            return (error * error).mean(dim=(1, 2))

    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.LSTM(channels, 6, batch_first=True)
            self.out = torch.nn.Linear(6, 1)

        def forward(self, x):
            return self.out(self.cell(x)[0][:, -1]).squeeze(1)

    class Attending(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = torch.nn.Linear(channels, 8)
            self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.out = torch.nn.Linear(8, 1)

        def forward(self, x):
            return self.out(self.layer(self.wide(x)).mean(dim=1))

    def exported(name, model, first):
        model.eval()
        x = torch.from_numpy(windows.transpose(0, 2, 1).copy() if first else windows)
        torch.onnx.export(
            model, (x[:2],), HERE / f"{name}.onnx", input_names=["window"], output_names=["score"],
            dynamic_axes={"window": {0: "n"}, "score": {0: "n"}}, opset_version=17, dynamo=False,
        )
        with torch.no_grad():
            expected = model(x).numpy()
        case(name, expected, rows=windows, input="channels_first" if first else "sequence")
        if name == "torch_recurrent":
            # The same in a folder, with its weights beside it.
            folder = HERE / "outside"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            model = load(HERE / f"{name}.onnx")
            save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
            case(name, expected, rows=windows, input="sequence")
            cases[-1]["file"] = "outside"

    class Remembering(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.GRUCell(3, 5)
            self.out = torch.nn.Linear(5, 1)

        def forward(self, x, memory):
            after = self.cell(x, memory[0])
            return self.out(after), after.unsqueeze(0)

    # Two assets and then a third, whose windows come in turn; each has its own memory.
    assets = [0, 1, 0, 0, 1, 2, 2, 0, 1, 2]
    rows = RANDOM.normal(size=(len(assets), 3)).astype(np.float32)
    model = Remembering().eval()
    expected, memories = [], {}
    with torch.no_grad():
        for asset, row in zip(assets, rows):
            memory = memories.get(asset, torch.zeros(1, 1, 5))
            score, memories[asset] = model(torch.from_numpy(row)[None], memory)
            expected.append(score.item())
    for name, axes in [
        ("torch_state", {"x": {0: "n"}, "memory": {1: "n"}, "score": {0: "n"}, "after": {1: "n"}}),
        ("torch_state_of_one", {}),
    ]:
        rows_of = 2 if axes else 1
        torch.onnx.export(
            model, (torch.from_numpy(rows[:rows_of]), torch.zeros(1, rows_of, 5)), HERE / f"{name}.onnx",
            input_names=["x", "memory"], output_names=["score", "after"], dynamic_axes=axes, opset_version=17, dynamo=False,
        )
        case(name, expected, rows=rows, assets=assets, state={"memory": "after"})

    exported("torch_convolved", Convolved(), True)
    exported("torch_recurrent", Recurrent(), False)
    exported("torch_attending", Attending(), False)


def exact():
    """Numbers that no float32 holds: of a counter, of a state, and of a label."""
    base, axes = numpy_helper.from_array(np.array(1e8), "base"), numpy_helper.from_array(np.array([1]), "axes")
    nodes = [
        h.make_node("Sub", ["features", "base"], ["since"]),
        h.make_node("ReduceSum", ["since", "axes"], ["score"], keepdims=0),
    ]
    graph("counter_float64", nodes, [port("features", T.DOUBLE, "n", 2)], [port("score", T.DOUBLE, "n")], [base, axes])
    counters = np.array([[100000001.25, 99999997.5], [100000002.5, 100000000.75], [99999999.0, 100000003.25]])
    case("counter_float64", (counters - 1e8).sum(axis=1), rows=counters)

    thousand = numpy_helper.from_array(np.array([[1000]]), "thousand")
    nodes = [
        h.make_node("Add", ["features", "total"], ["after"]),
        h.make_node("Mod", ["after", "thousand"], ["score"]),
    ]
    inputs = [port("features", T.INT64, "n", 1), port("total", T.INT64, "n", 1)]
    outputs = [port("score", T.INT64, "n", 1), port("after", T.INT64, "n", 1)]
    graph("state_int64", nodes, inputs, outputs, [thousand])
    assets = [0, 1, 0, 0, 1, 2, 2, 0, 1, 2]
    rows = np.array([[[20000001], [30000003], [7]][asset] for asset in assets])
    case("state_int64", [1, 3, 2, 3, 6, 7, 14, 4, 9, 21], rows=rows, assets=assets, state={"total": "after"})

    labels = numpy_helper.from_array(np.array([20250001, 20250002, 20250003]), "labels")
    nodes = [
        h.make_node("ArgMax", ["features"], ["place"], axis=1, keepdims=0),
        h.make_node("Gather", ["labels", "place"], ["part"]),
    ]
    graph("label_int64", nodes, [port("features", T.FLOAT, "n", 3)], [port("part", T.INT64, "n")], [labels])
    case("label_int64", np.eye(3)[:, 0], rows=np.eye(3), **{"class": "20250001"})


types()
classes()
sklearn_models()
boosted()
torch_models()
exact()
(HERE / "expected.json").write_text(json.dumps(cases, indent=1) + "\n")
print(len(cases), "cases,", sum(f.stat().st_size for f in HERE.glob("*.onnx")), "bytes of models")
