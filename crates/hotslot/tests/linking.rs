//! What compiler and linkers make of the crate: nothing in a release build; the agent's word is found where there is an
//! agent, and not missed where there is none.

mod programs;

use programs::{folder, program, run, rustc};
use std::path::Path;
use std::process::Command;

fn says(program: &Path, socket: Option<&str>) -> String {
    let mut command = Command::new(program);
    command.env_remove("HOTSLOT_SOCKET").args(["version", "hook", "threads"]);
    if let Some(socket) = socket {
        command.env("HOTSLOT_SOCKET", socket);
    }
    run(&mut command)
}

#[test]
fn the_release_build_of_the_crate_holds_no_function_and_no_data() {
    let folder = folder("compiled");
    let ir = |name: &str, arguments: &[&str]| {
        let file = folder.join(name);
        let as_library = ["--crate-type", "lib", "--crate-name", "hotslot", "--emit", "llvm-ir"];
        rustc("src/lib.rs", &file, &[&as_library, arguments].concat());
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().filter(|line| line.starts_with("define") || line.starts_with('@')).count()
    };
    assert_eq!(ir("release.ll", &["-C", "opt-level=3"]), 0);
    assert_ne!(ir("debug.ll", &["-C", "debug-assertions=on"]), 0);
}

#[test]
fn the_word_is_optional_for_every_linker() {
    let folder = folder("linking");
    let object = ["--crate-type", "lib", "--emit", "obj", "-C", "panic=abort", "-C", "codegen-units=1"];
    rustc("../agent/src/lib.rs", &folder.join("agent.o"), &[&object[..], &["-C", "opt-level=2"]].concat());
    rustc("tests/fixtures/slots.rs", &folder.join("slots.o"), &object);
    let objects = ["agent.o", "slots.o"].map(|name| format!("link-arg={}", folder.join(name).display()));

    // The one that rustc chooses, which may be lld, and GNU ld.
    for (linker, choice) in [("default", &[][..]), ("bfd", &["-C", "link-arg=-fuse-ld=bfd"])] {
        for model in ["pie", "static"] {
            for optimised in ["0", "3"] {
                let model_argument = format!("relocation-model={model}");
                let level = format!("opt-level={optimised}");
                let plain = [choice, &["-C", &model_argument, "-C", &level]].concat();
                let hot = [&plain[..], &["-C", &objects[0], "-C", &objects[1]]].concat();
                let name = |kind: &str| format!("{kind}_{linker}_{model}_{optimised}");

                let plain = program(&folder, &name("plain"), &plain);
                assert_eq!(says(&plain, None), "0\n1\n", "{}", plain.display());
                assert_eq!(says(&plain, Some("nowhere")), "0\n1\n", "{}", plain.display());
                // The agent's thread and that of hooks, though nobody listens at the socket yet.
                let hot = program(&folder, &name("hot"), &hot);
                assert_eq!(says(&hot, None), "0\n1\n", "{}", hot.display());
                assert_eq!(says(&hot, Some("nowhere")), "0\n3\n", "{}", hot.display());
            }
        }
    }
}
