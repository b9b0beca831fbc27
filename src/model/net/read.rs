//! A network's file read back: what fine-tuning and pruning start from.
//!
//! Everything is in the file: the network in a note, weights and scale under the names that `export` gave them.

use std::collections::BTreeMap;
use std::path::Path;

use tract_onnx::pb;

use super::{MEMBERS_MAX, NetError, Network, Trained, Weight, Weights};
use crate::model::onnx;
use crate::model::training::Scaler;

/// Reads a file that [`super::train`] wrote.
pub fn read(bytes: &[u8]) -> Result<Trained, NetError> {
    let fault = |reason: String| NetError::NotOurs(reason);
    let parsed = onnx::parse(Path::new("model"), bytes).map_err(|e| fault(e.to_string()))?;
    let noted = |key: &str| {
        parsed.metadata.all.get(key).ok_or_else(|| fault(format!(
            "it has no note `{key}`: only networks that `forebay train` made can be trained further"
        )))
    };
    let network: Network = serde_json::from_str(noted("forebay.network")?)
        .map_err(|e| fault(format!("its note `forebay.network`: {e}")))?;
    if network.members == 0 || network.members > MEMBERS_MAX {
        return Err(fault(format!("it averages {} networks", network.members)));
    }
    let limit: f64 = noted("forebay.limit")?
        .parse()
        .map_err(|_| fault("its note `forebay.limit` is no number".into()))?;
    let graph = parsed.proto.graph.unwrap_or_default();
    let tensors: BTreeMap<&str, &pb::TensorProto> =
        graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let find = |name: &str, dims: &[usize]| -> Result<Vec<f32>, NetError> {
        let tensor =
            tensors.get(name).ok_or_else(|| fault(format!("it has no weights `{name}`")))?;
        let same = tensor.dims.iter().map(|dim| *dim as usize).eq(dims.iter().copied());
        let values = tensor
            .raw_data
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        let values: Vec<f32> = values.collect();
        let whole =
            values.len() == dims.iter().product::<usize>() && values.iter().all(|v| v.is_finite());
        if same && whole {
            Ok(values)
        } else {
            Err(fault(format!("its weights `{name}` are not {dims:?} numbers")))
        }
    };
    let needs = network.needs(0)?;
    let mut weights = Weights::default();
    for member in 0..network.members {
        for (name, need, _) in &needs {
            let name = format!("m{member}.{name}");
            let values = find(&name, &need.dims)?;
            weights.tensors.push(Weight { name, dims: need.dims.clone(), values });
        }
    }
    let wide = |name: &str| -> Result<Vec<f64>, NetError> {
        Ok(find(name, &[network.input.width])?.into_iter().map(f64::from).collect())
    };
    let scaler = Scaler { means: wide("mean")?, factors: wide("factor")? };
    Ok(Trained { network, weights, scaler, limit })
}
