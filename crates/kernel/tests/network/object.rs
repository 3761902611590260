//! The committed eBPF object is what its source makes.

use libtest_mimic::Failed;
use std::{fs, path::Path, process::Command};

/// With the compiler that scripts/install.sh names: another version makes other bytes.
pub fn equals_its_source() -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir()?;
    let object = folder.path().join("rempart.bpf.o");
    let made = Command::new("make")
        .args(["--no-print-directory", "-C"])
        .arg(&root)
        .arg("bpf")
        .arg(format!("BPF_OBJECT={}", object.display()))
        .output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).as_ref().into());
    }
    let committed = root.join("crates/kernel/bpf/rempart.bpf.o");
    if fs::read(&object)? != fs::read(committed)? {
        return Err(
            "crates/kernel/bpf/rempart.bpf.o is not what its source makes: `make bpf`".into(),
        );
    }
    Ok(())
}
