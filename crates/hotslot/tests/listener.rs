//! Sockets that a program inherits, as when hotslot restarts it.

mod programs;

use programs::{folder, program, run};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

fn built() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| program(&folder("listener"), "program", &[]))
}

/// The program, with `socket` as its descriptor 3.
fn heir(socket: impl Into<OwnedFd>, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 3<&0 </dev/null"]).arg(built());
    command.env_remove("LISTEN_PID").envs(variables.iter().copied());
    command.stdin(Stdio::from(socket.into()));
    command
}

fn listening() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn who_connected_before_the_program_was_there_is_served() {
    let (listener, address) = listening();
    let mut early = TcpStream::connect(&address).unwrap();
    early.write_all(b"first!").unwrap();
    drop(early);
    let port = address.rsplit(':').next().unwrap();
    let output = run(heir(listener, &[("LISTEN_FDS", "1"), ("ANSWER", port)]).arg(&address));
    assert_eq!(output, format!("{address}\nfirst!\n"));
}

#[test]
fn a_restart_keeps_the_port_that_was_chosen() {
    let (listener, address) = listening();
    let output = run(heir(listener, &[("LISTEN_FDS", "1"), ("LISTEN_PID", "")]).args(["127.0.0.1:0", "127.0.0.1:0"]));
    let lines: Vec<_> = output.lines().collect();
    // The second gets a socket of its own: one is taken once.
    assert_eq!((lines.len(), lines[0]), (2, address.as_str()));
    assert_ne!(lines[0], lines[1]);
}

#[test]
fn what_is_not_meant_is_not_taken() {
    let other_address: &[(&str, &str)] = &[("LISTEN_FDS", "1")];
    let other_process: &[(&str, &str)] = &[("LISTEN_FDS", "1"), ("LISTEN_PID", "1")];
    let no_number: &[(&str, &str)] = &[("LISTEN_FDS", "some")];
    for (variables, wanted) in
        [(other_address, "127.0.0.2:0"), (other_process, "127.0.0.1:0"), (no_number, "127.0.0.1:0")]
    {
        let (listener, address) = listening();
        let output = run(heir(listener, variables).arg(wanted));
        assert_ne!(output.trim_end(), address, "{variables:?}");
        assert!(output.starts_with(wanted.trim_end_matches('0')), "{output}");
    }
    // Neither a socket that does not listen, nor more descriptors than there are.
    let (listener, address) = listening();
    let client = TcpStream::connect(&address).unwrap();
    let output = run(heir(client, &[("LISTEN_FDS", "5")]).arg("127.0.0.1:0"));
    assert_ne!(output.trim_end(), listener.local_addr().unwrap().to_string());
}
