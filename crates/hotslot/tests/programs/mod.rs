//! Programs that use the crate, as rustc alone makes them: with and without the agent, by several linkers.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a command; its output, or all it said.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn rustc(source: &str, out: &Path, arguments: &[&str]) {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let source = Path::new(SOURCES).join(source);
    run(Command::new(rustc).args(["--edition", "2024", "-o"]).args([out, &source]).args(arguments));
}

/// A folder of the calling test binary's own.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hotslot-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// `tests/fixtures/program.rs` with the crate as `cargo build` makes it; `arguments` are for the program's rustc.
pub fn program(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let library = folder.join(format!("lib{name}_hotslot.rlib"));
    let program = folder.join(name);
    rustc("src/lib.rs", &library, &["--crate-type", "lib", "--crate-name", "hotslot", "-C", "debug-assertions=on"]);
    let library = format!("hotslot={}", library.display());
    rustc("tests/fixtures/program.rs", &program, &[&["--extern", library.as_str()], arguments].concat());
    program
}
