//! Assembles what the proof of work runs in browsers: WebAssembly text in the source tree, binary in
//! the program. Nothing else happens at build time.

use std::{env, error::Error, fs, path::Path};

const SOLVER: &str = "src/challenge/proof_of_work/solver.wat";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOLVER}");
    let binary = wat::parse_file(SOLVER)?;
    let out = env::var_os("OUT_DIR").ok_or("cargo says where to write: OUT_DIR")?;
    fs::write(Path::new(&out).join("solver.wasm"), binary)?;
    Ok(())
}
