//! Files: atomic renames, rubbish, and what is needed from them.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use outrigger_config::{Needed, ResourceKind, ResourceSet, Snapshot, Update};
use outrigger_proto::render::{Format, parse};
use tokio::sync::watch;

use super::{FileSource, Render, run_files};
use crate::{ConfigSink, Status, Verdict};

struct Yaml;

impl Render for Yaml {
    async fn render(&self, _: &Path, text: Vec<u8>) -> Result<Vec<u8>, String> {
        let name = "envoy.service.discovery.v3.DiscoveryResponse";
        parse(name, &text, Format::Yaml).map_err(|problems| format!("{problems:?}"))
    }
}

struct Sink {
    set: RefCell<ResourceSet>,
    snapshot: RefCell<Snapshot>,
    needed: watch::Sender<Needed>,
    told: tokio::sync::Notify,
}

impl ConfigSink for Sink {
    async fn submit(&self, update: Update) -> Verdict {
        self.set.borrow_mut().apply(update);
        let next = Snapshot::compile(&self.set.borrow(), Some(&self.snapshot.borrow()), 1);
        self.needed.send_replace(next.needed.clone());
        *self.snapshot.borrow_mut() = next;
        self.told.notify_one();
        Verdict::default()
    }
}

impl Sink {
    /// Until the clusters are these; a test that waits for ever is ended by its runner.
    async fn until(&self, clusters: &[&str]) {
        loop {
            let mut names: Vec<String> = self.snapshot.borrow().clusters.keys().map(ToString::to_string).collect();
            names.sort();
            if names == clusters {
                return;
            }
            self.told.notified().await;
        }
    }
}

/// Puts a file in place as an editor or a kubelet does.
fn put(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(&temporary, path).unwrap();
}

fn clusters(names: &[&str], eds: &Path) -> String {
    let resources = names.iter().map(|name| {
        format!(
            "- {{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: {name}, type: EDS, \
             eds_cluster_config: {{eds_config: {{path_config_source: {{path: '{}'}}}}}}}}\n",
            eds.display()
        )
    });
    format!("version_info: v1\nresources:\n{}", resources.collect::<String>())
}

#[tokio::test]
async fn files_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (cds, eds) = (folder.path().join("cds.yaml"), folder.path().join("eds.yaml"));
    let assignment = "{'@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: a}";
    put(&eds, &format!("resources: [{assignment}]"));
    put(&cds, &clusters(&["a"], &eds));
    let needed = watch::Sender::new(Needed::default());
    let sink = Sink { set: RefCell::default(), snapshot: RefCell::default(), needed, told: tokio::sync::Notify::new() };
    let status = Status::new();
    let path: Arc<str> = cds.to_str().unwrap().into();
    let source = FileSource { kind: ResourceKind::Cluster, path: Arc::clone(&path), watched_directory: None };
    let receiver = sink.needed.subscribe();
    let script = async {
        sink.until(&["a"]).await;
        assert!(sink.snapshot.borrow().clusters.get("a").unwrap().assignment.is_some());
        // A cluster whose endpoints aren't in the file is served without any.
        put(&cds, &clusters(&["a", "b"], &eds));
        sink.until(&["a", "b"]).await;
        assert!(sink.snapshot.borrow().clusters.get("b").unwrap().assignment.is_none());
        // Rubbish changes nothing, and is told.
        put(&cds, "resources: [oops");
        while status.kind(ResourceKind::Cluster).rejected.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(status.kind(ResourceKind::Cluster).rejected.contains_key(&path));
        assert_eq!(sink.snapshot.borrow().clusters.len(), 2);
        put(&cds, &clusters(&["b"], &eds));
        sink.until(&["b"]).await;
        while !status.kind(ResourceKind::Cluster).rejected.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        std::fs::remove_file(&cds).unwrap();
        while status.kind(ResourceKind::Cluster).rejected.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(sink.snapshot.borrow().clusters.len(), 1, "a file that goes leaves what it held");
    };
    tokio::select! {
        () = run_files(vec![source], &Yaml, &sink, receiver, &status) => panic!("ended"),
        () = script => {}
    }
}
