//! Numbers that every pipeline, every lane or every target has: one table each, and what Prometheus is told of it.

use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Labels;

/// What is counted since the start, and what is so now; of bytes or of anything else.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    CounterOfBytes,
    Gauge,
    GaugeOfBytes,
}

/// One number of a `C`: its kind, its name, what it is, and where it stands.
pub(super) type Number<C> = (Kind, &'static str, &'static str, fn(&C) -> u64);

enum Values {
    Counted(Family<Labels, Counter>),
    Now(Family<Labels, Gauge>),
}

/// The numbers of all that has a `C`, told apart by one label.
pub(super) struct Books<C: 'static> {
    label: &'static str,
    values: Vec<(Values, &'static Number<C>)>,
}

impl<C> Books<C> {
    pub(super) fn of(label: &'static str, numbers: &'static [Number<C>]) -> Books<C> {
        let values = numbers.iter().map(|number| match number.0 {
            Kind::Counter | Kind::CounterOfBytes => (Values::Counted(Family::default()), number),
            Kind::Gauge | Kind::GaugeOfBytes => (Values::Now(Family::default()), number),
        });
        Books { label, values: values.collect() }
    }

    pub(super) fn register(&self, r: &mut Registry) {
        for (values, (kind, name, help, _)) in &self.values {
            match (values, kind) {
                (Values::Counted(family), Kind::CounterOfBytes) => {
                    r.register_with_unit(*name, *help, Unit::Bytes, family.clone());
                }
                (Values::Counted(family), _) => r.register(*name, *help, family.clone()),
                (Values::Now(family), Kind::GaugeOfBytes) => {
                    r.register_with_unit(*name, *help, Unit::Bytes, family.clone());
                }
                (Values::Now(family), _) => r.register(*name, *help, family.clone()),
            }
        }
    }

    /// Sets the numbers of `name`.
    pub(super) fn set(&self, name: &str, counts: &C) {
        let labels: Labels = [(self.label, name.to_owned())];
        for (values, (.., number)) in &self.values {
            match values {
                Values::Counted(family) => {
                    family.get_or_create(&labels).inner().store(number(counts), Relaxed);
                }
                Values::Now(family) => {
                    family.get_or_create(&labels).set(number(counts) as i64);
                }
            }
        }
    }
}
