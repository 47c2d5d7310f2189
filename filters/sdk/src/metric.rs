//! Metrics that the host exports. Define them in [`crate::Plugin::new`], keep them in the plugin.

use crate::abi;
use crate::log;

/// A counter. A host that refuses metrics costs a warning, never a request.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    id: Option<u32>,
}

impl Counter {
    /// Defines it, or finds it where another context has defined it.
    #[must_use]
    pub fn define(name: &str) -> Self {
        Self { id: define(0, name) }
    }

    /// Adds one.
    pub fn increment(self) {
        if let Some(id) = self.id {
            let _refused = abi::metric_increment(id, 1);
        }
    }
}

/// A gauge: a number that goes up and down.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    id: Option<u32>,
}

impl Gauge {
    /// Defines it, or finds it where another context has defined it.
    #[must_use]
    pub fn define(name: &str) -> Self {
        Self { id: define(1, name) }
    }

    /// Sets it.
    pub fn set(self, value: u64) {
        if let Some(id) = self.id {
            let _refused = abi::metric_record(id, value);
        }
    }
}

/// A histogram.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    id: Option<u32>,
}

impl Histogram {
    /// Defines it, or finds it where another context has defined it.
    #[must_use]
    pub fn define(name: &str) -> Self {
        Self { id: define(2, name) }
    }

    /// Records a value.
    pub fn record(self, value: u64) {
        if let Some(id) = self.id {
            let _refused = abi::metric_record(id, value);
        }
    }
}

fn define(kind: u32, name: &str) -> Option<u32> {
    abi::metric_define(kind, name).inspect_err(|error| log::warn(&format!("metric {name}: {error}"))).ok()
}
