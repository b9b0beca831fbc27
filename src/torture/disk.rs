//! The disk that the node's store lies on: an ext4 image on a loop device, so that it can be filled and cut off from
//! its power; or a plain folder, where this machine lets nobody make one.
//!
//! `campaign` uses it. A cut is the ioctl that ext4 has for this (`EXT4_IOC_SHUTDOWN`, without flushing its log): from
//! that moment nothing reaches the device, as if the power had gone, and what was not synced is gone after the next
//! mount. It needs root, `mkfs.ext4`, `mount` and `python3`. A volatile cache inside a real disk is not imitated.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::time::monotonic;

/// Size of the image; it takes space only as it fills.
const SIZE: u64 = 384 << 20;
/// The ioctl, by the one program that every machine has and that can call it.
const SHUT_DOWN: &str = "import fcntl,os,struct,sys\n\
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
/// How long a file system may be busy after its last process has gone.
const BUSY: Duration = Duration::from_secs(10);

/// Where the store is.
#[derive(Debug)]
pub(super) enum Disk {
    /// A folder on a disk that others use too: it is neither filled nor cut off.
    Folder(PathBuf),
    /// A file system of its own.
    Image(Image),
}

/// A mounted image.
#[derive(Debug)]
pub(super) struct Image {
    file: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes an image below `folder` and mounts it there.
    ///
    /// # Errors
    /// Why it cannot be done here.
    pub(super) fn image(folder: &Path) -> Result<Disk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it needs root".into());
        }
        let (file, at) = (folder.join("disk.img"), folder.join("disk"));
        let made = fs::create_dir_all(&at)
            .and_then(|()| File::create(&file))
            .and_then(|image| image.set_len(SIZE));
        made.map_err(|e| format!("no image can be made in {}: {e}", folder.display()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&file))?;
        let image = Image { file, at };
        image.mount()?;
        Ok(Disk::Image(image))
    }

    /// The folder for the store.
    pub(super) fn store(&self) -> PathBuf {
        match self {
            Disk::Folder(folder) => folder.join("store"),
            Disk::Image(image) => image.at.join("store"),
        }
    }
}

impl Image {
    /// Takes all space but `left` bytes.
    pub(super) fn fill(&self, left: u64) -> io::Result<()> {
        let disk = statvfs(&self.at)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let file = File::create(self.ballast())?;
        let take = free.saturating_sub(left);
        if take > 0 {
            // What others took meanwhile is theirs.
            let _ = fallocate(&file, FallocateFlags::empty(), 0, take);
        }
        if left == 0 {
            let mut file = OpenOptions::new().append(true).open(self.ballast())?;
            while file.write_all(&[0; 4096]).is_ok() {}
        }
        Ok(())
    }

    /// Gives it back.
    pub(super) fn free(&self) -> io::Result<()> {
        fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// The power goes. Whoever has files open there is to be killed.
    pub(super) fn cut_power(&self) -> Result<(), String> {
        run(Command::new("python3").args(["-c", SHUT_DOWN]).arg(&self.at))
    }

    /// The power comes back, once nobody has files open there any more.
    pub(super) fn power_up(&self) -> Result<(), String> {
        let due = monotonic() + BUSY;
        while let Err(why) = run(Command::new("umount").arg(&self.at)) {
            if monotonic() > due {
                return Err(why);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.mount()
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.file).arg(&self.at))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily, so that nothing that is still open keeps it mounted for ever.
        let _ = run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

/// Runs a program to its end; what it said where it failed.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("`{name}` cannot be run: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{name}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
