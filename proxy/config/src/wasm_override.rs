//! A Wasm filter's configuration by route: what a scope changes of the filter's plugin.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::{
    ClusterSpec, FailurePolicy, FilterOverride, HttpFilter, OverrideConfig, Overrides, RouteAction, RouteConfig,
    WasmPlugin, WasmVm,
};

/// What is left out is the filter's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WasmOverride {
    pub name: Option<Arc<str>>,
    pub root_id: Option<String>,
    pub configuration: Option<Bytes>,
    pub failure_policy: Option<FailurePolicy>,
    pub allow_on_headers_stop_iteration: Option<bool>,
    /// Another VM, even of other code.
    pub vm: Option<Arc<WasmVm>>,
}

impl WasmOverride {
    /// The plugin of a filter in this scope.
    #[must_use]
    pub fn plugin(&self, filter: &WasmPlugin) -> WasmPlugin {
        WasmPlugin {
            name: self.name.as_ref().unwrap_or(&filter.name).clone(),
            root_id: self.root_id.as_ref().unwrap_or(&filter.root_id).clone(),
            configuration: self.configuration.as_ref().unwrap_or(&filter.configuration).clone(),
            failure_policy: self.failure_policy.unwrap_or(filter.failure_policy),
            allow_on_headers_stop_iteration: self
                .allow_on_headers_stop_iteration
                .unwrap_or(filter.allow_on_headers_stop_iteration),
            vm: self.vm.as_ref().unwrap_or(&filter.vm).clone(),
        }
    }

    /// Whether a plugin may have been made by this.
    #[must_use]
    pub fn made(&self, plugin: &WasmPlugin) -> bool {
        self.configuration.as_ref().is_none_or(|own| *own == plugin.configuration)
            && self.name.as_ref().is_none_or(|own| *own == plugin.name)
            && self.root_id.as_ref().is_none_or(|own| *own == plugin.root_id)
            && self.vm.as_ref().is_none_or(|own| *own == plugin.vm)
    }
}

impl RouteConfig {
    /// What the scopes say about a Wasm filter, each once.
    #[must_use]
    pub fn wasm_overrides(&self, filter: &HttpFilter) -> Vec<&Arc<WasmOverride>> {
        match self.override_names.position(&filter.name) {
            Some(position) => self.collect(move |overrides| overrides.get(position).into_iter()),
            None => Vec::new(),
        }
    }

    /// As [`RouteConfig::wasm_overrides`], of all filters.
    #[must_use]
    pub fn all_wasm_overrides(&self) -> Vec<&Arc<WasmOverride>> {
        self.collect(|overrides| overrides.iter().map(|(_, said)| said))
    }

    fn collect<'a, I: Iterator<Item = &'a FilterOverride>>(
        &'a self,
        of_scope: impl Fn(&'a Overrides) -> I,
    ) -> Vec<&'a Arc<WasmOverride>> {
        if self.override_names.len() == 0 {
            return Vec::new();
        }
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for overrides in self.scopes() {
            for config in of_scope(overrides).filter_map(|said| said.config.as_ref()) {
                if let OverrideConfig::Wasm(config) = config
                    && seen.insert(Arc::as_ptr(config))
                {
                    found.push(config);
                }
            }
        }
        found
    }

    /// What virtual hosts, routes and weighted clusters say about filters.
    pub fn scopes(&self) -> impl Iterator<Item = &Overrides> {
        self.virtual_hosts.iter().flat_map(|host| {
            let routes = host.routes.iter().flat_map(|route| {
                let weighted = match &route.action {
                    RouteAction::Forward(forward) => match &forward.cluster {
                        ClusterSpec::Weighted { clusters, .. } => clusters.as_slice(),
                        _ => &[],
                    },
                    _ => &[],
                };
                std::iter::once(&route.overrides).chain(weighted.iter().map(|cluster| &cluster.overrides))
            });
            std::iter::once(&host.overrides).chain(routes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resource;

    #[test]
    fn what_a_route_leaves_out_is_the_filters_own() {
        let Resource::Extension(extension) = crate::testing::extension("filter", 1) else { panic!("an extension") };
        let filter = &extension.plugin;
        let nothing = WasmOverride {
            name: None,
            root_id: None,
            configuration: None,
            failure_policy: None,
            allow_on_headers_stop_iteration: None,
            vm: None,
        };
        assert_eq!(nothing.plugin(filter), **filter);
        let own = WasmOverride { configuration: Some(Bytes::from_static(b"own")), ..nothing };
        let made = own.plugin(filter);
        assert_eq!((&made.configuration[..], &made.vm), (&b"own"[..], &filter.vm));
        assert!(own.made(&made) && !own.made(filter));
    }
}
