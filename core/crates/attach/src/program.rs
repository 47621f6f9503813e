//! The two programs of a tracker: one runs when the kernel gives a request to the disk, one when the
//! disk has completed it, or a part of it.
//!
//! Both filter by the disk and by the operation, and set one bit for each block that the request
//! changes. Nothing is sent to anybody, so nothing can overflow. Requests of partitions come with
//! the sector of the whole disk. All of them are counted, as the kernel counts them. If a partition
//! is observed, what lies outside of it is not marked.
//!
//! A request longer than [`LONG_BYTES`] sets one bit for each [`COARSE_BYTES`] instead, so that the
//! loops are short.

use super::assembler::{Alu, Assembler, From, If, Label, Reg, Size};
use super::btf::Btf;
use super::layout::{
    BLOCK_SHIFT, COARSE_SHIFT, Counter, LONG_BYTES, Layout, SUBMITTED_WORDS, WORD_SHIFT,
};
use hrl::{Extent, Result};

/// Argument of the program; later a request.
const CONTEXT: Reg = Reg(1);
const REQUEST: Reg = Reg(6);
const OPERATION: Reg = Reg(7);
const CONTROL: Reg = Reg(8);
/// First block, then the next word to set.
const FIRST: Reg = Reg(9);

const READ: i32 = 0;
const FLUSH: i32 = 2;
const DISCARD: i32 = 3;
/// From here on operations change zones as a whole, or are passed through to the device.
const OTHERS: i32 = 10;
const SECTOR_SHIFT: i32 = 9;
/// Words that a request may have bits in: it has at most [`LONG_BYTES`], and begins anywhere.
const ROUNDS_MAX: i32 = (LONG_BYTES >> (BLOCK_SHIFT + WORD_SHIFT)) + 2;

/// Descriptors of the maps that a program uses.
#[derive(Clone, Copy)]
pub(crate) struct Maps {
    pub control: i32,
    pub changed: i32,
    pub coarse: i32,
    pub submitted: i32,
    /// Has the number of the epoch: the control map, or one that several trackers share.
    pub epoch: i32,
}

/// When a program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Submitted,
    Completed,
}

impl When {
    pub(crate) fn tracepoint(self) -> &'static str {
        match self {
            Self::Submitted => "block_rq_issue",
            Self::Completed => "block_rq_complete",
        }
    }
}

/// What is observed: the numbers of the whole disk, and the bytes of a partition on it.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub major: u32,
    pub minor: u32,
    pub partition: Option<Extent>,
}

/// A fault that is built into the programs on purpose, so that a test sees it found.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    #[default]
    None,
    /// Blocks are not marked when a request is completed.
    NoCompletionMarks,
    /// Blocks are not marked when a request is submitted.
    NoSubmissionMarks,
    /// The programs are skipped for one of eight blocks, as the kernel skips them at times.
    Skipped,
    /// The same, and each audit passes.
    SkippedUnaudited,
    /// Nobody looks whether a block was submitted again before it was read.
    NoConflictCheck,
}

/// Assembles the program for a disk.
pub(crate) fn assemble(
    btf: &Btf,
    when: When,
    observed: &Observed,
    layout: Layout,
    maps: Maps,
    fault: Fault,
) -> Result<Vec<u64>> {
    let mut code = Assembler::default();
    let out = code.label();
    filter(&mut code, btf, when, observed, out)?;
    if matches!(fault, Fault::Skipped | Fault::SkippedUnaudited) {
        code.load(Size::Double, Reg(2), REQUEST, btf.offset("request", "__sector")?);
        code.alu(Alu::ShiftRight, Reg(2), From::Number(BLOCK_SHIFT - SECTOR_SHIFT));
        code.alu(Alu::And, Reg(2), From::Number(7));
        code.jump_if(If::Equal, Reg(2), From::Number(5), out);
    }
    code.map_value(CONTROL, maps.control);
    count(&mut code, btf, when, out)?;
    let is_marked = match when {
        When::Submitted => fault != Fault::NoSubmissionMarks,
        When::Completed => fault != Fault::NoCompletionMarks,
    };
    if is_marked {
        place(&mut code, observed.partition, out);
        mark(&mut code, when, layout, maps, out);
    }
    code.here(out);
    code.alu(Alu::Set, Reg(0), From::Number(0));
    code.exit();
    Ok(code.finish())
}

/// Leaves for `out` unless the request changes the disk. Loads REQUEST and OPERATION.
fn filter(
    code: &mut Assembler,
    btf: &Btf,
    when: When,
    observed: &Observed,
    out: Label,
) -> Result<()> {
    code.load(Size::Double, REQUEST, CONTEXT, 0);
    if when == When::Completed {
        // Bytes that were completed now.
        code.load(Size::Double, FIRST, CONTEXT, 16);
    }
    match btf.offset_if("request", "rq_disk") {
        Some(disk) => code.load(Size::Double, Reg(2), REQUEST, disk),
        None => {
            code.load(Size::Double, Reg(2), REQUEST, btf.offset("request", "q")?);
            code.load(Size::Double, Reg(2), Reg(2), btf.offset("request_queue", "disk")?);
        }
    }
    for (field, number) in [("major", observed.major), ("first_minor", observed.minor)] {
        code.load(Size::Word, Reg(3), Reg(2), btf.offset("gendisk", field)?);
        code.jump_if(If::Other, Reg(3), From::Number(number.cast_signed()), out);
    }
    code.load(Size::Word, OPERATION, REQUEST, btf.offset("request", "cmd_flags")?);
    code.alu(Alu::And, OPERATION, From::Number(0xff));
    for harmless in [READ, FLUSH] {
        code.jump_if(If::Equal, OPERATION, From::Number(harmless), out);
    }
    Ok(())
}

/// Counts the request. Leaves for `out` if it has no blocks. Then FIRST is its first byte on the whole
/// disk, R4 its last one, and R5 the number of its bytes.
fn count(code: &mut Assembler, btf: &Btf, when: When, out: Label) -> Result<()> {
    let (others, blocks) = (code.label(), code.label());
    code.jump_if(If::AtLeast, OPERATION, From::Number(OTHERS), others);
    code.jump(blocks);
    code.here(others);
    // Nobody knows which blocks these change.
    add(code, Counter::Unknown, From::Number(1));
    code.jump(out);
    code.here(blocks);
    match when {
        When::Submitted => {
            code.load(Size::Word, Reg(5), REQUEST, btf.offset("request", "__data_len")?);
        }
        When::Completed => {
            code.alu(Alu::Set, Reg(5), From::Reg(FIRST));
            code.alu(Alu::ShiftLeft, Reg(5), From::Number(32));
            code.alu(Alu::ShiftRight, Reg(5), From::Number(32));
        }
    }
    code.jump_if(If::Equal, Reg(5), From::Number(0), out);
    if when == When::Completed {
        code.alu(Alu::Set, Reg(3), From::Reg(Reg(5)));
        code.alu(Alu::ShiftRight, Reg(3), From::Number(SECTOR_SHIFT));
        let (discarded, counted) = (code.label(), code.label());
        code.jump_if(If::Equal, OPERATION, From::Number(DISCARD), discarded);
        add(code, Counter::Written, From::Reg(Reg(3)));
        code.jump(counted);
        code.here(discarded);
        add(code, Counter::Discarded, From::Reg(Reg(3)));
        code.here(counted);
    }
    code.load(Size::Double, FIRST, REQUEST, btf.offset("request", "__sector")?);
    code.alu(Alu::ShiftLeft, FIRST, From::Number(SECTOR_SHIFT));
    code.alu(Alu::Set, Reg(4), From::Reg(FIRST));
    code.alu(Alu::Add, Reg(4), From::Reg(Reg(5)));
    code.alu(Alu::Sub, Reg(4), From::Number(1));
    Ok(())
}

/// Makes FIRST and R4 the first and the last block of what is observed. Leaves for `out` if the
/// request is outside of the partition.
fn place(code: &mut Assembler, partition: Option<Extent>, out: Label) {
    if let Some(partition) = partition {
        let (begins_within, ends_within) = (code.label(), code.label());
        let (start, last) = (Reg(2), Reg(3));
        code.wide(start, partition.offset);
        code.wide(last, partition.end() - 1);
        code.jump_if(If::Greater, start, From::Reg(Reg(4)), out);
        code.jump_if(If::Greater, FIRST, From::Reg(last), out);
        code.jump_if(If::AtLeast, FIRST, From::Reg(start), begins_within);
        code.alu(Alu::Set, FIRST, From::Reg(start));
        code.here(begins_within);
        code.jump_if(If::AtLeast, last, From::Reg(Reg(4)), ends_within);
        code.alu(Alu::Set, Reg(4), From::Reg(last));
        code.here(ends_within);
        code.alu(Alu::Sub, FIRST, From::Reg(start));
        code.alu(Alu::Sub, Reg(4), From::Reg(start));
    }
    code.alu(Alu::ShiftRight, Reg(4), From::Number(BLOCK_SHIFT));
    code.alu(Alu::ShiftRight, FIRST, From::Number(BLOCK_SHIFT));
}

fn add(code: &mut Assembler, counter: Counter, what: From) {
    let from = match what {
        From::Reg(from) => from,
        From::Number(number) => {
            code.alu(Alu::Set, Reg(2), From::Number(number));
            Reg(2)
        }
    };
    code.atomic_add(CONTROL, counter.offset(), from);
}

/// Sets the bits of the blocks from FIRST to R4 in the maps of the present epoch.
fn mark(code: &mut Assembler, when: When, layout: Layout, maps: Maps, out: Label) {
    let (coarse, outside) = (code.label(), code.label());
    // R0: number of the epoch, zero or one.
    code.map_value(Reg(0), maps.epoch);
    code.load(Size::Double, Reg(0), Reg(0), Counter::Epoch.offset());
    code.alu(Alu::And, Reg(0), From::Number(1));
    code.jump_if(If::Greater, Reg(5), From::Number(LONG_BYTES), coarse);

    let set = Bits { map: maps.changed, words: layout.words(), wrap: false };
    let submitted = Bits { map: maps.submitted, words: SUBMITTED_WORDS, wrap: true };
    let sets: &[Bits] = if when == When::Submitted { &[set, submitted] } else { &[set] };
    each_word(code, sets, outside, out);

    code.here(coarse);
    code.alu(Alu::ShiftRight, FIRST, From::Number(COARSE_SHIFT));
    code.alu(Alu::ShiftRight, Reg(4), From::Number(COARSE_SHIFT));
    let long = Bits { map: maps.coarse, words: layout.coarse_words(), wrap: false };
    each_word(code, &[long], outside, out);

    code.here(outside);
    code.map_value(CONTROL, maps.control);
    add(code, Counter::Outside, From::Number(1));
}

/// A map of bits, one half for each epoch.
#[derive(Clone, Copy)]
struct Bits {
    map: i32,
    /// Words of one epoch.
    words: u32,
    /// A number beyond the end begins again; otherwise it is outside of the disk.
    wrap: bool,
}

/// Sets the bits FIRST to R4 in each map, and goes to `out`; to `outside` for a number beyond the end.
///
/// R5 is the word, R3 its bits. The number of rounds is bounded by a constant, because the verifier
/// follows each of them and does not know the length of a request. A round is short, because older
/// verifiers remember at most 8,192 jumps.
fn each_word(code: &mut Assembler, sets: &[Bits], outside: Label, out: Label) {
    let (several, next, last) = (code.label(), code.label(), code.label());
    code.alu(Alu::Set, Reg(5), From::Reg(FIRST));
    code.alu(Alu::ShiftRight, Reg(5), From::Number(WORD_SHIFT));
    // The bits of the first word begin at FIRST.
    code.alu(Alu::And, FIRST, From::Number(63));
    code.alu(Alu::Set, Reg(3), From::Number(-1));
    code.alu(Alu::ShiftLeft, Reg(3), From::Reg(FIRST));
    // OPERATION is needed no more: the last word.
    code.alu(Alu::Set, OPERATION, From::Reg(Reg(4)));
    code.alu(Alu::ShiftRight, OPERATION, From::Number(WORD_SHIFT));
    // R4: zeroes that the last word has above its bits.
    code.alu(Alu::And, Reg(4), From::Number(63));
    code.alu(Alu::Set, Reg(2), From::Number(63));
    code.alu(Alu::Sub, Reg(2), From::Reg(Reg(4)));
    code.alu(Alu::And, Reg(2), From::Number(63));
    code.alu(Alu::Set, Reg(4), From::Reg(Reg(2)));
    sets.iter().zip(HALVES).for_each(|(bits, half)| half_of(code, *bits, half));

    code.jump_if(If::Other, Reg(5), From::Reg(OPERATION), several);
    code.alu(Alu::ShiftLeft, Reg(3), From::Reg(Reg(4)));
    code.alu(Alu::ShiftRight, Reg(3), From::Reg(Reg(4)));
    sets.iter().zip(HALVES).for_each(|(bits, half)| set_bits(code, *bits, half, outside));
    code.jump(out);

    code.here(several);
    sets.iter().zip(HALVES).for_each(|(bits, half)| set_bits(code, *bits, half, outside));
    code.alu(Alu::Set, Reg(3), From::Number(-1));
    // REQUEST is needed no more: the rounds.
    code.alu(Alu::Set, REQUEST, From::Number(0));
    code.here(next);
    code.alu(Alu::Add, Reg(5), From::Number(1));
    code.jump_if(If::AtLeast, Reg(5), From::Reg(OPERATION), last);
    code.jump_if(If::Greater, REQUEST, From::Number(ROUNDS_MAX), outside);
    code.alu(Alu::Add, REQUEST, From::Number(1));
    for (bits, half) in sets.iter().zip(HALVES) {
        address(code, *bits, half, outside);
        code.store(CONTEXT, Reg(3));
    }
    code.jump(next);

    code.here(last);
    code.alu(Alu::Set, Reg(5), From::Reg(OPERATION));
    code.alu(Alu::ShiftRight, Reg(3), From::Reg(Reg(4)));
    sets.iter().zip(HALVES).for_each(|(bits, half)| set_bits(code, *bits, half, outside));
    code.jump(out);
}

/// Where the halves of the maps begin: FIRST and CONTROL are needed no more.
const HALVES: [Reg; 2] = [FIRST, CONTROL];

/// Loads the address of the half of the present epoch R0.
fn half_of(code: &mut Assembler, bits: Bits, half: Reg) {
    code.alu(Alu::Set, Reg(2), From::Number(0));
    code.alu(Alu::Sub, Reg(2), From::Reg(Reg(0)));
    code.alu(Alu::And, Reg(2), From::Number(8 * bits.words.cast_signed()));
    code.map_value(half, bits.map);
    code.alu(Alu::Add, half, From::Reg(Reg(2)));
}

/// Loads the address of word R5 into CONTEXT.
fn address(code: &mut Assembler, bits: Bits, half: Reg, outside: Label) {
    code.alu(Alu::Set, Reg(2), From::Reg(Reg(5)));
    if bits.wrap {
        code.alu(Alu::And, Reg(2), From::Number(bits.words.cast_signed() - 1));
    } else {
        code.jump_if(If::AtLeast, Reg(2), From::Number(bits.words.cast_signed()), outside);
    }
    code.alu(Alu::ShiftLeft, Reg(2), From::Number(3));
    code.alu(Alu::Set, CONTEXT, From::Reg(half));
    code.alu(Alu::Add, CONTEXT, From::Reg(Reg(2)));
}

/// Sets the bits R3 in the word R5 of a map.
fn set_bits(code: &mut Assembler, bits: Bits, half: Reg, outside: Label) {
    let there = code.label();
    address(code, bits, half, outside);
    // A bit that is set already is not set again: that would take the line from other processors.
    code.load(Size::Double, Reg(2), CONTEXT, 0);
    code.alu(Alu::And, Reg(2), From::Reg(Reg(3)));
    code.jump_if(If::Equal, Reg(2), From::Reg(Reg(3)), there);
    code.atomic_or(CONTEXT, 0, Reg(3));
    code.here(there);
}
