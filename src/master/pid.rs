//! The pid file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::log_process;
use crate::observe::{Level, os_error};

/// The pid file of the running process. Written once every socket listens; removed at the end.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes this process's id to `path`.
    pub fn create(path: &Path) -> io::Result<PidFile> {
        fs::write(path, format!("{}\n", std::process::id()))?;
        Ok(PidFile {
            path: path.to_owned(),
        })
    }

    /// Follows a `pid` directive that a reload changed: writes the new file, removes the old one.
    pub fn move_to(&mut self, path: &Path) -> io::Result<()> {
        if path != self.path {
            let old = std::mem::replace(self, PidFile::create(path)?);
            old.remove();
        }
        Ok(())
    }

    /// Makes room for the pid file of a new binary. (signal USR2)
    pub fn rename_to_old(&self) -> io::Result<()> {
        fs::rename(&self.path, old_path(&self.path))
    }

    /// Takes the name back after a new binary ended.
    pub fn rename_back(&self) -> io::Result<()> {
        fs::rename(old_path(&self.path), &self.path)
    }

    /// Removes the file under the name it has now, which is the old one while `renamed`.
    pub fn remove_named(self, renamed: bool) {
        let path = if renamed {
            old_path(&self.path)
        } else {
            self.path
        };
        if let Err(error) = fs::remove_file(&path) {
            let shown = os_error(&error);
            log_process!(
                Level::Alert,
                "unlink() \"{}\" failed {shown}",
                path.display()
            );
        }
    }

    fn remove(self) {
        self.remove_named(false);
    }
}

/// The id in the pid file at `path`, for `-s`. The error is nginx's message.
pub fn read(path: &Path) -> Result<i32, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("open() \"{}\" failed {}", path.display(), os_error(&error)))?;
    let number = text.trim_end_matches(['\n', '\r']);
    match number.parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(format!(
            "invalid PID number \"{number}\" in \"{}\"",
            path.display()
        )),
    }
}

/// Where the pid file of an old binary waits.
pub fn old_path(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".oldbin");
    PathBuf::from(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_renamed_and_removed() {
        let path = std::env::temp_dir().join(format!("ringway-pid-{}", std::process::id()));
        let file = PidFile::create(&path).unwrap();
        assert_eq!(read(&path).unwrap() as u32, std::process::id());
        file.rename_to_old().unwrap();
        assert!(!path.exists() && old_path(&path).exists());
        file.rename_back().unwrap();
        let mut file = file;
        let other = path.with_extension("other");
        file.move_to(&other).unwrap();
        assert!(!path.exists() && other.exists());
        file.remove_named(false);
        assert!(!other.exists());
    }

    #[test]
    fn nonsense_is_named() {
        let path = std::env::temp_dir().join(format!("ringway-badpid-{}", std::process::id()));
        fs::write(&path, "abc\n").unwrap();
        let message = format!("invalid PID number \"abc\" in \"{}\"", path.display());
        assert_eq!(read(&path).unwrap_err(), message);
        fs::remove_file(&path).unwrap();
        let message = format!(
            "open() \"{}\" failed (2: No such file or directory)",
            path.display()
        );
        assert_eq!(read(&path).unwrap_err(), message);
    }
}
