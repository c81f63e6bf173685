//! A patch message → checked as a whole, applied as a whole, and undone from what it left in its message.

use crate::arena::Arena;
use crate::debugger;
use crate::program::{Program, Range, ThreadLocals};
use crate::sys::{self, Pages, Protection, Reason};
use crate::tls;
use crate::unwind;
use crate::wire::{self, Bytes, Description, Malformed, Patch, Reader};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::*};

/// Held while anything of the program changes, so that `fork` copies a program that has a patch or has it not.
pub static LOCK: sys::Lock = sys::Lock::new();

/// What the crate `hotslot` reads. Low half, which is also a futex: how often the code changed, from 1 on; 0 as long as no
/// agent runs, so nobody waits for what cannot come. High half: the version. Undo and another patch lead to the same version
/// twice, but never to the same count.
#[unsafe(export_name = "__hotslot_version")]
static VERSION: AtomicU64 = AtomicU64::new(0);

/// Tells the program which version it runs from now on. Only the agent calls this, after the slots have changed.
pub fn announce(version: u32) {
    let count = (VERSION.load(Relaxed) as u32).wrapping_add(1).max(1);
    VERSION.store(u64::from(version) << 32 | u64::from(count), Release);
    sys::wake(&VERSION);
}

pub enum Fault {
    Malformed,
    Refused(Reason),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

/// The program and what was done to it.
pub struct Patcher {
    pub program: Program,
    pub arena: Arena,
    /// The last patch applied; 0 for none.
    pub version: u32,
    /// Bytes at the start of the pool that patches took, also those that were undone.
    pub pool_used: u32,
    /// The fields of that patch, with what was in memory before, until it is committed or undone.
    pub kept: Option<Pages>,
    /// The last one that debuggers know.
    pub described: u32,
}

impl Patcher {
    /// Does what a message asks. Gives its version and how many nanoseconds it took.
    pub fn handle(&mut self, kind: u32, fields: Pages) -> (u32, Result<u64, Fault>) {
        let Ok(version) = Reader(fields.cells()).u32() else { return (0, Err(Fault::Malformed)) };
        let start = sys::now();
        let outcome = LOCK.hold(|| match kind {
            wire::PATCH => self.apply(fields),
            wire::COMMIT => self.finish(fields, Self::commit),
            wire::UNDO => self.finish(fields, Self::undo),
            wire::DESCRIBE => self.describe(fields),
            _ => Err(Fault::Malformed),
        });
        (version, outcome.map(|()| sys::now().wrapping_sub(start)))
    }

    fn apply(&mut self, fields: Pages) -> Result<(), Fault> {
        let patch = Patch::read(fields.cells())?;
        if self.kept.is_some() {
            return Err(Reason::new("commit or undo is due for version", self.version.into()).into());
        }
        if Some(patch.version) != self.version.checked_add(1) {
            return Err(Reason::new("the version does not follow the program's", self.version.into()).into());
        }
        self.check(&patch)?;
        if let Err(reason) = self.prepare(&patch) {
            self.close(&patch);
            patch
                .segments
                .clone()
                .filter_map(|it| Range::new(it.address, it.size))
                .for_each(|it| self.arena.discard(it));
            return Err(reason.into());
        }
        // Nothing can fail from here on. Slots come last: they are what lets the new code run.
        patch.unwind.clone().for_each(|unwind| unwind::add(&unwind));
        exchange_writes(&patch);
        self.close(&patch);
        exchange_slots(&patch);
        self.pool_used = pool_range(&patch).map_or(self.pool_used, |(_, end)| end);
        self.version = patch.version;
        self.kept = Some(fields);
        announce(self.version);
        Ok(())
    }

    /// Commit or undo: only the last patch, and only once.
    fn finish(&mut self, fields: Pages, act: fn(&mut Self, Pages) -> Result<(), Reason>) -> Result<(), Fault> {
        let mut reader = Reader(fields.cells());
        let version = reader.u32()?;
        reader.end()?;
        if version != self.version {
            return Err(Reason::new("the program's version is", self.version.into()).into());
        }
        match self.kept.take() {
            Some(kept) => Ok(act(self, kept)?),
            None => Err(Reason::new("already committed: version", version.into()).into()),
        }
    }

    fn commit(&mut self, _: Pages) -> Result<(), Reason> {
        Ok(())
    }

    fn undo(&mut self, kept: Pages) -> Result<(), Reason> {
        let unreadable = Reason::new("what undo needs was lost: version", self.version.into());
        let patch = Patch::read(kept.cells()).map_err(|Malformed| unreadable)?;
        if let Err(reason) = self.open(&patch) {
            self.close(&patch);
            self.kept = Some(kept);
            return Err(reason);
        }
        exchange_slots(&patch);
        exchange_writes(&patch);
        exchange_image(&patch, &self.program.thread_locals());
        self.close(&patch);
        self.version = self.version.wrapping_sub(1);
        announce(self.version);
        Ok(())
    }

    fn describe(&mut self, fields: Pages) -> Result<(), Fault> {
        let Description { version, image } = Description::read(fields.cells())?;
        let committed = self.version.wrapping_sub(u32::from(self.kept.is_some()));
        if version > committed {
            return Err(Reason::new("not committed: version", version.into()).into());
        }
        if version <= self.described {
            return Ok(());
        }
        debugger::register(image)?;
        self.described = version;
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------------- check

    /// Everything that could go wrong, looked at before anything is touched.
    fn check(&self, patch: &Patch<'_>) -> Result<(), Reason> {
        let mut order = Order(0);
        for segment in patch.segments.clone() {
            let range = order.range(segment.address, segment.size)?;
            let at = |text| Err(Reason::new(text, segment.address));
            if segment.protection.is_none() {
                return at("a segment's protection is not R, RW or RX");
            }
            if segment.address % sys::PAGE != 0 {
                return at("a segment does not start a page");
            }
            if segment.bytes.len() as u64 > segment.size {
                return at("a segment has more bytes than memory");
            }
            if !self.arena.is_free(range) {
                return at("a segment is not in free memory of the arena");
            }
            // The next one starts on another page.
            order.0 = range.pages().end;
        }
        let mut order = Order(0);
        for write in patch.writes.clone() {
            let range = order.range(write.address, write.bytes.len() as u64)?;
            if range.meets(self.program.slots) || self.written(range).is_none() {
                return Err(Reason::new("a write is not over data", write.address));
            }
        }
        let mut order = Order(0);
        for slot in patch.slots.clone() {
            let range = order.range(slot.address, 8)?;
            let is_slot = self.program.slots.holds(range) || self.arena.has(range, &[Protection::Write]);
            if slot.address % 8 != 0 || !is_slot {
                return Err(Reason::new("not a slot", slot.address));
            }
            let value = wire::get_u64(slot.value);
            if !self.is_code(patch, value) {
                return Err(Reason::new("a slot's value is not an address of code", value));
            }
        }
        let thread_locals = self.program.thread_locals();
        let mut used = self.pool_used;
        for initial in patch.thread_locals.clone() {
            let size = u32::try_from(initial.bytes.len()).unwrap_or(u32::MAX);
            let end = initial.offset.checked_add(size).filter(|&end| end <= thread_locals.pool_size);
            match end {
                Some(end) if size > 0 && initial.offset >= used => used = end,
                _ => {
                    return Err(Reason::new("a thread-local is not in free memory of the pool", initial.offset.into()));
                }
            }
        }
        if let Some(image) = image_range(patch, &thread_locals) {
            if thread_locals.pool_image == 0 || self.program.data(image).is_none() {
                return Err(Reason::new("the linker left nothing to initialise thread-locals from", image.start));
            }
        }
        if patch.unwind.clone().count() > unwind::free_tables() {
            return Err(Reason::new(
                "no room for more unwind tables; restart the program. Version",
                self.version.into(),
            ));
        }
        for unwind in patch.unwind.clone() {
            let text = Range { start: unwind.text_start, end: unwind.text_end };
            let table = Range::new(unwind.eh_frame_hdr, 8);
            let sound = text.start < text.end
                && within(patch, text, Protection::Execute)
                && table.is_some_and(|table| within(patch, table, Protection::Read));
            if !sound {
                return Err(Reason::new("an unwind table or its text is not in the patch", unwind.eh_frame_hdr));
            }
        }
        Ok(())
    }

    /// How memory that a write names is protected; none when it may not be written to.
    fn written(&self, range: Range) -> Option<Protection> {
        let both = [Protection::Read, Protection::Write];
        let of_patch = || both.into_iter().find(|&protection| self.arena.has(range, &[protection]));
        self.program.data(range).or_else(of_patch)
    }

    fn is_code(&self, patch: &Patch<'_>, address: u64) -> bool {
        let byte = Range { start: address, end: address.saturating_add(1) };
        self.program.is_code(address)
            || within(patch, byte, Protection::Execute)
            || self.arena.has(byte, &[Protection::Execute])
    }

    // ------------------------------------------------------------------------------------------------------- apply

    /// Everything that can fail: memory for the segments, access for the writes. `close` and `discard` take it back.
    fn prepare(&self, patch: &Patch<'_>) -> Result<(), Reason> {
        for segment in patch.segments.clone() {
            let range = Range { start: segment.address, end: segment.address.wrapping_add(segment.size) };
            if let Some(protection) = segment.protection {
                self.arena.place(range, protection, segment.bytes)?;
            }
            if segment.protection == Some(Protection::Execute) && !patch.symbol_file.is_empty() {
                unwind::name_frames(range, patch.symbol_file)?;
            }
        }
        sys::synchronize()?;
        self.open(patch)?;
        self.initialise(patch)
    }

    /// Threads to come first, so that none is missed.
    fn initialise(&self, patch: &Patch<'_>) -> Result<(), Reason> {
        let Some((start, end)) = pool_range(patch) else { return Ok(()) };
        let thread_locals = self.program.thread_locals();
        exchange_image(patch, &thread_locals);
        let spread = tls::spread(thread_locals.pool_image, thread_locals.pool_offset, start, end);
        if spread.is_err() {
            exchange_image(patch, &thread_locals);
        }
        spread
    }

    /// Makes read-only data that the patch writes to writable for a moment; other threads may go on reading it.
    fn open(&self, patch: &Patch<'_>) -> Result<(), Reason> {
        self.protect_constants(patch, Protection::Write)
    }

    /// Makes it read-only again. Should the kernel fail, it stays writable, which breaks nothing.
    fn close(&self, patch: &Patch<'_>) {
        let _ = self.protect_constants(patch, Protection::Read);
    }

    fn protect_constants(&self, patch: &Patch<'_>, protection: Protection) -> Result<(), Reason> {
        let writes = patch.writes.clone().filter_map(|write| Range::new(write.address, write.bytes.len() as u64));
        for range in writes.chain(image_range(patch, &self.program.thread_locals())) {
            if self.written(range) == Some(Protection::Read) {
                let pages = range.pages();
                // SAFETY: whole pages of read-only data, as `written` just found; they stay readable throughout.
                unsafe { sys::protect(pages.start, pages.size(), protection) }?;
            }
        }
        Ok(())
    }
}

/// Start and end in the pool of the patch's thread-locals; what lies between them is nobody's.
fn pool_range(patch: &Patch<'_>) -> Option<(u32, u32)> {
    let start = patch.thread_locals.clone().next()?.offset;
    let last = patch.thread_locals.clone().last()?;
    Some((start, last.offset.wrapping_add(last.bytes.len() as u32)))
}

/// The same in the initialisation image.
fn image_range(patch: &Patch<'_>, thread_locals: &ThreadLocals) -> Option<Range> {
    let (start, end) = pool_range(patch)?;
    let at = |offset: u32| thread_locals.pool_image.wrapping_add(offset.into());
    Some(Range { start: at(start), end: at(end) })
}

/// Whether the range lies in one segment of the patch with this protection.
fn within(patch: &Patch<'_>, range: Range, protection: Protection) -> bool {
    patch
        .segments
        .clone()
        .filter(|segment| segment.protection == Some(protection))
        .any(|segment| Range::new(segment.address, segment.size).is_some_and(|memory| memory.holds(range)))
}

/// Makes sure that ranges come one after the other: what one message changes twice could not be undone.
struct Order(u64);

impl Order {
    fn range(&mut self, address: u64, size: u64) -> Result<Range, Reason> {
        match Range::new(address, size) {
            Some(range) if size > 0 && address >= self.0 => {
                self.0 = range.end;
                Ok(range)
            }
            _ => Err(Reason::new("empty, out of order or overlapping", address)),
        }
    }
}

/// Of a checked patch whose writes are open: swaps what it brings with what is there. Twice is nothing.
fn exchange_writes(patch: &Patch<'_>) {
    for write in patch.writes.clone() {
        exchange(write.address, write.bytes);
    }
}

/// Of a checked patch whose image is open.
fn exchange_image(patch: &Patch<'_>, thread_locals: &ThreadLocals) {
    for initial in patch.thread_locals.clone() {
        exchange(thread_locals.pool_image.wrapping_add(initial.offset.into()), initial.bytes);
    }
}

/// Whole aligned words at once, so that a thread that reads a pointer or a number finds the old or the new one.
fn exchange(mut address: u64, mut bytes: Bytes<'_>) {
    while let Some((first, rest)) = bytes.split_first() {
        match bytes.split_first_chunk() {
            Some((word, rest)) if address % 8 == 0 => {
                // SAFETY: checked to be the program's data, aligned, and writable now; the program may read it meanwhile.
                let place = unsafe { AtomicU64::from_ptr(address as *mut u64) };
                wire::set_u64(word, place.swap(wire::get_u64(word), Relaxed));
                (address, bytes) = (address.wrapping_add(8), rest);
            }
            _ => {
                // SAFETY: checked to be the program's data and writable now.
                let place = unsafe { AtomicU8::from_ptr(address as *mut u8) };
                first.set(place.swap(first.get(), Relaxed));
                (address, bytes) = (address.wrapping_add(1), rest);
            }
        }
    }
}

/// Of a checked patch: each slot changes in one piece, after all that its new value leads to is in place (Release).
fn exchange_slots(patch: &Patch<'_>) {
    for slot in patch.slots.clone() {
        // SAFETY: checked to be a slot: aligned, writable, and there for as long as the program runs.
        let place = unsafe { AtomicU64::from_ptr(slot.address as *mut u64) };
        wire::set_u64(slot.value, place.swap(wire::get_u64(slot.value), AcqRel));
    }
}
