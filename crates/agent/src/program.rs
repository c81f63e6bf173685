//! The program that the agent is linked into, as its program headers tell: what is code, what is data, where the slots are.

use crate::sys::{PAGE, Protection, Reason};
use crate::unwind;
use core::ffi::{c_int, c_void};

/// `Elf64_Phdr` (System V ABI, chapter 5).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub physical: u64,
    pub file_size: u64,
    pub memory_size: u64,
    pub alignment: u64,
}

pub const PT_LOAD: u32 = 1;
const PT_TLS: u32 = 7;
const PT_GNU_RELRO: u32 = 0x6474_e552;
pub const PF_X: u32 = 1;
const PF_W: u32 = 2;
pub const PF_R: u32 = 4;

/// `struct dl_phdr_info` of glibc.
#[repr(C)]
pub struct Info {
    pub bias: u64,
    pub name: *const core::ffi::c_char,
    pub headers: *const Header,
    pub count: u16,
    pub adds: u64,
    pub subs: u64,
    pub tls_module: usize,
    pub tls_data: *mut c_void,
}

/// Addresses from `start` up to `end`, which is not in it.
#[derive(Clone, Copy)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    /// None when it would end beyond the address space.
    pub fn new(start: u64, size: u64) -> Option<Self> {
        start.checked_add(size).map(|end| Self { start, end })
    }

    pub fn holds(&self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    pub fn meets(&self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The whole pages that it touches.
    pub fn pages(&self) -> Self {
        Self { start: self.start & !(PAGE - 1), end: self.end.wrapping_add(PAGE - 1) & !(PAGE - 1) }
    }

    pub fn size(&self) -> u64 {
        self.end.wrapping_sub(self.start)
    }
}

unsafe extern "C" {
    static __hotslot_slots_start: [u64; 0];
    static __hotslot_slots_end: [u64; 0];
}

// When tests are asked for by name, cargo links this crate by itself, too.
#[cfg(test)]
core::arch::global_asm!(
    ".globl __hotslot_slots_start, __hotslot_slots_end",
    "__hotslot_slots_start:",
    "__hotslot_slots_end:",
);

/// 8 KiB per thread for thread-locals that patches bring. `#[thread_local]` is not stable, and a symbol is all it takes.
/// Its zeros are in the file, as patches write over them in memory: what a thread begins with is copied from there.
pub const POOL_SIZE: u32 = 8192;
core::arch::global_asm!(
    ".section .tdata.__hotslot_tls_pool,\"awT\",@progbits",
    ".globl __hotslot_tls_pool",
    ".hidden __hotslot_tls_pool",
    ".type __hotslot_tls_pool,@object",
    ".size __hotslot_tls_pool, {size}",
    ".p2align 6",
    "__hotslot_tls_pool:",
    ".zero {size}",
    ".text",
    size = const POOL_SIZE,
);

/// What a patch needs to know about thread-locals (ELF Handling For Thread-Local Storage, variant II).
#[derive(Clone, Copy)]
pub struct ThreadLocals {
    /// The PT_TLS header; zeros without one.
    pub address: u64,
    pub size: u64,
    pub alignment: u64,
    /// Of `__hotslot_tls_pool` from the thread pointer, the same in every thread; negative.
    pub pool_offset: i64,
    pub pool_size: u32,
    /// Where what threads to come have in their pools is copied from; 0 when the linker left nothing to copy.
    pub pool_image: u64,
}

#[derive(Clone, Copy)]
pub struct Program {
    /// What was added to every address in the file when it was loaded.
    pub bias: u64,
    /// From the first byte to the last.
    pub extent: Range,
    pub slots: Range,
    headers: &'static [Header],
}

impl Program {
    pub fn find() -> Result<Self, Reason> {
        let mut found = Self {
            bias: 0,
            extent: Range { start: u64::MAX, end: 0 },
            slots: Range {
                start: (&raw const __hotslot_slots_start) as u64,
                end: (&raw const __hotslot_slots_end) as u64,
            },
            headers: &[],
        };
        unwind::iterate_loaded(first, (&raw mut found).cast());
        for header in found.of_kind(PT_LOAD) {
            let range = found.range(header);
            found.extent.start = found.extent.start.min(range.start);
            found.extent.end = found.extent.end.max(range.end);
        }
        let slots = found.slots;
        let sound = slots.start <= slots.end && slots.start % 8 == 0 && slots.end % 8 == 0;
        if !sound || slots.size() > 0 && found.data(slots) != Some(Protection::Write) {
            return Err(Reason::new("the slots are not in writable memory", slots.start));
        }
        Ok(found)
    }

    fn range(&self, header: &Header) -> Range {
        let start = self.bias.wrapping_add(header.address);
        Range { start, end: start.wrapping_add(header.memory_size) }
    }

    fn of_kind(&self, kind: u32) -> impl Iterator<Item = &'static Header> + use<> {
        self.headers.iter().filter(move |header| header.kind == kind)
    }

    pub fn is_code(&self, address: u64) -> bool {
        let byte = Range { start: address, end: address.saturating_add(1) };
        self.of_kind(PT_LOAD).any(|header| header.flags & PF_X != 0 && self.range(header).holds(byte))
    }

    /// How the whole range may be used, when it lies in one loaded segment that holds no code and either wholly in or
    /// wholly outside what the loader made read-only after relocation (PT_GNU_RELRO, up to its last whole page).
    pub fn data(&self, range: Range) -> Option<Protection> {
        let segment = self.of_kind(PT_LOAD).find(|header| self.range(header).holds(range))?;
        if segment.flags & PF_X != 0 {
            return None;
        }
        if segment.flags & PF_W == 0 {
            return Some(Protection::Read);
        }
        for header in self.of_kind(PT_GNU_RELRO) {
            let relro = self.range(header);
            let relro = Range { start: relro.start & !(PAGE - 1), end: relro.end & !(PAGE - 1) };
            if relro.holds(range) {
                return Some(Protection::Read);
            }
            if relro.meets(range) {
                return None;
            }
        }
        Some(Protection::Write)
    }

    pub fn thread_locals(&self) -> ThreadLocals {
        let pool_offset: i64;
        // SAFETY: at fs:0 the ABI keeps the thread pointer itself; the rest is arithmetic.
        unsafe {
            core::arch::asm!(
                "mov rax, qword ptr fs:[0]",
                "lea rcx, [rax + __hotslot_tls_pool@TPOFF]",
                "sub rcx, rax",
                out("rax") _, out("rcx") pool_offset,
                options(nostack, readonly),
            );
        }
        let mut found =
            ThreadLocals { address: 0, size: 0, alignment: 0, pool_offset, pool_size: POOL_SIZE, pool_image: 0 };
        if let Some(header) = self.of_kind(PT_TLS).next() {
            (found.address, found.size, found.alignment) = (header.address, header.memory_size, header.alignment);
            // The thread pointer belongs to the end of the block, aligned; see `TlsTemplate` in src/object/elfimage.ts.
            let mask = header.alignment.max(1) - 1;
            let end = header.address.wrapping_add(header.memory_size).wrapping_add(mask) & !mask;
            let pool = end.wrapping_add_signed(pool_offset);
            let image = Range::new(header.address, header.file_size);
            if image.zip(Range::new(pool, POOL_SIZE.into())).is_some_and(|(image, pool)| image.holds(pool)) {
                found.pool_image = self.bias.wrapping_add(pool);
            }
        }
        found
    }
}

/// The loader reports the program first.
extern "C" fn first(info: *mut Info, _: usize, found: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid description for the time of the call.
    let info = unsafe { &*info };
    // SAFETY: `Program::find` passes its own value, which outlives the call.
    let found = unsafe { &mut *found.cast::<Program>() };
    found.bias = info.bias;
    // SAFETY: the program's headers are mapped for as long as it runs.
    found.headers = unsafe { core::slice::from_raw_parts(info.headers, usize::from(info.count)) };
    1
}
