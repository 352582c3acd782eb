//! System shared memory: tensors that lie in POSIX shared memory objects of a client on this machine.
//!
//! An object is mapped while it is registered, and a request's tensors are copied from the mapping and to it: a tensor
//! that its owner can change after it was validated would have to be distrusted everywhere. That the owner can also
//! shorten the object is what `mapping` is for.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::error::{Code, Failure, Result, shown};
use crate::tensor::ALIGNMENT;
use mapping::Mapping;

mod mapping;

const OBJECTS: &str = "/dev/shm";

/// A part of an object, registered under a name.
#[derive(Debug)]
pub struct Region {
    pub name: String,
    pub key: String,
    pub offset: u64,
    pub size: u64,
    object: File,
    mapping: Mapping,
}

/// A part of a region, which stays open while a request means it, unregistered or not.
#[derive(Clone, Debug)]
pub struct Slot {
    region: Arc<Region>,
    /// In the region.
    start: usize,
    pub size: usize,
}

/// The regions that clients have registered.
pub struct Regions {
    folder: PathBuf,
    allowed: bool,
    /// Bytes of the largest tensor that is read.
    limit: usize,
    regions: RwLock<BTreeMap<String, Arc<Region>>>,
}

impl Regions {
    pub fn new(allowed: bool, limit: usize) -> Self {
        Self {
            folder: OBJECTS.into(),
            allowed,
            limit,
            regions: RwLock::default(),
        }
    }

    fn allowed(&self) -> Result<()> {
        if self.allowed {
            return Ok(());
        }
        Err(Failure::unimplemented(
            "shared memory is off; start the server with --allow-shared-memory to use it",
        ))
    }

    pub fn register(&self, name: &str, key: &str, offset: u64, size: u64) -> Result<()> {
        self.allowed()?;
        let refused = |why: &str| {
            Failure::invalid(format!(
                "shared memory region '{}' cannot be registered: {why}",
                shown(name)
            ))
        };
        if name.is_empty() {
            return Err(refused("it needs a name"));
        }
        if size == 0 {
            return Err(refused("its byte_size must be above 0"));
        }
        let beyond = || refused("its offset and byte_size are beyond any object");
        let end = offset.checked_add(size).ok_or_else(beyond)?;
        let named = shown(key);
        let object = open(&self.folder, key)
            .map_err(|error| refused(&format!("the object '{named}' cannot be opened: {error}")))?;
        let length = object
            .metadata()
            .map_err(|error| refused(&format!("the object '{named}' has no size: {error}")))?
            .len();
        if end > length {
            return Err(refused(&format!(
                "it ends at byte {end}, the object '{named}' has only {length}"
            )));
        }
        let bytes = usize::try_from(size).map_err(|_| beyond())?;
        let mapping = Mapping::new(&object, offset, bytes)
            .map_err(|error| refused(&format!("the object '{named}' cannot be mapped: {error}")))?
            .ok_or_else(|| {
                Failure::unavailable(format!(
                    "there are {} shared memory regions already; unregister one",
                    mapping::MOST
                ))
            })?;
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        if regions.contains_key(name) {
            return Err(Failure::new(
                Code::AlreadyExists,
                format!(
                    "shared memory region '{}' is already registered; unregister it first",
                    shown(name)
                ),
            ));
        }
        let region = Region {
            name: name.into(),
            key: key.into(),
            offset,
            size,
            object,
            mapping,
        };
        regions.insert(name.into(), Arc::new(region));
        Ok(())
    }

    /// Forget a region, or all for an empty name. Requests that mean it still find it open.
    pub fn unregister(&self, name: &str) -> Result<()> {
        self.allowed()?;
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        match name {
            "" => regions.clear(),
            name => drop(regions.remove(name)),
        }
        Ok(())
    }

    /// A region, or all for an empty name.
    pub fn status(&self, name: &str) -> Result<Vec<Arc<Region>>> {
        match name {
            "" => {
                let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
                Ok(regions.values().cloned().collect())
            }
            name => Ok(vec![self.find(name)?]),
        }
    }

    fn find(&self, name: &str) -> Result<Arc<Region>> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.get(name).cloned().ok_or_else(|| {
            Failure::not_found(format!(
                "there is no shared memory region '{}'",
                shown(name)
            ))
        })
    }

    /// The place of a tensor.
    pub fn slot(&self, tensor: &str, region: &str, offset: u64, size: u64) -> Result<Slot> {
        self.allowed()?;
        let region = self.find(region)?;
        let fits = offset
            .checked_add(size)
            .is_some_and(|end| end <= region.size);
        match (usize::try_from(offset), usize::try_from(size)) {
            (Ok(start), Ok(size)) if fits => Ok(Slot {
                start,
                size,
                region,
            }),
            _ => Err(Failure::invalid(format!(
                "tensor '{}' needs {size} bytes at offset {offset} of shared memory region '{}', which has {}",
                shown(tensor),
                shown(&region.name),
                region.size
            ))),
        }
    }

    /// A copy of the slot's bytes, at an aligned address.
    pub fn read(&self, slot: &Slot) -> Result<Bytes> {
        if slot.size > self.limit {
            return Err(crate::body::too_large(slot.size as u64, self.limit));
        }
        slot.check_length(slot.size)?;
        let mut memory: Vec<u8> = Vec::with_capacity(slot.size + ALIGNMENT);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        memory.resize(start, 0);
        match slot.region.mapping.read(slot.start, slot.size, &mut memory) {
            true => Ok(Bytes::from(memory).slice(start..)),
            false => Err(slot.broken()),
        }
    }
}

/// What the calls for CUDA's shared memory get.
pub fn no_cuda() -> Failure {
    Failure::unimplemented(
        "this server does not offer CUDA shared memory; use system shared memory",
    )
}

impl Slot {
    pub fn write(&self, output: &str, data: &[u8]) -> Result<()> {
        if data.len() > self.size {
            return Err(Failure::invalid(format!(
                "output '{output}' has {} bytes, its place in shared memory region '{}' only {}",
                data.len(),
                shown(&self.region.name),
                self.size
            )));
        }
        self.check_length(data.len())?;
        match self.region.mapping.write(self.start, data) {
            true => Ok(()),
            false => Err(self.broken()),
        }
    }

    /// A page that is there may still lie beyond the object's end, and what is beyond it is nobody's.
    fn check_length(&self, size: usize) -> Result<()> {
        let region = &self.region;
        let name = shown(&region.name);
        let length = region.object.metadata().map_err(|error| {
            Failure::invalid(format!(
                "the object of shared memory region '{name}' has no size: {error}"
            ))
        })?;
        if length.len() < region.offset + (self.start + size) as u64 {
            return Err(Failure::invalid(format!(
                "the object of shared memory region '{name}' has become shorter than what was registered"
            )));
        }
        match region.mapping.whole() {
            true => Ok(()),
            false => Err(self.broken()),
        }
    }

    fn broken(&self) -> Failure {
        Failure::invalid(format!(
            "memory of shared memory region '{}' is missing: its object was shortened, or its folder is full; unregister the region and register it again",
            shown(&self.region.name)
        ))
    }
}

/// Open an object by its key, which names one file of the folder and nothing else.
fn open(folder: &Path, key: &str) -> io::Result<File> {
    let name = key.trim_start_matches('/');
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "it is no object's name");
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(bad());
    }
    let object = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(folder.join(name))?;
    match object.metadata()?.is_file() {
        true => Ok(object),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("capstan-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn regions(&self, limit: usize) -> Regions {
            Regions {
                folder: self.0.clone(),
                ..Regions::new(true, limit)
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_key_names_a_file_of_the_folder_and_nothing_else() {
        let folder = Folder::new("keys");
        let regions = folder.regions(100);
        fs::write(folder.0.join("object"), [0; 8]).unwrap();
        fs::create_dir(folder.0.join("folder")).unwrap();
        std::os::unix::fs::symlink("object", folder.0.join("link")).unwrap();
        for key in [
            "",
            "/",
            ".",
            "..",
            "/..",
            "a/b",
            "../object",
            "link",
            "folder",
            "a\0b",
            "none",
        ] {
            assert!(regions.register("r", key, 0, 4).is_err(), "{key:?}");
        }
        regions.register("r", "/object", 0, 8).unwrap();
        regions.register("s", "object", 4, 4).unwrap();
        let again = regions.register("r", "object", 0, 8).unwrap_err();
        assert_eq!(again.code, Code::AlreadyExists);
    }

    #[test]
    fn sizes_are_those_of_the_object() {
        let folder = Folder::new("sizes");
        let regions = folder.regions(100);
        fs::write(folder.0.join("object"), [0; 8]).unwrap();
        for (offset, size) in [
            (0, 9),
            (8, 1),
            (1, u64::MAX),
            (u64::MAX, u64::MAX),
            (0, 0),
            (1 << 63, 1),
        ] {
            assert!(regions.register("r", "object", offset, size).is_err());
        }
    }

    #[test]
    fn a_region_is_open_as_long_as_somebody_means_it() {
        let folder = Folder::new("open");
        let regions = folder.regions(100);
        fs::write(folder.0.join("object"), *b"01234567").unwrap();
        regions.register("r", "object", 1, 6).unwrap();
        let slot = regions.slot("x", "r", 1, 4).unwrap();
        regions.unregister("r").unwrap();
        assert!(regions.slot("x", "r", 1, 4).is_err());
        assert_eq!(&regions.read(&slot).unwrap()[..], b"2345");
        slot.write("y", b"ab").unwrap();
        assert_eq!(fs::read(folder.0.join("object")).unwrap(), b"01ab4567");
        assert!(
            slot.write("y", b"abcde")
                .unwrap_err()
                .message
                .contains("'y'")
        );
    }

    #[test]
    fn an_object_that_was_shortened_is_an_error_and_stays_short() {
        let folder = Folder::new("short");
        let regions = folder.regions(100);
        let object = folder.0.join("object");
        fs::write(&object, [7; 8]).unwrap();
        regions.register("r", "object", 0, 8).unwrap();
        let slot = regions.slot("x", "r", 0, 8).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&object)
            .unwrap()
            .set_len(4)
            .unwrap();
        assert!(regions.read(&slot).unwrap_err().message.contains("shorter"));
        assert!(
            slot.write("y", &[1; 8])
                .unwrap_err()
                .message
                .contains("shorter")
        );
        assert_eq!(fs::metadata(&object).unwrap().len(), 4);
    }

    #[test]
    fn it_is_off_unless_it_is_asked_for() {
        let regions = Regions::new(false, 100);
        let off = regions.register("r", "object", 0, 8).unwrap_err();
        assert_eq!(off.code, Code::Unimplemented);
        assert_eq!(
            regions.slot("x", "r", 0, 8).unwrap_err().code,
            Code::Unimplemented
        );
        assert!(regions.status("").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_slot_leaves_its_region(
            region in (0u64..40, 0u64..40),
            offset in prop_oneof![0u64..40, any::<u64>()],
            size in prop_oneof![0u64..40, any::<u64>()],
        ) {
            let folder = Folder::new("slots");
            let regions = folder.regions(64);
            let content: Vec<u8> = (0..32).collect();
            fs::write(folder.0.join("object"), &content).unwrap();
            if regions.register("r", "object", region.0, region.1).is_ok()
                && let Ok(slot) = regions.slot("x", "r", offset, size)
            {
                let start = (region.0 + offset) as usize;
                let end = start + size as usize;
                prop_assert!(end as u64 <= region.0 + region.1);
                prop_assert_eq!(&regions.read(&slot).unwrap()[..], &content[start..end]);
            }
        }
    }
}
