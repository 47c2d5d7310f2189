//! Machine code on disk, by the digest of the module and the engine that compiled it.
//!
//! A folder of mode 0700 that belongs to this user holds two kinds of files: `CODE.code`, machine code under its own
//! digest, and `MODULE.ENGINE`, a line with the digest of the machine code. Both come into being by rename, so that
//! several proxies may share a folder. Machine code runs as it is, so it is loaded only when its bytes have the digest
//! that the index names; what doesn't is removed and compiled again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use outrigger_http::hex;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::system;

/// Machine code of one module is at most this large.
pub(crate) const CODE_BYTES_MAX: u64 = 1 << 30;
/// Machine code in the folder; the least recently used beyond it are removed.
const FOLDER_BYTES_MAX: u64 = 1 << 30;
const FOLDER_ENTRIES_MAX: usize = 512;
/// Leftovers of proxies that ended while they wrote are removed after this time.
const LEFTOVER_SECONDS: u64 = 3600;

/// A SHA-256 digest.
pub(crate) type Digest = [u8; 32];

/// The folder, checked when it was opened.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// Why a folder cannot be the cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("{path}: {source}", path = .0.display(), source = .1)]
    Io(PathBuf, #[source] io::Error),
    #[error("{path} belongs to user {owner}, this process runs as {own}", path = .path.display())]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("{path} is open to others (mode {mode:o}); machine code is trusted, so it must be 700", path = .path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path} is no folder", path = .0.display())]
    NoFolder(PathBuf),
}

/// The folder that is used unless the user names one.
pub(crate) fn default_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    match (absolute("XDG_CACHE_HOME"), absolute("HOME")) {
        (Some(cache), _) => cache.join("outrigger"),
        (None, Some(home)) if home != Path::new("/") => home.join(".cache/outrigger"),
        _ => PathBuf::from("/var/cache/outrigger"),
    }
}

/// The digest of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

impl Cache {
    /// Makes the folder, or checks that nobody else can write into the one that is there.
    pub(crate) fn open(folder: &Path) -> Result<Cache, Unusable> {
        let io = |error| Unusable::Io(folder.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        // Not through a link: what is checked must be what is used.
        let folder = fs::canonicalize(folder).map_err(io)?;
        let metadata = fs::symlink_metadata(&folder).map_err(|error| Unusable::Io(folder.clone(), error))?;
        let (owner, own) = (metadata.uid(), system::user_id());
        if !metadata.is_dir() {
            return Err(Unusable::NoFolder(folder));
        }
        if owner != own {
            return Err(Unusable::Owner { path: folder, owner, own });
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(Unusable::Mode { path: folder, mode: metadata.mode() & 0o777 });
        }
        // A folder on a read-only file system shows here, not when the first filter comes.
        NamedTempFile::with_prefix_in("probe", &folder).map_err(|error| Unusable::Io(folder.clone(), error))?;
        Ok(Cache { folder })
    }

    /// A file to write machine code to, for [`Cache::insert`].
    pub(crate) fn scratch(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::with_prefix_in("new", &self.folder)
    }

    /// The path of checked machine code.
    pub(crate) fn get(&self, module: &Digest, engine: &str) -> Option<PathBuf> {
        let index = self.index(module, engine);
        let named = fs::read_to_string(&index).ok()?;
        let path = self.code(named.trim())?;
        match file_digest(&path) {
            Ok(actual) if hex(&actual) == named.trim() => {
                touch(&index);
                touch(&path);
                Some(path)
            }
            outcome => {
                if let Ok(actual) = outcome {
                    tracing::warn!(
                        "{} holds other bytes than were written ({}); it is compiled again",
                        path.display(),
                        hex(&actual)
                    );
                    _ = fs::remove_file(&path);
                }
                _ = fs::remove_file(&index);
                None
            }
        }
    }

    /// Keeps machine code that was written to a scratch file, and returns its path.
    pub(crate) fn insert(&self, module: &Digest, engine: &str, code: NamedTempFile) -> io::Result<PathBuf> {
        let named = hex(&file_digest(code.path())?);
        let path = self.folder.join(format!("{named}.code"));
        code.persist(&path).map_err(|error| error.error)?;
        let mut index = NamedTempFile::with_prefix_in("new", &self.folder)?;
        writeln!(index, "{named}")?;
        index.persist(self.index(module, engine)).map_err(|error| error.error)?;
        self.tidy(&path)?;
        Ok(path)
    }

    fn index(&self, module: &Digest, engine: &str) -> PathBuf {
        // What the engine says of itself goes into a file name, whatever it is.
        let engine = hex(&digest(engine.as_bytes())[..8]);
        self.folder.join(format!("{}.{engine}", hex(module)))
    }

    /// The path of machine code with this digest, if it is one.
    fn code(&self, named: &str) -> Option<PathBuf> {
        let valid = named.len() == 64 && named.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| self.folder.join(format!("{named}.code")))
    }

    /// Removes what was not used for the longest time beyond the bounds, and what nobody finished.
    fn tidy(&self, keep: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another proxy may have renamed or removed it meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name();
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if name.to_string_lossy().starts_with("new") {
                if used.elapsed().is_ok_and(|age| age.as_secs() > LEFTOVER_SECONDS) {
                    _ = fs::remove_file(entry.path());
                }
                continue;
            }
            entries.push((used, metadata.len(), entry.path()));
        }
        entries.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let mut bytes = 0u64;
        for (position, (_, size, path)) in entries.iter().enumerate() {
            bytes = bytes.saturating_add(*size);
            if (position >= FOLDER_ENTRIES_MAX || bytes > FOLDER_BYTES_MAX) && path != keep {
                // A proxy that has it mapped keeps it; the others compile again.
                _ = fs::remove_file(path);
            }
        }
        Ok(())
    }
}

/// Marks a file as used now.
fn touch(path: &Path) {
    if let Ok(file) = OpenOptions::new().append(true).open(path) {
        _ = file.set_modified(SystemTime::now());
    }
}

/// The digest of a regular file of bounded size, read in pieces.
fn file_digest(path: &Path) -> io::Result<Digest> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > CODE_BYTES_MAX {
        return Err(io::Error::other("no regular file of bounded size"));
    }
    reader_digest(&mut file)
}

/// The digest of what is left of a file.
pub(crate) fn reader_digest(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0u8; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&piece[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn insert(cache: &Cache, module: &Digest, engine: &str, code: &[u8]) -> PathBuf {
        let mut scratch = cache.scratch().unwrap();
        scratch.write_all(code).unwrap();
        cache.insert(module, engine, scratch).unwrap()
    }

    #[test]
    fn the_folder_follows_the_environment() {
        let table: [(&[(&str, &str)], &str); 5] = [
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], "/x/outrigger"),
            (&[("HOME", "/h")], "/h/.cache/outrigger"),
            (&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")], "/h/.cache/outrigger"),
            (&[("HOME", "/")], "/var/cache/outrigger"),
            (&[], "/var/cache/outrigger"),
        ];
        for (variables, folder) in table {
            let variable =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
            assert_eq!(default_folder(variable), Path::new(folder));
        }
    }

    #[test]
    fn code_comes_back_for_the_same_module_and_engine() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("a/b")).unwrap();
        let (one, two) = (digest(b"one"), digest(b"two"));
        assert_eq!(cache.get(&one, "v1"), None);
        let path = insert(&cache, &one, "v1", b"machine code");
        assert_eq!(fs::read(&path).unwrap(), b"machine code");
        assert_eq!(cache.get(&one, "v1"), Some(path.clone()));
        assert_eq!(cache.get(&one, "v2"), None);
        assert_eq!(cache.get(&two, "v1"), None);
        // Nothing but the two files is left behind.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn changed_code_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let module = digest(b"module");
        let path = insert(&cache, &module, "v1", b"machine code");
        fs::write(&path, b"machine c0de").unwrap();
        assert_eq!(cache.get(&module, "v1"), None);
        assert!(!path.exists());
        let again = insert(&cache, &module, "v1", b"machine code");
        assert_eq!(cache.get(&module, "v1"), Some(again.clone()));

        fs::remove_file(&again).unwrap();
        assert_eq!(cache.get(&module, "v1"), None);

        insert(&cache, &module, "v1", b"machine code");
        for rubbish in ["", "../../etc/passwd", &"z".repeat(64), &"a".repeat(64)] {
            fs::write(cache.index(&module, "v1"), rubbish).unwrap();
            assert_eq!(cache.get(&module, "v1"), None, "{rubbish}");
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let module = digest(b"module");
        let path = insert(&cache, &module, "v1", b"machine code");
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(cache.get(&module, "v1"), None);
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Cache::open(folder.path()), Err(Unusable::Mode { mode: 0o777, .. })));
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Cache::open(&file).is_err());
        if system::user_id() == 0 {
            let other = folder.path().join("other");
            fs::create_dir(&other).unwrap();
            fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&other, Some(65534), None).unwrap();
            assert!(matches!(Cache::open(&other), Err(Unusable::Owner { owner: 65534, .. })));
        }
    }

    #[test]
    fn writers_race_and_readers_see_whole_files() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let module = digest(b"module");
        let codes: Vec<Vec<u8>> = (0..4u8).map(|byte| vec![byte; 100_000]).collect();
        std::thread::scope(|scope| {
            for code in &codes {
                scope.spawn(|| {
                    for _ in 0..20 {
                        insert(&cache, &module, "v1", code);
                        let path = cache.get(&module, "v1").unwrap();
                        assert!(codes.contains(&fs::read(path).unwrap()));
                    }
                });
            }
        });
    }

    #[test]
    fn what_is_not_used_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        // Two files each.
        let modules: Vec<Digest> = (0..=FOLDER_ENTRIES_MAX / 2).map(|n| digest(&n.to_le_bytes())).collect();
        for (number, module) in modules.iter().enumerate() {
            insert(&cache, module, "v1", &number.to_le_bytes());
            // The first one is in use all the time.
            assert!(cache.get(&modules[0], "v1").is_some(), "{number}");
        }
        let entries = fs::read_dir(folder.path().join("cache")).unwrap().count();
        assert!(entries <= FOLDER_ENTRIES_MAX, "{entries}");
        assert_eq!(cache.get(&modules[1], "v1"), None);
        assert!(modules.last().is_some_and(|last| cache.get(last, "v1").is_some()));
    }

    #[test]
    fn digests_read_as_hexadecimal() {
        assert_eq!(hex(&digest(b"")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
