//! The seam to the file system: blobs as files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file of a blob.
pub trait BlobFile: Send + Sync {
    /// Adds bytes to a new file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was added durable.
    fn sync(&self) -> io::Result<()>;
    /// Fills `into` from a place in the file.
    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;
}

/// Blobs as files. A decorator of it makes the failures of tests.
pub trait BlobFiles: Send + Sync + 'static {
    /// Makes a new, empty file.
    fn create(&self, blob: u64) -> io::Result<Box<dyn BlobFile>>;
    /// Opens a file to read.
    fn open(&self, blob: u64) -> io::Result<Box<dyn BlobFile>>;
    /// Makes the name of a new file durable.
    fn sync_name(&self, blob: u64) -> io::Result<()>;
    /// Removes a file; one that is not there is removed.
    fn remove(&self, blob: u64) -> io::Result<()>;
    /// Calls back with every file there is; what has no blob's name is left alone.
    fn for_each(&self, found: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()>;
    /// Bytes that are free on the disk.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Files in 256 directories, by the last byte of the number.
pub struct RealFiles {
    dir: PathBuf,
}

impl RealFiles {
    /// Uses `dir`; makes it and its directories, durably, when they are missing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for byte in 0..=255u8 {
            let sub = dir.join(format!("{byte:02x}"));
            if !sub.is_dir() {
                fs::create_dir(&sub)?;
            }
        }
        File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { dir: dir.to_path_buf() })
    }

    fn sub(&self, blob: u64) -> PathBuf {
        self.dir.join(format!("{:02x}", blob & 0xff))
    }

    fn path(&self, blob: u64) -> PathBuf {
        self.sub(blob).join(format!("{blob:016x}"))
    }
}

struct RealFile(File);

impl BlobFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(into, at)
    }
}

impl BlobFiles for RealFiles {
    fn create(&self, blob: u64) -> io::Result<Box<dyn BlobFile>> {
        Ok(Box::new(RealFile(File::options().write(true).create_new(true).open(self.path(blob))?)))
    }

    fn open(&self, blob: u64) -> io::Result<Box<dyn BlobFile>> {
        Ok(Box::new(RealFile(File::open(self.path(blob))?)))
    }

    fn sync_name(&self, blob: u64) -> io::Result<()> {
        File::open(self.sub(blob))?.sync_all()
    }

    fn remove(&self, blob: u64) -> io::Result<()> {
        match fs::remove_file(self.path(blob)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn for_each(&self, found: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
        for byte in 0..=255u64 {
            for entry in fs::read_dir(self.sub(byte))? {
                let name = entry?.file_name();
                let name = name.to_str().filter(|name| name.len() == 16);
                if let Some(blob) = name.and_then(|name| u64::from_str_radix(name, 16).ok()) {
                    found(blob)?;
                }
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}
