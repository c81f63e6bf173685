//! The other end of the agent's socket, and the programs to try it with.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
/// No answer within this time is a failure; every wait ends with its event.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a command; its output, or all it said.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
}

/// What all tests share, built once by the first.
pub struct Built {
    /// The agent, as hotslot compiles it.
    pub object: PathBuf,
    /// The program with the agent: position-independent, linked by rustc's choice of linker, ...
    pub program: PathBuf,
    /// ... and for fixed addresses, linked by GNU ld.
    pub fixed: PathBuf,
    /// The program without the agent.
    pub plain: PathBuf,
    /// With the agent, and with a list for debuggers of its own.
    pub compiler: PathBuf,
    /// The object of new code for it.
    pub patch: PathBuf,
}

pub fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Folder::new("build").keep();
        let path = |name: &str| folder.join(name);
        let edition = ["--edition", "2024"];
        let object = path("agent.o");
        run(rustc()
            .args(edition)
            .args(["--crate-type", "lib", "--emit", "obj", "--crate-name", "hotslot_agent"])
            .args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "codegen-units=1", "-o"])
            .args([&object, &Path::new(SOURCES).join("src/lib.rs")]));
        let program = |name: &str, arguments: &[&str]| {
            let source = Path::new(SOURCES).join("tests/fixtures/program.rs");
            run(rustc()
                .args(edition)
                .args(["-C", "codegen-units=1", "-C", "debuginfo=1"])
                .args(arguments)
                .arg("-o")
                .args([&path(name), &source]));
            path(name)
        };
        let link = format!("link-arg={}", object.display());
        let patch = path("patch.o");
        run(rustc()
            .args(edition)
            .args(["--crate-type", "lib", "--emit", "obj", "-C", "debuginfo=2", "-C", "opt-level=1", "-o"])
            .args([&patch, &Path::new(SOURCES).join("tests/fixtures/patch.rs")]));
        let compiler = path("compiler.o");
        run(rustc()
            .args(edition)
            .args(["--crate-type", "lib", "--emit", "obj", "-C", "panic=abort", "-o"])
            .args([&compiler, &Path::new(SOURCES).join("tests/fixtures/compiler.rs")]));
        let compiler = format!("link-arg={}", compiler.display());
        Built {
            program: program("program", &["-C", &link]),
            fixed: program("fixed", &["-C", &link, "-C", "relocation-model=static", "-C", "link-arg=-fuse-ld=bfd"]),
            plain: program("plain", &[]),
            compiler: program("compiler", &["-C", &link, "-C", &compiler]),
            patch,
            object,
        }
    })
}

/// A private folder below cargo's for tests. Those that earlier runs left behind are removed.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(purpose: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.split('-').nth(1).unwrap_or_default().to_owned();
            if !Path::new("/proc").join(owner).exists() {
                // Another run may be doing the same.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("{purpose}-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// For as long as the process runs.
    fn keep(self) -> PathBuf {
        std::mem::ManuallyDrop::new(self).0.clone()
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A running program, spoken to by lines.
pub struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    pub fn start(path: &Path, socket: Option<&Path>) -> Self {
        Self::start_by(&[], path, socket)
    }

    /// By a command that turns into the program.
    pub fn start_by(prefix: &[&str], path: &Path, socket: Option<&Path>) -> Self {
        let words: Vec<&OsStr> = prefix.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.env_remove("HOTSLOT_SOCKET");
        if let Some(socket) = socket {
            command.env("HOTSLOT_SOCKET", socket);
        }
        Self::spawn(command)
    }

    pub fn start_with(path: &Path, socket: Option<&Path>, environment: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(path);
        command.envs(environment.iter().copied()).envs(socket.map(|socket| ("HOTSLOT_SOCKET", socket)));
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.line()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    pub fn line(&mut self) -> String {
        let mut reply = String::new();
        self.stdout.read_line(&mut reply).unwrap();
        reply.truncate(reply.trim_end().len());
        reply
    }

    pub fn numbers(&mut self, line: &str) -> Vec<u64> {
        self.ask(line).split(' ').map(|word| word.parse().unwrap()).collect()
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// So many bytes of its memory.
    pub fn memory(&self, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let memory = fs::File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        memory.read_exact_at(&mut bytes, address).unwrap();
        bytes
    }

    pub fn maps(&self) -> String {
        fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap()
    }

    /// Ends its input, as a user would; true when it exits with 0.
    pub fn finish(mut self) -> bool {
        drop(std::mem::replace(&mut self.stdin, replacement()));
        self.child.wait().unwrap().success()
    }
}

/// The input of a process that has ended.
fn replacement() -> ChildStdin {
    let mut child = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    child.wait().unwrap();
    stdin
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sections of a patch message.
#[derive(Clone, Default)]
pub struct Patch {
    pub version: u32,
    /// Address, size, protection, bytes.
    pub segments: Vec<(u64, u64, u32, Vec<u8>)>,
    pub writes: Vec<(u64, Vec<u8>)>,
    pub slots: Vec<(u64, u64)>,
    /// Address of .eh_frame_hdr, start and end of the text.
    pub unwind: Vec<(u64, u64, u64)>,
    /// Offset in the pool, bytes.
    pub thread_locals: Vec<(u32, Vec<u8>)>,
    pub symbol_file: Vec<u8>,
}

#[derive(Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self = self.u32(bytes.len() as u32);
        self.0.extend(bytes);
        self
    }

    fn list<T>(self, list: &[T], one: impl Fn(Self, &T) -> Self) -> Self {
        let fields = self.u32(list.len() as u32);
        list.iter().fold(fields, one)
    }

    /// With its length in front.
    pub fn message(self, kind: u32) -> Vec<u8> {
        let mut message = Self::default().u32(self.0.len() as u32 + 4).u32(kind).0;
        message.extend(self.0);
        message
    }
}

impl Patch {
    pub fn fields(&self) -> Fields {
        Fields::default()
            .u32(self.version)
            .list(&self.segments, |fields, (address, size, protection, bytes)| {
                fields.u64(*address).u64(*size).u32(*protection).bytes(bytes)
            })
            .list(&self.writes, |fields, (address, bytes)| fields.u64(*address).bytes(bytes))
            .list(&self.slots, |fields, (address, value)| fields.u64(*address).u64(*value))
            .list(&self.unwind, |fields, (header, start, end)| fields.u64(*header).u64(*start).u64(*end))
            .list(&self.thread_locals, |fields, (offset, bytes)| fields.u32(*offset).bytes(bytes))
            .bytes(&self.symbol_file)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    pub protocol: u32,
    pub pid: u32,
    pub version: u32,
    pub pending: u32,
    pub bias: u64,
    pub slots: (u64, u64),
    pub arena: (u64, u64),
    pub module_size: u64,
    pub symbol_bias: u64,
    pub tls: (u64, u64, u64),
    pub pool_offset: i64,
    pub pool_size: u32,
}

#[derive(Debug, PartialEq)]
pub struct Receipt {
    pub answers: u32,
    pub version: u32,
    pub applied: bool,
    pub nanoseconds: u64,
    pub reason: String,
}

pub struct Listener {
    folder: Folder,
    listener: UnixListener,
}

impl Listener {
    pub fn new() -> Self {
        let folder = Folder::new("run");
        let listener = UnixListener::bind(folder.path().join("agent")).unwrap();
        Self { folder, listener }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn start(&self, program: &Path) -> (Program, Connection) {
        let program = Program::start(program, Some(&self.socket()));
        let connection = self.accept();
        (program, connection)
    }

    /// The next connection, which begins with a hello.
    pub fn accept(&self) -> Connection {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Connection { stream, hello: None };
        let (kind, mut fields) = connection.receive().expect("a hello");
        assert_eq!(kind, 1);
        let hello = Hello {
            protocol: fields.u32(),
            pid: fields.u32(),
            version: fields.u32(),
            pending: fields.u32(),
            bias: fields.u64(),
            slots: (fields.u64(), fields.u64()),
            arena: (fields.u64(), fields.u64()),
            module_size: fields.u64(),
            symbol_bias: fields.u64(),
            tls: (fields.u64(), fields.u64(), fields.u64()),
            pool_offset: fields.u64() as i64,
            pool_size: fields.u32(),
        };
        assert!(fields.0.is_empty());
        connection.hello = Some(hello);
        connection
    }
}

/// Fields of a message that came, taken from the front.
struct Received(Vec<u8>);

impl Received {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.0.drain(..N).collect::<Vec<u8>>().try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

pub struct Connection {
    pub stream: UnixStream,
    hello: Option<Hello>,
}

impl Connection {
    pub fn hello(&self) -> &Hello {
        self.hello.as_ref().unwrap()
    }

    fn receive(&mut self) -> Option<(u32, Received)> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut message = vec![0; u32::from_le_bytes(length) as usize];
        self.stream.read_exact(&mut message).unwrap();
        let mut fields = Received(message);
        Some((fields.u32(), fields))
    }

    pub fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).unwrap();
    }

    pub fn receipt(&mut self) -> Receipt {
        let (kind, mut fields) = self.receive().expect("a receipt");
        assert_eq!(kind, 5);
        let (answers, version, applied, nanoseconds) = (fields.u32(), fields.u32(), fields.u32() == 1, fields.u64());
        let length = fields.u32() as usize;
        assert_eq!(length, fields.0.len());
        Receipt { answers, version, applied, nanoseconds, reason: String::from_utf8(fields.0).unwrap() }
    }

    pub fn patch(&mut self, patch: &Patch) -> Receipt {
        self.send(&patch.fields().message(2));
        self.receipt()
    }

    pub fn commit(&mut self, version: u32) -> Receipt {
        self.send(&Fields::default().u32(version).message(3));
        self.receipt()
    }

    pub fn undo(&mut self, version: u32) -> Receipt {
        self.send(&Fields::default().u32(version).message(4));
        self.receipt()
    }

    pub fn describe(&mut self, version: u32, image: &[u8]) -> Receipt {
        self.send(&Fields::default().u32(version).bytes(image).message(7));
        self.receipt()
    }

    pub fn hand_over(&mut self, version: u32, path: &[u8], sockets: &[u32]) -> Receipt {
        let fields = Fields::default().u32(version).bytes(path);
        self.send(&fields.list(sockets, |fields, &socket| fields.u32(socket)).message(6));
        self.receipt()
    }

    /// Whether the agent ends the connection, without another word.
    pub fn is_closed(&mut self) -> bool {
        // What the agent had not read yet makes it a reset instead of an end.
        match self.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
