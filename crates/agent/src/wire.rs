//! Bytes of a message ↔ its fields.
//!
//! The table below stands in both ends, here and in hotslot's TypeScript, word for word.
//!
//! ```text
//! hotslot's agent protocol 3. Numbers are little-endian and not aligned. A message is
//!   u32 length of all that follows, u32 kind, fields
//! text and bytes are a u32 length and then so many bytes; [fields] is a u32 count and then so many times the fields.
//!
//!  kind        from     fields
//!  1 hello     agent    u32 protocol, u32 pid, u32 version, u32 pending,
//!                       u64 bias, u64 slotsStart, u64 slotsEnd, u64 arenaStart, u64 arenaEnd, u64 moduleSize, u64 symbolBias,
//!                       u64 tlsAddress, u64 tlsSize, u64 tlsAlignment, i64 poolOffset, u32 poolSize
//!  2 patch     hotslot  u32 version,
//!                       segments [u64 address, u64 size, u32 protection, bytes],
//!                       writes   [u64 address, bytes],
//!                       slots    [u64 address, u64 value],
//!                       unwind   [u64 ehFrameHdr, u64 textStart, u64 textEnd],
//!                       tls      [u32 poolOffset, bytes],
//!                       text symbolFile
//!  3 commit    hotslot  u32 version
//!  4 undo      hotslot  u32 version
//!  5 receipt   agent    u32 answers, u32 version, u32 applied, u64 nanoseconds, text reason
//!  6 handover  hotslot  u32 version, text path, sockets [u32 descriptor]
//!  7 describe  hotslot  u32 version, bytes image
//!
//! hello      is the first message of every connection. version: the last patch that was applied, 0 for none. pending: 1
//!            when that patch waits for commit or undo. bias: added to addresses in the program's file. moduleSize:
//!            backtraces find names in one file per so many bytes of the arena. symbolBias: added to addresses in that
//!            file. tls…: the PT_TLS header. poolOffset: of the pool for new thread-locals (zeros at first) from the
//!            thread pointer.
//! patch      version: the last one + 1. segments: new memory, whole free pages of the arena from address on; size in
//!            memory, zeros after the bytes; protection 1 R, 2 RW, 3 RX. writes: over data of the program that is no slot,
//!            or over R and RW memory of earlier patches. slots: over the program's slots or RW memory of earlier
//!            patches; a value is an address of code. unwind: .eh_frame_hdr in an R segment for text in an RX segment.
//!            The first three are sorted by address and do not overlap. tls: what new thread-locals are at first, in
//!            threads there are and in threads to come; sorted by their place in the pool, beyond those of all earlier
//!            patches, undone ones included. symbolFile: the path of an ELF file with the symbols and lines of the
//!            segments, a NUL at its end; empty for none.
//! commit     the patch stays. undo: slots, writes and what threads to come begin with go back to what they were; the
//!            segments stay mapped, as threads may still run in them. Either one is due before the next patch.
//! handover   to the program's last agent, before a new one starts: listen at path (a NUL at its end) and give whoever
//!            connects first, within ten seconds, those of the sockets that listen for TCP connections; then keep that
//!            connection open for as long as the program lives. version: the program's.
//! describe   a patch to debuggers, once it is committed, and in order. image: an ELF file with its symbols, lines and unwind
//!            tables, at their addresses in the process. Twice is once.
//! receipt    answers one patch, commit, undo, handover or describe (its kind and version). applied 1: done, in so many
//!            nanoseconds; 0: nothing was changed, for this reason.
//! A message that is longer than 64 MiB, has another kind or does not end where its fields end closes the connection.
//! ```

use crate::program::{Range, ThreadLocals};
use crate::sys::{Protection, Reason};
use core::cell::Cell;

const PROTOCOL: u32 = 3;
pub const MAX_MESSAGE: usize = 64 << 20;

const HELLO: u32 = 1;
pub const PATCH: u32 = 2;
pub const COMMIT: u32 = 3;
pub const UNDO: u32 = 4;
const RECEIPT: u32 = 5;
pub const HANDOVER: u32 = 6;
pub const DESCRIBE: u32 = 7;

/// The bytes are not a message. The only answer is to close the connection.
pub struct Malformed;

/// Bytes of a message. They are cells because applying a patch exchanges the values in its message with those in memory:
/// what is left in the message afterwards is what undo needs.
pub type Bytes<'a> = &'a [Cell<u8>];

/// Takes fields off the front of a message.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub Bytes<'a>);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [Cell<u8>; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array::<4>().map(|array| u32::from_le_bytes(core::array::from_fn(|i| array[i].get())))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array::<8>().map(get_u64)
    }

    fn bytes(&mut self) -> Result<Bytes<'a>, Malformed> {
        let size = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(size).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Steps over a list, and so knows that all of it can be read.
    fn list<T: Entry<'a>>(&mut self) -> Result<List<'a, T>, Malformed> {
        let count = self.u32()?;
        let list = List { entries: *self, count, read: T::read };
        for _ in 0..count {
            T::read(self)?;
        }
        Ok(list)
    }

    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

pub fn get_u64(cells: &[Cell<u8>; 8]) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|i| cells[i].get()))
}

pub fn set_u64(cells: &[Cell<u8>; 8], value: u64) {
    for (cell, byte) in cells.iter().zip(value.to_le_bytes()) {
        cell.set(byte);
    }
}

pub trait Entry<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed>;
}

/// Entries that were read once already.
pub struct List<'a, T> {
    entries: Reader<'a>,
    count: u32,
    read: fn(&mut Reader<'a>) -> Result<T, Malformed>,
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T> Iterator for List<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.count = self.count.checked_sub(1)?;
        (self.read)(&mut self.entries).ok()
    }
}

pub struct Segment<'a> {
    pub address: u64,
    pub size: u64,
    /// None for a number that stands for nothing.
    pub protection: Option<Protection>,
    pub bytes: Bytes<'a>,
}

pub struct Write<'a> {
    pub address: u64,
    pub bytes: Bytes<'a>,
}

pub struct Slot<'a> {
    pub address: u64,
    pub value: &'a [Cell<u8>; 8],
}

pub struct Unwind {
    pub eh_frame_hdr: u64,
    pub text_start: u64,
    pub text_end: u64,
}

/// What a thread-local is at first.
pub struct Initial<'a> {
    /// In the pool.
    pub offset: u32,
    pub bytes: Bytes<'a>,
}

impl<'a> Entry<'a> for Segment<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            address: reader.u64()?,
            size: reader.u64()?,
            protection: match reader.u32()? {
                1 => Some(Protection::Read),
                2 => Some(Protection::Write),
                3 => Some(Protection::Execute),
                _ => None,
            },
            bytes: reader.bytes()?,
        })
    }
}

impl<'a> Entry<'a> for Write<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self { address: reader.u64()?, bytes: reader.bytes()? })
    }
}

impl<'a> Entry<'a> for Slot<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self { address: reader.u64()?, value: reader.array()? })
    }
}

impl Entry<'_> for Unwind {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { eh_frame_hdr: reader.u64()?, text_start: reader.u64()?, text_end: reader.u64()? })
    }
}

impl<'a> Entry<'a> for Initial<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self { offset: reader.u32()?, bytes: reader.bytes()? })
    }
}

impl Entry<'_> for i32 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.u32().map(|value| value as i32)
    }
}

/// A patch message, whole and readable to its end; whether it may be applied is another question.
pub struct Patch<'a> {
    pub version: u32,
    pub segments: List<'a, Segment<'a>>,
    pub writes: List<'a, Write<'a>>,
    pub slots: List<'a, Slot<'a>>,
    pub unwind: List<'a, Unwind>,
    pub thread_locals: List<'a, Initial<'a>>,
    pub symbol_file: Bytes<'a>,
}

impl<'a> Patch<'a> {
    pub fn read(fields: Bytes<'a>) -> Result<Self, Malformed> {
        let mut reader = Reader(fields);
        let patch = Self {
            version: reader.u32()?,
            segments: reader.list()?,
            writes: reader.list()?,
            slots: reader.list()?,
            unwind: reader.list()?,
            thread_locals: reader.list()?,
            symbol_file: reader.bytes()?,
        };
        reader.end()?;
        Ok(patch)
    }
}

/// Asks for the listening sockets.
pub struct Handover<'a> {
    pub version: u32,
    pub path: Bytes<'a>,
    pub sockets: List<'a, i32>,
}

impl<'a> Handover<'a> {
    pub fn read(fields: Bytes<'a>) -> Result<Self, Malformed> {
        let mut reader = Reader(fields);
        let handover = Self { version: reader.u32()?, path: reader.bytes()?, sockets: reader.list()? };
        reader.end()?;
        Ok(handover)
    }
}

/// What debuggers are to know of a patch.
pub struct Description<'a> {
    pub version: u32,
    pub image: Bytes<'a>,
}

impl<'a> Description<'a> {
    pub fn read(fields: Bytes<'a>) -> Result<Self, Malformed> {
        let mut reader = Reader(fields);
        let description = Self { version: reader.u32()?, image: reader.bytes()? };
        reader.end()?;
        Ok(description)
    }
}

/// A message of the agent; all of them are short.
pub struct Message {
    bytes: [u8; 256],
    size: usize,
}

impl Message {
    fn new(kind: u32) -> Self {
        let mut message = Self { bytes: [0; 256], size: 4 };
        message.u32(kind);
        message
    }

    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.size) {
            *place = byte;
            self.size += 1;
        }
    }

    fn u32(&mut self, value: u32) {
        value.to_le_bytes().into_iter().for_each(|byte| self.byte(byte));
    }

    fn u64(&mut self, value: u64) {
        value.to_le_bytes().into_iter().for_each(|byte| self.byte(byte));
    }

    /// Writes `value` over what stands at `position`.
    fn set_u32(&mut self, position: usize, value: u32) {
        for (place, byte) in self.bytes.iter_mut().skip(position).zip(value.to_le_bytes()) {
            *place = byte;
        }
    }

    /// The bytes to send, once every field is in.
    pub fn finish(&mut self) -> &[u8] {
        self.set_u32(0, self.size.saturating_sub(4) as u32);
        self.bytes.get(..self.size).unwrap_or_default()
    }
}

/// What hotslot needs to know about the program before it can link a patch.
pub struct Hello {
    pub pid: u32,
    pub version: u32,
    pub pending: bool,
    pub bias: u64,
    pub slots: Range,
    pub arena: Range,
    pub module_size: u64,
    pub symbol_bias: u64,
    pub thread_locals: ThreadLocals,
}

impl Hello {
    pub fn message(&self) -> Message {
        let mut message = Message::new(HELLO);
        message.u32(PROTOCOL);
        message.u32(self.pid);
        message.u32(self.version);
        message.u32(u32::from(self.pending));
        message.u64(self.bias);
        message.u64(self.slots.start);
        message.u64(self.slots.end);
        message.u64(self.arena.start);
        message.u64(self.arena.end);
        message.u64(self.module_size);
        message.u64(self.symbol_bias);
        message.u64(self.thread_locals.address);
        message.u64(self.thread_locals.size);
        message.u64(self.thread_locals.alignment);
        message.u64(self.thread_locals.pool_offset as u64);
        message.u32(self.thread_locals.pool_size);
        message
    }
}

/// `outcome`: how many nanoseconds it took, or why it was refused.
pub fn receipt(answers: u32, version: u32, outcome: Result<u64, Reason>) -> Message {
    let mut message = Message::new(RECEIPT);
    message.u32(answers);
    message.u32(version);
    message.u32(u32::from(outcome.is_ok()));
    message.u64(outcome.unwrap_or(0));
    let length = message.size;
    message.u32(0);
    if let Err(reason) = outcome {
        reason.spell(|byte| message.byte(byte));
    }
    message.set_u32(length, message.size.saturating_sub(length + 4) as u32);
    message
}
