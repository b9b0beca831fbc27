//! Usual networks by name, sized to what they are given.
//!
//! `cli/train` asks for one. Whoever wants another writes its layers into a [`Network`].

use super::{Activation, Layer, NetError, Network, Shape, Task};

/// A usual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Dense layers to a narrow code and back.
    DenseAutoencoder,
    /// Convolutions along time to a code and back.
    ConvAutoencoder,
    /// A recurrent layer to a code, another one back.
    GruAutoencoder,
    /// A recurrent layer that says the next step.
    Forecaster,
    /// A transformer's encoder to a code and back; of labelled windows, to their class.
    Transformer,
    /// Convolutions and a recurrent layer (of features: dense layers) to a class.
    Classifier,
    /// The same to a remaining life.
    RemainingLife,
}

/// How large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Numbers inside a layer.
    pub units: usize,
    /// Numbers of an autoencoder's code.
    pub code: usize,
    /// Layers one after the other, where a kind has several alike.
    pub depth: usize,
    /// What the inner layers end with.
    pub activation: Activation,
}

impl Default for Size {
    fn default() -> Self {
        Size { units: 32, code: 8, depth: 2, activation: Activation::Relu }
    }
}

impl Kind {
    /// The name that files and people use.
    pub fn name(self) -> &'static str {
        match self {
            Kind::DenseAutoencoder => "dense-autoencoder",
            Kind::ConvAutoencoder => "conv-autoencoder",
            Kind::GruAutoencoder => "gru-autoencoder",
            Kind::Forecaster => "forecaster",
            Kind::Transformer => "transformer",
            Kind::Classifier => "classifier",
            Kind::RemainingLife => "remaining-life",
        }
    }

    /// Whether it looks along time, so that it needs a window's samples.
    pub fn needs_sequence(self) -> bool {
        matches!(
            self,
            Kind::ConvAutoencoder | Kind::GruAutoencoder | Kind::Forecaster | Kind::Transformer
        )
    }

    /// The network for such windows. `task` is that of a kind that has none of its own.
    pub fn network(
        self,
        input: Shape,
        sequence: bool,
        task: Option<Task>,
        size: Size,
    ) -> Result<Network, NetError> {
        let own = match self {
            Kind::Forecaster => Task::Forecast,
            _ => task.unwrap_or(Task::Reconstruct),
        };
        let mut network = Network { input, sequence, layers: Vec::new(), task: own, members: 1 };
        network.layers = self.layers(&network, size);
        network.needs(0)?;
        Ok(network)
    }

    fn layers(self, network: &Network, size: Size) -> Vec<Layer> {
        let (input, out) = (network.input, network.wanted());
        let Size { units, code, depth, activation } = size;
        let dense = |units| Layer::Dense { units, activation };
        let plain = |units| Layer::Dense { units, activation: Activation::None };
        let conv = |channels, stride| Layer::Conv { channels, kernel: 5, stride, activation };
        let gru = |every| Layer::Gru { units, every };
        let (kernel, stride, none) = (5, 1, Activation::None);
        let same = Layer::Conv { channels: input.width, kernel, stride, activation: none };
        match self {
            Kind::DenseAutoencoder => {
                vec![
                    Layer::Flatten,
                    dense(units),
                    dense(code),
                    dense(units),
                    plain(out),
                    Layer::Split { steps: input.steps },
                ]
            }
            Kind::ConvAutoencoder => vec![
                conv(units, 2),
                // The code is these few numbers at every fourth step.
                conv(code, 2),
                Layer::Upsample { steps: input.steps.div_ceil(2) },
                conv(units, 1),
                Layer::Upsample { steps: input.steps },
                same,
            ],
            Kind::GruAutoencoder => {
                let back = Layer::Upsample { steps: input.steps };
                vec![gru(false), dense(code), back, gru(true), plain(input.width)]
            }
            Kind::Forecaster => vec![gru(false), plain(out)],
            Kind::Transformer => {
                let heads = [4, 2].into_iter().find(|heads| units % heads == 0).unwrap_or(1);
                let mut layers = vec![plain(units), Layer::Position];
                layers
                    .extend((0..depth.max(1)).map(|_| Layer::Encoder { heads, units: 2 * units }));
                if network.task == Task::Reconstruct {
                    // A code at every step, so that nothing can be handed through.
                    layers.extend([dense(code), dense(units), plain(input.width)]);
                } else {
                    layers.extend([Layer::Mean, plain(out)]);
                }
                layers
            }
            Kind::Classifier | Kind::RemainingLife if network.sequence => {
                let mut layers: Vec<Layer> = (0..depth).map(|_| conv(units, 1)).collect();
                layers.extend([gru(false), dense(units), plain(out)]);
                layers
            }
            Kind::Classifier | Kind::RemainingLife => {
                let mut layers: Vec<Layer> = (0..depth.max(1)).map(|_| dense(units)).collect();
                layers.push(plain(out));
                layers
            }
        }
    }
}
