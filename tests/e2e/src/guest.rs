//! Virtual machines with Debian's kernels, whose user space is `tests/e2e/guest/init`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use curve_harness::{Finished, has_program, run_within};

/// No guest may take longer.
const BOOT_MAX: Duration = Duration::from_secs(400);
/// Nor making its image, packages included.
const BUILD_MAX: Duration = Duration::from_secs(300);
/// What an image is made of, below the workspace.
const SOURCES: [&str; 5] = [
    "tests/e2e/guest/build.sh",
    "tests/e2e/guest/init",
    "tests/e2e/guest/map.sh",
    "tests/e2e/guest/iscsi.sh",
    "deploy/iscsi/multipath.conf",
];

/// A kernel and an initramfs, and what the guest made of them has said.
pub struct Guest {
    dir: PathBuf,
}

impl Guest {
    /// The image of this kind (`guest/build.sh`), made once for each target directory. `None`, with the reason said, where
    /// this machine cannot run one.
    pub async fn made(kind: &str) -> Option<Self> {
        if !has_program("qemu-system-x86_64") || !has_program("apt-get") {
            println!(
                "needs qemu-system-x86_64 (make deps) and apt for the guest's kernel; nothing was tested"
            );
            return None;
        }
        let dir = target_dir().join(format!("tmp/guest-{kind}"));
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let sources = SOURCES.iter().map(|source| changed(&workspace.join(source)));
        if changed(&dir.join("initramfs.cpio")) < sources.max().flatten() {
            let script = workspace.join(SOURCES[0]).display().to_string();
            let built = run_within(BUILD_MAX, &script, &[&dir.display().to_string(), kind]).await;
            let built = built.and_then(Finished::success).unwrap_or_else(|error| panic!("{error}"));
            println!("{}", built.stdout.trim());
        }
        Some(Self { dir })
    }

    /// Where the image is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console")
    }

    /// Waits until the guest has said something.
    pub async fn said(&self, what: &str) {
        while !std::fs::read_to_string(self.console()).unwrap_or_default().contains(what) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs the guest to its end and returns what it wrote to its console. Emulated, since not every test machine can
    /// virtualize. `disk` is its /dev/vda.
    pub fn boot(&self, arguments: &str, disk: Option<&Path>) -> impl Future<Output = String> {
        // At once, not when it is first polled: what an earlier guest said must not be taken for this one's.
        std::fs::write(self.console(), "").expect("the console's file can be written");
        self.run(arguments, disk)
    }

    async fn run(&self, arguments: &str, disk: Option<&Path>) -> String {
        let console = self.console();
        let kernel = self.dir.join("vmlinuz").display().to_string();
        let initramfs = self.dir.join("initramfs.cpio").display().to_string();
        let serial = format!("file:{}", console.display());
        let append = format!("console=ttyS0 panic=-1 {arguments}");
        let drive = disk.map(|disk| format!("file={},format=raw,if=virtio,readonly=on", disk.display()));
        let fixed = "-accel tcg,thread=multi -m 1024 -smp 2 -display none -no-reboot \
                     -netdev user,id=n -device virtio-net-pci,netdev=n";
        let mut all: Vec<&str> = fixed.split_whitespace().collect();
        all.extend(["-kernel", &kernel, "-initrd", &initramfs, "-serial", &serial, "-append", &append]);
        if let Some(drive) = &drive {
            all.extend(["-drive", drive]);
        }
        let finished = run_within(BOOT_MAX, "qemu-system-x86_64", &all).await;
        finished.and_then(Finished::success).unwrap_or_else(|error| {
            panic!("{error}\n{}", std::fs::read_to_string(&console).unwrap_or_default())
        });
        let said = std::fs::read(&console).expect("the guest has written to it");
        String::from_utf8_lossy(&said).into_owned()
    }
}

/// Shows what the guest found, and fails if it failed.
pub fn judge(console: &str) {
    for line in console.lines().filter(|line| line.contains("guest:") || line.contains("attached:")) {
        println!("{}", line.trim());
    }
    assert!(console.contains("GUEST-OK"), "{console}");
}

/// When a file was changed; `None` if there is none.
fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// `target`, which this test was built in: target/PROFILE/deps/test-HASH.
fn target_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a file");
    own.ancestors().nth(3).expect("tests are built in target/PROFILE/deps").to_path_buf()
}
