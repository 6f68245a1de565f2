//! Files, read and written by the ring.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use super::engine;
use super::op::Op;
use super::send::Payload;

/// An open file of this worker. Not `Send`.
///
/// An operation that is under way keeps the file open until it ends.
pub struct File {
    /// Some until drop.
    fd: Option<Rc<OwnedFd>>,
    /// Nothing was written, so that closing it is quick.
    read_only: bool,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A device, a socket, a pipe.
    Other,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// What it is; symbolic links are followed.
    pub kind: FileKind,
    /// Bytes in it.
    pub size: u64,
    /// Seconds since 1970 of its last change.
    pub modified: i64,
}

/// What a path leads to. The kernel's threads look it up where the answer is not in memory.
///
/// # Errors
/// As of stat(2).
pub async fn stat(path: &[u8]) -> io::Result<Metadata> {
    // IORING_OP_STATX always costs a thread's wake-up; a bare descriptor is found on the spot.
    let mut file = open_at(path, libc::O_PATH, 0).await?;
    file.read_only = true;
    file.metadata()
}

impl File {
    /// Takes over a descriptor that is read from.
    pub fn from_fd(fd: OwnedFd) -> File {
        File {
            fd: Some(Rc::new(fd)),
            read_only: true,
        }
    }

    /// Opens a file for reading. A pipe without a writer does not hold it up.
    ///
    /// # Errors
    /// As of open(2).
    pub async fn open(path: &Path) -> io::Result<File> {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let mut file = open_at(path.as_os_str().as_bytes(), flags, 0).await?;
        file.read_only = true;
        Ok(file)
    }

    /// What the open file is. Its inode is in memory, so that nothing has to be waited for.
    ///
    /// # Errors
    /// As of fstat(2).
    pub fn metadata(&self) -> io::Result<Metadata> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the descriptor is open and fstat writes the whole struct when it succeeds.
        let stat = unsafe {
            if libc::fstat(self.raw_fd(), stat.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat.assume_init()
        };
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            _ => FileKind::Other,
        };
        Ok(Metadata {
            kind,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: stat.st_mtime,
        })
    }

    /// A new file in the directory `dir`, for reading and writing, that has no name and ends with
    /// its descriptor.
    pub async fn temporary(dir: &Path) -> io::Result<File> {
        let unnamed = libc::O_RDWR | libc::O_TMPFILE;
        match open_at(dir.as_os_str().as_bytes(), unnamed, 0o600).await {
            // What file systems and kernels without it say.
            Err(error)
                if [libc::EOPNOTSUPP, libc::EISDIR, libc::EINVAL]
                    .contains(&error.raw_os_error().unwrap_or(0)) =>
            {
                named_then_unlinked(dir).await
            }
            other => other,
        }
    }

    /// The descriptor, which the file keeps.
    pub fn raw_fd(&self) -> RawFd {
        self.owned().as_raw_fd()
    }

    /// Replaces the content of `buf` by what stands at `offset`, as much as it has capacity for or
    /// less. Zero bytes are the end of the file.
    pub fn read_at(
        &self,
        mut buf: Vec<u8>,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)> + use<> {
        buf.clear();
        let len = u32::try_from(buf.capacity()).unwrap_or(u32::MAX);
        let entry = opcode::Read::new(types::Fd(self.raw_fd()), buf.as_mut_ptr(), len)
            .offset(offset)
            .build();
        let reading = Op::submit((buf, self.keep()), entry);
        async move {
            let (cqe, (mut buf, _)) = reading.await;
            if let Ok(count) = cqe.result() {
                // SAFETY: the kernel has written `count` bytes, at most the capacity.
                unsafe { buf.set_len(count) };
            }
            (cqe.result(), buf)
        }
    }

    /// Writes all of `payload` at `offset`.
    pub async fn write_at<B: Payload>(
        &self,
        mut payload: B,
        offset: u64,
    ) -> (io::Result<usize>, B) {
        let mut written = 0;
        loop {
            let rest = &payload.bytes()[written..];
            if rest.is_empty() {
                return (Ok(written), payload);
            }
            let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            let entry = opcode::Write::new(types::Fd(self.raw_fd()), rest.as_ptr(), len)
                .offset(offset + written as u64)
                .build();
            let (cqe, (back, _)) = Op::submit((payload, self.keep()), entry).await;
            payload = back;
            match cqe.result() {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), payload),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), payload),
            }
        }
    }

    /// For an operation: the file stays open as long as the result lives.
    pub(super) fn keep(&self) -> Rc<OwnedFd> {
        self.owned().clone()
    }

    fn owned(&self) -> &Rc<OwnedFd> {
        self.fd
            .as_ref()
            .expect("the descriptor is there until drop")
    }
}

impl Drop for File {
    /// Closing may free a large file's blocks, which takes its time: the kernel's threads do it,
    /// except where nothing was written, since waking them costs more than such a close.
    fn drop(&mut self) {
        let open = engine::with(|engine| engine.open.get()) == Some(true);
        let last = self.fd.take().and_then(Rc::into_inner);
        if let Some(fd) = last.filter(|_| open && !self.read_only) {
            let entry = opcode::Close::new(types::Fd(fd.into_raw_fd())).build();
            drop(Op::submit((), entry.flags(squeue::Flags::ASYNC)));
        }
    }
}

async fn open_at(path: &[u8], flags: libc::c_int, mode: libc::mode_t) -> io::Result<File> {
    let path = CString::new(path)?;
    let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
        .flags(flags | libc::O_CLOEXEC)
        .mode(mode)
        .build();
    let (cqe, _) = Op::submit(path, entry).await;
    let fd = cqe.result()? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(File {
        fd: Some(Rc::new(fd)),
        read_only: false,
    })
}

async fn named_then_unlinked(dir: &Path) -> io::Result<File> {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        let path = dir.join(format!("{:016x}.tmp", fastrand::u64(..)));
        let path = path.as_os_str().as_bytes();
        match open_at(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600).await {
            Ok(file) => {
                let path = CString::new(path)?;
                let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr());
                let (cqe, _) = Op::submit(path, entry.build()).await;
                return cqe.result().map(|_| file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
