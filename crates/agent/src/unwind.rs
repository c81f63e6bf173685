//! Where patches keep their unwind tables, for panics and backtraces that pass through patched frames.
//!
//! libgcc finds a frame's table with `_dl_find_object`, and std finds the names for a backtrace in the modules that
//! `dl_iterate_phdr` reports. Both know only what the loader loaded, so the agent defines both, answers for the arena and
//! forwards the rest. std remembers the list of modules from its first backtrace on, but opens a module's file only when a
//! frame lies in it: so the arena is reported from the start as modules of `MODULE_SIZE` bytes each, whose files appear
//! (as links to symbol files) before the code in them can run.

use crate::arena;
use crate::program::{Header, Info, PF_R, PF_X, PT_LOAD, Range};
use crate::sys::{self, Pages, Reason};
use crate::wire::{Bytes, Unwind};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};

/// A multiple of the page size. A patch seldom needs more.
pub const MODULE_SIZE: u64 = 64 << 10;
/// Address in memory less address in a symbol file. std takes a module whose difference is 0 for the program itself.
pub const SYMBOL_BIAS: u64 = sys::PAGE;
const MODULES: usize = (arena::SIZE / MODULE_SIZE) as usize;
/// sockaddr_un allows 108 bytes for a path; after its folder come a process and a module number.
const NAME_SIZE: usize = 136;
/// A patch usually brings one.
const MAX_TABLES: usize = 8192;

type Callback = extern "C" fn(*mut Info, usize, *mut c_void) -> c_int;
type Iterate = extern "C" fn(Callback, *mut c_void) -> c_int;
type FindObject = extern "C" fn(*mut c_void, *mut Object) -> c_int;

/// `struct dl_find_object` of glibc on x86-64.
#[repr(C)]
pub struct Object {
    flags: u64,
    map_start: u64,
    map_end: u64,
    link_map: *mut c_void,
    eh_frame_hdr: u64,
    reserved: [u64; 7],
}

struct Module {
    header: Header,
    name: [u8; NAME_SIZE],
}

struct Table {
    eh_frame_hdr: AtomicU64,
    text_start: AtomicU64,
    text_end: AtomicU64,
}

// Unwinding may happen in a signal handler or while another thread holds any lock: readers here only load. Tables are
// added by the agent's thread alone and never taken back, not even by undo, as frames in the patch may still unwind.
static TABLES: [Table; MAX_TABLES] =
    [const { Table { eh_frame_hdr: AtomicU64::new(0), text_start: AtomicU64::new(0), text_end: AtomicU64::new(0) } };
        MAX_TABLES];
static TABLE_COUNT: AtomicUsize = AtomicUsize::new(0);
static ARENA_START: AtomicU64 = AtomicU64::new(0);
static MODULE_LIST: AtomicPtr<Module> = AtomicPtr::new(null_mut());

static NEXT_ITERATE: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
static NEXT_FIND_OBJECT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// The loader's own definition, looked up at most once per thread that comes first.
pub fn next(known: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let mut address = known.load(Relaxed);
    if address.is_null() {
        address = sys::next(name);
        known.store(address, Relaxed);
    }
    address
}

fn next_iterate() -> Option<Iterate> {
    // SAFETY: glibc's `dl_iterate_phdr` has this type; null is None.
    unsafe { core::mem::transmute::<*mut c_void, Option<Iterate>>(next(&NEXT_ITERATE, c"dl_iterate_phdr")) }
}

fn next_find_object() -> Option<FindObject> {
    // SAFETY: glibc's `_dl_find_object` has this type; null (before glibc 2.35) is None.
    unsafe { core::mem::transmute::<*mut c_void, Option<FindObject>>(next(&NEXT_FIND_OBJECT, c"_dl_find_object")) }
}

/// `dl_iterate_phdr` without the arena.
pub fn iterate_loaded(callback: Callback, data: *mut c_void) -> c_int {
    next_iterate().map_or(0, |iterate| iterate(callback, data))
}

/// Reports the arena as modules from now on. `folder` is where their files will be, with a slash at its end.
pub fn start(arena: Range, folder: &[u8]) -> Result<(), Reason> {
    next_find_object().ok_or(Reason::new("panics need _dl_find_object of glibc 2, at least minor version", 35))?;
    let modules = Pages::new(MODULES * size_of::<Module>())?.leak().cast::<Module>();
    for index in 0..MODULES {
        let address = arena.start.wrapping_sub(SYMBOL_BIAS).wrapping_add(index as u64 * MODULE_SIZE);
        let module = Module {
            header: Header {
                kind: PT_LOAD,
                flags: PF_R | PF_X,
                offset: 0,
                address,
                physical: address,
                file_size: MODULE_SIZE,
                memory_size: MODULE_SIZE,
                alignment: sys::PAGE,
            },
            name: name(folder, index),
        };
        // SAFETY: the memory was made for so many modules.
        let place = unsafe { modules.add(index) };
        // SAFETY: nobody else knows the memory yet.
        unsafe { place.write(module) };
    }
    ARENA_START.store(arena.start, Relaxed);
    MODULE_LIST.store(modules, Release);
    Ok(())
}

/// `FOLDER/PID-MODULE`, both in decimal, and zeros.
fn name(folder: &[u8], index: usize) -> [u8; NAME_SIZE] {
    let mut name = [0; NAME_SIZE];
    let mut places = name.iter_mut().take(NAME_SIZE - 1);
    let mut put = |byte| places.next().map_or((), |place| *place = byte);
    folder.iter().for_each(|&byte| put(byte));
    sys::decimal(u64::from(sys::pid()), &mut put);
    put(b'-');
    sys::decimal(index as u64, &mut put);
    name
}

fn modules() -> &'static [Module] {
    let modules = MODULE_LIST.load(Acquire);
    if modules.is_null() {
        return &[];
    }
    // SAFETY: `start` filled all of them before it stored the address, and nothing changes or frees them.
    unsafe { core::slice::from_raw_parts(modules, MODULES) }
}

fn path(name: &[u8]) -> *const c_char {
    name.as_ptr().cast()
}

/// Makes the modules that `text` lies in lead to `symbol_file`, a path that ends with a NUL.
pub fn name_frames(text: Range, symbol_file: Bytes<'_>) -> Result<(), Reason> {
    let end = symbol_file.len().wrapping_sub(1);
    if symbol_file.iter().position(|byte| byte.get() == 0) != Some(end) {
        return Err(Reason::new("the path of the symbol file does not end with its only NUL, length", end as u64));
    }
    for module in modules() {
        let start = module.header.address.wrapping_add(SYMBOL_BIAS);
        if text.meets(Range { start, end: start.wrapping_add(MODULE_SIZE) }) {
            // SAFETY: just checked to end with a NUL; the agent's thread alone has the message.
            let target = unsafe { CStr::from_ptr(symbol_file.as_ptr().cast()) };
            // SAFETY: `name` leaves the last byte zero.
            let path = unsafe { CStr::from_ptr(path(&module.name)) };
            sys::link(target, path)?;
        }
    }
    Ok(())
}

/// How many more tables there is room for.
pub fn free_tables() -> usize {
    MAX_TABLES.saturating_sub(TABLE_COUNT.load(Relaxed))
}

/// Lets frames in the text unwind. Called by the agent's thread alone, with room for one.
pub fn add(unwind: &Unwind) {
    let count = TABLE_COUNT.load(Relaxed);
    if let Some(table) = TABLES.get(count) {
        table.eh_frame_hdr.store(unwind.eh_frame_hdr, Relaxed);
        table.text_start.store(unwind.text_start, Relaxed);
        table.text_end.store(unwind.text_end, Relaxed);
        TABLE_COUNT.store(count + 1, Release);
    }
}

fn find(pc: u64) -> Option<Unwind> {
    if pc.wrapping_sub(ARENA_START.load(Relaxed)) >= arena::SIZE {
        return None;
    }
    let tables = TABLES.iter().take(TABLE_COUNT.load(Acquire)).map(|table| Unwind {
        eh_frame_hdr: table.eh_frame_hdr.load(Relaxed),
        text_start: table.text_start.load(Relaxed),
        text_end: table.text_end.load(Relaxed),
    });
    tables.into_iter().find(|table| table.text_start <= pc && pc < table.text_end)
}

/// Replaces glibc's for the program and its libraries.
///
/// # Safety
/// `result` can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn _dl_find_object(pc: *mut c_void, result: *mut Object) -> c_int {
    let Some(real) = next_find_object() else { return -1 };
    let Some(table) = find(pc as u64) else { return real(pc, result) };
    // The program answers for the patch: flags and link map are its own.
    if real((&raw const TABLE_COUNT).cast_mut().cast(), result) != 0 {
        return -1;
    }
    // SAFETY: as the caller promises, and the loader has just written to it.
    let result = unsafe { &mut *result };
    result.map_start = table.text_start;
    result.map_end = table.text_end;
    result.eh_frame_hdr = table.eh_frame_hdr;
    0
}

/// A callback of the program's, and what the loader told it.
struct Forward {
    callback: Callback,
    data: *mut c_void,
    adds: u64,
    subs: u64,
}

extern "C" fn forward(info: *mut Info, size: usize, data: *mut c_void) -> c_int {
    // SAFETY: `dl_iterate_phdr` passes its own value, which outlives the call.
    let forward = unsafe { &mut *data.cast::<Forward>() };
    {
        // SAFETY: the loader passes a valid description for the time of the call.
        let info = unsafe { &*info };
        (forward.adds, forward.subs) = (info.adds, info.subs);
    }
    (forward.callback)(info, size, forward.data)
}

/// Replaces glibc's for the program and its libraries: what is loaded, then the arena's modules.
///
/// # Safety
/// `callback` takes `data`.
#[unsafe(no_mangle)]
unsafe extern "C" fn dl_iterate_phdr(callback: Callback, data: *mut c_void) -> c_int {
    let mut given = Forward { callback, data, adds: 0, subs: 0 };
    let answer = iterate_loaded(forward, (&raw mut given).cast());
    if answer != 0 {
        return answer;
    }
    for module in modules() {
        let mut info = Info {
            bias: SYMBOL_BIAS,
            name: path(&module.name),
            headers: &raw const module.header,
            count: 1,
            adds: given.adds,
            subs: given.subs,
            tls_module: 0,
            tls_data: null_mut(),
        };
        let answer = callback(&raw mut info, size_of::<Info>(), data);
        if answer != 0 {
            return answer;
        }
    }
    0
}
