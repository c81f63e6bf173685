//! The agent's thread: keeps a connection to hotslot, and does what its messages say. When hotslot goes away the program
//! goes on, and the thread looks for it to come back at the same path. Another hotslot has a path of its own; it ends the
//! programs of one that was killed.

use crate::arena::Arena;
use crate::handover;
use crate::patch::{self, Fault, LOCK, Patcher};
use crate::program::Program;
use crate::sys::{self, Address, Pages, Reason};
use crate::tls;
use crate::unwind;
use crate::wire::{self, Handover, Hello};
use core::cell::Cell;
use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicI32, Ordering::*};

/// Milliseconds between attempts to connect.
const FIRST_WAIT: u64 = 250;
const LAST_WAIT: u64 = 4000;
/// The thread's own needs in bytes; the program's thread-locals come on top.
const STACK: u64 = 256 << 10;

/// The descriptor to close in a forked child; -1 for none. Changed under `LOCK`.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

struct Agent {
    address: Address,
    patcher: Patcher,
}

/// Gets everything ready that a patch needs, and starts the thread. `path` is where hotslot listens.
pub fn start(path: &CStr) -> Result<(), Reason> {
    let address = Address::new(path)?;
    let program = Program::find()?;
    sys::register_synchronize()?;
    let arena = Arena::reserve(&program, unwind::MODULE_SIZE)?;
    unwind::start(arena.range, address.folder())?;
    sys::at_fork(before_fork, after_fork, in_child)?;
    let agent = Pages::new(size_of::<Agent>())?.leak().cast::<Agent>();
    let patcher = Patcher { program, arena, version: 0, pool_used: 0, kept: None, described: 0 };
    // SAFETY: a page holds an agent, and nobody else knows it yet.
    unsafe { agent.write(Agent { address, patcher }) };
    patch::announce(0);
    tls::start();
    sys::spawn(run, agent.cast(), (STACK + program.thread_locals().size + sys::PAGE) as usize)
}

extern "C" fn run(agent: *mut c_void) -> *mut c_void {
    sys::name_thread(c"hotslot");
    // SAFETY: `start` made it for this thread alone, for as long as the program runs.
    let agent = unsafe { &mut *agent.cast::<Agent>() };
    let mut wait = FIRST_WAIT;
    loop {
        if agent.serve() {
            wait = FIRST_WAIT;
        }
        sys::sleep(wait);
        wait = LAST_WAIT.min(wait * 2);
    }
}

extern "C" fn before_fork() {
    LOCK.lock();
}

extern "C" fn after_fork() {
    LOCK.unlock();
}

/// The child has its parent's code and patches, but no agent; the connection stays the parent's alone.
extern "C" fn in_child() {
    close();
    handover::forget();
    LOCK.unlock();
}

/// Under `LOCK`.
fn close() {
    let socket = SOCKET.swap(-1, Relaxed);
    if socket >= 0 {
        sys::close_socket(socket);
    }
}

impl Agent {
    /// One connection from beginning to end; false when there was none.
    fn serve(&mut self) -> bool {
        let mut connected = false;
        let socket = LOCK.hold(|| sys::open_socket().inspect(|&socket| SOCKET.store(socket, Relaxed)));
        if let Some(socket) = socket {
            connected = sys::connect_socket(socket, &self.address);
            if connected && sys::send_all(socket, self.hello().message().finish()) {
                while self.answer(socket).is_some() {}
            }
            LOCK.hold(close);
        }
        connected
    }

    fn hello(&self) -> Hello {
        let Patcher { program, arena, version, kept, .. } = &self.patcher;
        Hello {
            pid: sys::pid(),
            version: *version,
            pending: kept.is_some(),
            bias: program.bias,
            slots: program.slots,
            arena: arena.range,
            module_size: unwind::MODULE_SIZE,
            symbol_bias: unwind::SYMBOL_BIAS,
            thread_locals: program.thread_locals(),
        }
    }

    /// Takes one message and answers it; none when the connection is at its end, or must be.
    fn answer(&mut self, socket: i32) -> Option<()> {
        while !sys::wait_for(socket, handover::milliseconds_left()) {}
        let header = [const { Cell::new(0) }; 8];
        if !sys::receive_all(socket, &header) {
            return None;
        }
        let mut reader = wire::Reader(&header);
        let length = reader.u32().ok()? as usize;
        let kind = reader.u32().ok()?;
        // Every message has at least one field after its kind.
        if !(8..=wire::MAX_MESSAGE).contains(&length) {
            return None;
        }
        let fields = Pages::new(length - 4).ok()?;
        if !sys::receive_all(socket, fields.cells()) {
            return None;
        }
        if kind == wire::HANDOVER {
            return self.hand_over(socket, &fields);
        }
        let (version, outcome) = self.patcher.handle(kind, fields);
        let outcome = match outcome {
            Ok(nanoseconds) => Ok(nanoseconds),
            Err(Fault::Refused(reason)) => Err(reason),
            Err(Fault::Malformed) => return None,
        };
        sys::send_all(socket, wire::receipt(kind, version, outcome).finish()).then_some(())
    }

    /// hotslot starts the new program when it has the receipt; the sockets go to that one directly.
    fn hand_over(&self, socket: i32, fields: &Pages) -> Option<()> {
        let start = sys::now();
        let handover = Handover::read(fields.cells()).ok()?;
        let (offer, outcome) = match handover::offer(&handover) {
            Ok(offer) => (Some(offer), Ok(sys::now().wrapping_sub(start))),
            Err(reason) => (None, Err(reason)),
        };
        let receipt = &mut wire::receipt(wire::HANDOVER, handover.version, outcome);
        let sent = sys::send_all(socket, receipt.finish()).then_some(());
        if let Some(offer) = offer {
            offer.give(&handover);
        }
        sent
    }
}
