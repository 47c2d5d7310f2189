//! [`Loader`]: a folder → objects, or every problem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger_model::{ConditionKind, Kind, MeshIndex, Object, ObjectId, ObjectKey, Objects};

use crate::decode::{Decoder, Reference, Wanted};
use crate::folder::{self, Found};
use crate::kinds::{self, Decoded};
use crate::module::{ModuleFetcher, ModuleSource, Modules, NoFiles};
use crate::node::{Node, Value};
use crate::parse;
use crate::problem::{Place, Problem, Severity};

/// More are counted and not shown.
const PROBLEMS_MAX: usize = 1000;

#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Lets `source.file.path` and links lead out of the folder. Off by default: whoever may write the folder could
    /// otherwise have any file read that the control plane may read.
    pub allow_outside: bool,
    /// For `source.http`; none: such a source is an error.
    pub fetcher: Option<Arc<dyn ModuleFetcher>>,
}

#[derive(Clone, Debug)]
pub struct LoadReport {
    /// None if there is any error: the caller goes on with what it had.
    pub objects: Option<Objects>,
    /// By file and line.
    pub problems: Vec<Problem>,
    /// What to watch: the folder, those below it, and modules, also missing ones.
    pub inputs: Vec<PathBuf>,
}

impl LoadReport {
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error)
    }
}

/// Loads a folder again and again; modules that did not change are not read again.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    allow_outside: bool,
    modules: Modules,
}

/// Once.
pub fn load(dir: &Path, options: &LoadOptions) -> LoadReport {
    Loader::new(dir, options.clone()).load()
}

impl Loader {
    pub fn new(dir: &Path, options: LoadOptions) -> Self {
        let LoadOptions { allow_outside, fetcher } = options;
        Self { dir: dir.to_path_buf(), allow_outside, modules: Modules::new(dir.to_path_buf(), allow_outside, fetcher) }
    }

    pub fn load(&mut self) -> LoadReport {
        let folder = folder::read(&self.dir, self.allow_outside);
        self.modules.start();
        let mut pass = Pass {
            modules: &mut self.modules,
            objects: Objects::default(),
            places: BTreeMap::new(),
            problems: folder.problems,
            references: Vec::new(),
        };
        for file in &folder.files {
            pass.file(file);
        }
        let Pass { objects, mut problems, references, places, .. } = pass;
        // An object that has errors is there, and its error is told already.
        let is_broken = |kind, id: &ObjectId| {
            let key = ObjectKey::new(kind, id.clone());
            places.contains_key(&key)
        };
        for Reference { place, wanted } in &references {
            let message = missing(&objects, wanted, is_broken);
            problems.extend(message.map(|message| place.problem(Severity::Warning, message)));
        }
        let has_errors = problems.iter().any(|problem| problem.severity == Severity::Error);
        if !has_errors {
            check_statuses(&objects, &mut problems);
        }
        let mut inputs = folder.folders;
        inputs.extend(self.modules.finish());
        LoadReport { objects: (!has_errors).then_some(objects), problems: in_order(problems), inputs }
    }
}

/// One object that an API server gave, as JSON: the same decoding as for a folder's. Problems have no lines.
pub fn object(json: &serde_json::Value, fetcher: Option<Arc<dyn ModuleFetcher>>) -> (Option<Object>, Vec<Problem>) {
    let node = Node::from(json);
    let decoder = Decoder::new(Arc::from(""), &node, String::new());
    let mut modules = Modules::new(PathBuf::new(), false, fetcher);
    let Decoded { object, .. } = kinds::decode(&decoder, &mut NoFiles(&mut modules));
    let (problems, _) = decoder.finish();
    let has_errors = problems.iter().any(|problem| problem.severity == Severity::Error);
    (object.filter(|_| !has_errors), problems)
}

fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    problems.dedup();
    // Errors are not lost among warnings.
    if problems.len() > PROBLEMS_MAX {
        let more = problems.len() - PROBLEMS_MAX;
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        problems.truncate(PROBLEMS_MAX);
        problems.push(Place::file(".").problem(Severity::Warning, format!("{more} more problems")));
    }
    problems
}

/// One load under way.
struct Pass<'m> {
    modules: &'m mut dyn ModuleSource,
    objects: Objects,
    places: BTreeMap<ObjectKey, Place>,
    problems: Vec<Problem>,
    references: Vec<Reference>,
}

impl Pass<'_> {
    fn file(&mut self, found: &Found) {
        let name: Arc<str> = Arc::from(found.name.as_str());
        let parsed = parse::parse(&found.text);
        for problem in parsed.problems {
            let place = Place { line: problem.line, ..Place::file(&name) };
            self.problems.push(place.problem(Severity::Error, problem.message));
        }
        for document in &parsed.documents {
            match kinds::list_items(document).map(|items| &items.value) {
                Some(Value::Sequence(items)) => {
                    for (i, item) in items.iter().enumerate() {
                        self.document(&name, item, format!("items[{i}]"));
                    }
                }
                _ => self.document(&name, document, String::new()),
            }
        }
    }

    fn document(&mut self, file: &Arc<str>, root: &Node, prefix: String) {
        let decoder = Decoder::new(Arc::clone(file), root, prefix);
        let Decoded { key, object } = kinds::decode(&decoder, self.modules);
        let mut is_first = true;
        if let Some(key) = key {
            let place = decoder.place(root);
            if let Some(first) = self.places.get(&key) {
                decoder.error(root, format!("{key} is already written at {first}"));
                is_first = false;
            } else {
                self.places.insert(key, place);
            }
        }
        let (problems, references) = decoder.finish();
        self.problems.extend(problems);
        self.references.extend(references);
        if let Some(object) = object.filter(|_| is_first) {
            self.objects.insert(object);
        }
    }
}

/// What refers to nothing is served all the same (Gateway API: 500 for that backend), so that it is a warning.
fn missing(objects: &Objects, wanted: &Wanted, is_broken: impl Fn(Kind, &ObjectId) -> bool) -> Option<String> {
    match wanted {
        Wanted::Gateway(id, section) => match (objects.gateways.get(id), section) {
            (None, _) => (!is_broken(Kind::Gateway, id)).then(|| format!("Gateway {id} is not there")),
            (Some(gateway), Some(section)) => {
                let found = gateway.listeners.iter().any(|listener| listener.name == *section);
                (!found).then(|| format!("Gateway {id} has no listener `{section}`"))
            }
            _ => None,
        },
        Wanted::Route(id, section) => match (objects.routes.get(id), section) {
            (None, _) => (!is_broken(Kind::HttpRoute, id)).then(|| format!("HTTPRoute {id} is not there")),
            (Some(route), Some(section)) => {
                let found = route.rules.iter().any(|rule| rule.name.as_ref() == Some(section));
                (!found).then(|| format!("HTTPRoute {id} has no rule `{section}`"))
            }
            _ => None,
        },
        Wanted::Service(id, port) => match (objects.services.get(id), port) {
            (None, _) => (!is_broken(Kind::Service, id)).then(|| format!("Service {id} is not there")),
            (Some(service), Some(port)) => {
                let found = service.ports.iter().any(|other| other.port == *port);
                (!found).then(|| format!("Service {id} has no port {port}"))
            }
            _ => None,
        },
    }
}

/// What only the index knows (a route that no listener lets in, hosts that don't meet, a grant that is missing), and
/// what has no line of its own.
fn check_statuses(objects: &Objects, problems: &mut Vec<Problem>) {
    const TOLD: &[&str] = &["BackendNotFound", "NoMatchingParent", "TargetNotFound", "UnsupportedTarget"];
    let mut index = MeshIndex::new();
    index.replace(objects.clone());
    for status in index.statuses() {
        let source = &status.source;
        for condition in status.conditions.iter().filter(|condition| !condition.status) {
            if TOLD.contains(&condition.reason) {
                continue;
            }
            let field = match (condition.kind, source.kind) {
                (ConditionKind::Accepted, Kind::HttpRoute | Kind::TcpRoute) => "spec.parentRefs",
                (ConditionKind::ResolvedRefs, _) => "spec.rules",
                _ => "spec",
            };
            let object = Some(status.key().to_string());
            let place = Place { file: Arc::clone(&source.file), line: source.line, field: field.to_owned(), object };
            problems.push(place.problem(Severity::Warning, format!("{}: {}", condition.reason, condition.message)));
        }
    }
    let referred: BTreeSet<_> = index.gateways().flat_map(|view| view.clusters.keys()).collect();
    for cluster in index.clusters().filter(|cluster| cluster.endpoints.is_empty() && referred.contains(&cluster.key)) {
        let source = &cluster.service.source;
        let (file, object) = (Arc::clone(&source.file), Some(source.key().to_string()));
        let place = Place { file, line: source.line, field: String::new(), object };
        let message = format!("port {} has no ready endpoint: requests get 503", cluster.key.port);
        problems.push(place.problem(Severity::Warning, message));
    }
}
