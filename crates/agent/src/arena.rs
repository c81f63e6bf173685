//! Memory for patches: 256 MiB near the program, reserved without access at the start, taken page by page. What is in use
//! stays for as long as the program runs, since a thread may be in it.

use crate::program::{Program, Range};
use crate::sys::{self, PAGE, Pages, Protection, Reason};
use crate::wire::Bytes;

pub const SIZE: u64 = 256 << 20;
/// Addresses of code and data in a program are 32-bit distances, so arena and program must lie within this many bytes.
const REACH: u64 = (1 << 31) - PAGE;
const MIB: u64 = 1 << 20;

pub struct Arena {
    pub range: Range,
    /// Per page a `Protection`, or 0 while it is free.
    pages: Pages,
}

impl Arena {
    /// Below the program first: above it the heap of `brk` grows. Programs that are not position-independent have no room
    /// below, so for them the far end of what can be reached is tried, then nearer.
    pub fn reserve(program: &Program, alignment: u64) -> Result<Self, Reason> {
        let extent = program.extent;
        for distance in [0, 64, 256, 512, 1024, 1536, 1700].map(|mib| mib * MIB) {
            let below = extent.start.checked_sub(SIZE + distance);
            let above = extent.end.checked_add(REACH - SIZE - extent.size().min(REACH - SIZE));
            let above = above.and_then(|farthest| farthest.checked_sub(distance)).filter(|&start| start >= extent.end);
            for start in [below, above].into_iter().flatten() {
                let range = Range { start: start & !(alignment - 1), end: (start & !(alignment - 1)) + SIZE };
                let reaches = range.end.max(extent.end) - range.start.min(extent.start) <= REACH;
                if reaches && range.start >= MIB && !range.meets(extent) && sys::reserve(range.start, SIZE) {
                    let pages = Pages::new((SIZE / PAGE) as usize)?;
                    return Ok(Self { range, pages });
                }
            }
        }
        Err(Reason::new("no room for patches within 2 GiB of the program at", extent.start))
    }

    /// The states of the pages that `range` touches; empty when it is not wholly in the arena.
    fn states(&self, range: Range) -> Bytes<'_> {
        let pages = range.pages();
        if range.start >= range.end || !self.range.holds(range) {
            return &[];
        }
        let index = |address: u64| (address.wrapping_sub(self.range.start) / PAGE) as usize;
        self.pages.cells().get(index(pages.start)..index(pages.end)).unwrap_or_default()
    }

    /// Whether no patch has used any of these pages.
    pub fn is_free(&self, range: Range) -> bool {
        let states = self.states(range);
        !states.is_empty() && states.iter().all(|state| state.get() == 0)
    }

    /// Whether all of the range is in use with one of these protections.
    pub fn has(&self, range: Range, protections: &[Protection]) -> bool {
        let states = self.states(range);
        !states.is_empty() && states.iter().all(|state| protections.iter().any(|&one| one as u8 == state.get()))
    }

    /// Copies `bytes` to the start of a free range, which is writable meanwhile and has its `protection` afterwards.
    pub fn place(&self, range: Range, protection: Protection, bytes: Bytes<'_>) -> Result<(), Reason> {
        let pages = range.pages();
        if !self.is_free(range) || bytes.len() as u64 > range.size() {
            return Err(Reason::new("this part of the arena is taken", range.start));
        }
        self.states(range).iter().for_each(|state| state.set(Protection::Write as u8));
        // SAFETY: pages of the arena that no patch has used.
        unsafe { sys::protect(pages.start, pages.size(), Protection::Write) }?;
        // SAFETY: the pages are writable, hold at least as many bytes, and nobody else has their address yet.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr().cast::<u8>(), range.start as *mut u8, bytes.len()) };
        // SAFETY: as before; nothing in them runs yet.
        unsafe { sys::protect(pages.start, pages.size(), protection) }?;
        self.states(range).iter().for_each(|state| state.set(protection as u8));
        Ok(())
    }

    /// Frees what was placed, or begun, for a patch that cannot be applied after all.
    pub fn discard(&self, range: Range) {
        let pages = range.pages();
        if self.states(range).iter().all(|state| state.get() == 0) {
            return;
        }
        // SAFETY: no slot leads to a patch that was not applied.
        unsafe { sys::release(pages.start, pages.size()) };
        self.states(range).iter().for_each(|state| state.set(0));
    }
}
