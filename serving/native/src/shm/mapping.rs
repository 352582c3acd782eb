//! A client's object in memory, for copies from and to it although its owner may shorten it at any moment.
//!
//! Touching a page that is gone, or one that a full /dev/shm cannot provide, raises SIGBUS. The handler here puts an
//! empty page in its place and notes that the mapping is broken: the copy goes on, and is refused at its end. A SIGBUS
//! anywhere else ends the process as it would without.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{c_int, c_void, siginfo_t};

/// Mappings at a time.
pub const MOST: usize = 512;

/// Where a mapping is, for the handler, which may neither wait nor allocate. A page is all it replaces, so nothing
/// depends on it that both numbers are read at the same moment.
struct Place {
    taken: AtomicBool,
    start: AtomicUsize,
    size: AtomicUsize,
    broken: AtomicBool,
}

static PLACES: [Place; MOST] = [const {
    Place {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
    }
}; MOST];

/// What was done at SIGBUS before, and the size of a page.
static BEFORE: OnceLock<(libc::sigaction, usize)> = OnceLock::new();

/// Part of an object, in memory until it is dropped.
pub struct Mapping {
    place: &'static Place,
    start: *mut c_void,
    /// From the beginning of a page.
    size: usize,
    /// Where the part begins in it.
    skipped: usize,
}

// SAFETY: it only says where the mapping is; whoever copies agrees with nobody on what is there, the object's owner
// included, and takes it as it comes.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} bytes", self.size - self.skipped)
    }
}

impl Mapping {
    /// Map `size` bytes, above 0, of an object from `offset` on; `None` when there are too many already.
    pub fn new(object: &File, offset: u64, size: usize) -> io::Result<Option<Self>> {
        let page = handle()?;
        let skipped = (offset % page as u64) as usize;
        let beyond = || io::Error::from(io::ErrorKind::InvalidInput);
        let size = size.checked_add(skipped).ok_or_else(beyond)?;
        let first = libc::off_t::try_from(offset - skipped as u64).map_err(|_| beyond())?;
        let Some(place) = PLACES.iter().find(|place| !place.taken.swap(true, SeqCst)) else {
            return Ok(None);
        };
        // SAFETY: a new mapping, at an address that the system chooses.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                object.as_raw_fd(),
                first,
            )
        };
        if start == libc::MAP_FAILED {
            place.taken.store(false, SeqCst);
            return Err(io::Error::last_os_error());
        }
        place.broken.store(false, SeqCst);
        place.start.store(start as usize, SeqCst);
        place.size.store(size, SeqCst);
        Ok(Some(Self {
            place,
            start,
            size,
            skipped,
        }))
    }

    /// Append `size` bytes from `offset` on. Whether they are the object's.
    pub fn read(&self, offset: usize, size: usize, memory: &mut Vec<u8>) -> bool {
        memory.reserve(size);
        // SAFETY: `at` has checked that the bytes are in the mapping, there is room for them, and they are
        // initialized once they are copied.
        unsafe {
            let end = memory.as_mut_ptr().add(memory.len());
            libc::memcpy(end.cast(), self.at(offset, size), size);
            memory.set_len(memory.len() + size);
        }
        self.whole()
    }

    /// Copy to `offset` and beyond. Whether the object has got it.
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        // SAFETY: `at` has checked that they stay in the mapping.
        unsafe {
            libc::memcpy(
                self.at(offset, data.len()),
                data.as_ptr().cast(),
                data.len(),
            )
        };
        self.whole()
    }

    /// No page was found missing so far.
    pub fn whole(&self) -> bool {
        !self.place.broken.load(SeqCst)
    }

    fn at(&self, offset: usize, size: usize) -> *mut c_void {
        let room = self.size - self.skipped;
        assert!(
            offset <= room && size <= room - offset,
            "beyond the mapping"
        );
        self.start.wrapping_byte_add(self.skipped + offset)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.place.size.store(0, SeqCst);
        // SAFETY: nobody copies any more, since that borrows it.
        unsafe { libc::munmap(self.start, self.size) };
        self.place.taken.store(false, SeqCst);
    }
}

/// See to SIGBUS, once. The size of a page.
fn handle() -> io::Result<usize> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&(_, page)) = BEFORE.get() {
        return Ok(page);
    }
    // SAFETY: the action is filled before it is used; the handler does only what a handler may.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).map_err(io::Error::other)?;
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        BEFORE.get_or_init(|| (before, page));
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = missing as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        match libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) {
            0 => Ok(page),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A page cannot be had. If it is a mapping's, an empty one takes its place; otherwise what was done before is done.
extern "C" fn missing(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    let Some((before, page)) = BEFORE.get() else {
        return;
    };
    // SAFETY: the system gives the handler its information; only calls that a handler may make are made, and only a
    // page of a mapping of ours is replaced.
    unsafe {
        let address = (*info).si_addr() as usize;
        let ours = |place: &&Place| {
            let start = place.start.load(SeqCst);
            address >= start && address - start < place.size.load(SeqCst)
        };
        // What a process sends has no address, and a code that is not positive.
        let mut found = false;
        if (*info).si_code > 0 {
            // Of all that seem to be it: one that changes hands right now must not hide the one that is.
            for place in PLACES.iter().filter(ours) {
                place.broken.store(true, SeqCst);
                found = true;
            }
        }
        if found {
            let replaced = libc::mmap(
                (address - address % page) as *mut c_void,
                *page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            if replaced != libc::MAP_FAILED {
                return;
            }
        }
        libc::sigaction(signal, before, ptr::null_mut());
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const PAGE: usize = 4096;

    fn object(size: usize) -> File {
        let name = format!("capstan-mapping-{}-{size}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, vec![7; size]).unwrap();
        let options = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path);
        std::fs::remove_file(path).unwrap();
        options.unwrap()
    }

    fn mapped(object: &File, offset: u64, size: usize) -> Mapping {
        Mapping::new(object, offset, size).unwrap().unwrap()
    }

    #[test]
    fn what_the_owner_takes_away_is_missed_and_nothing_else() {
        let (lost, kept) = (object(64 * PAGE), object(4 * PAGE));
        let (broken, whole) = (mapped(&lost, 100, 63 * PAGE), mapped(&kept, 5, PAGE));
        let mut memory = vec![1];
        assert!(broken.read(0, 63 * PAGE, &mut memory));
        assert_eq!((memory.len(), memory[1]), (1 + 63 * PAGE, 7));
        lost.set_len(PAGE as u64).unwrap();
        assert!(!broken.read(0, 63 * PAGE, &mut memory));
        assert!(!broken.write(10 * PAGE, &[3; 9 * PAGE]));
        lost.set_len(64 * PAGE as u64).unwrap();
        assert!(
            !broken.read(0, 1, &mut memory),
            "its pages are not the object's"
        );
        let again = mapped(&lost, 0, 64 * PAGE);
        memory.clear();
        assert!(again.read(10 * PAGE, 1, &mut memory) && memory == [0]);
        assert!(whole.write(PAGE - 1, b"x") && whole.whole());
        drop(broken);
        memory.clear();
        assert!(whole.read(PAGE - 2, 2, &mut memory) && memory == b"\x07x");
    }

    #[test]
    #[should_panic(expected = "beyond the mapping")]
    fn no_copy_leaves_the_mapping() {
        mapped(&object(3 * PAGE), 1, 5).read(3, 3, &mut Vec::new());
    }

    /// Runs itself as another process.
    #[test]
    fn a_fault_elsewhere_still_ends_the_process() {
        const ROLE: &str = "CAPSTAN_TEST_FAULT";
        let Ok(role) = std::env::var(ROLE) else {
            for role in ["page", "signal"] {
                let ended = Command::new(std::env::current_exe().unwrap())
                    .args([
                        "--exact",
                        "shm::mapping::tests::a_fault_elsewhere_still_ends_the_process",
                    ])
                    .env(ROLE, role)
                    .output()
                    .unwrap();
                assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{role}");
            }
            return;
        };
        let ours = mapped(&object(PAGE), 0, PAGE);
        let other = object(2 * PAGE);
        // SAFETY: ends this process, as it should.
        unsafe {
            if role == "signal" {
                libc::raise(libc::SIGBUS);
            }
            let flags = (libc::PROT_READ, libc::MAP_SHARED);
            let lost = libc::mmap(
                ptr::null_mut(),
                PAGE,
                flags.0,
                flags.1,
                other.as_raw_fd(),
                0,
            );
            other.set_len(0).unwrap();
            assert_eq!(lost.cast::<u8>().read_volatile(), 0);
        }
        assert!(ours.whole());
    }
}
