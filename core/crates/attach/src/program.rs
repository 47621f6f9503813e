//! The two programs of a tracker: one runs when the kernel gives a request to the disk, one when the
//! disk has completed it, or a part of it.
//!
//! Both filter by the disk and by the operation, and set one bit for each block that the request
//! changes. Nothing is sent to anybody, so nothing can overflow. Requests of partitions come with
//! the sector of the whole disk.
//!
//! A request longer than [`LONG_BYTES`] sets one bit for each [`COARSE_BYTES`] instead, so that the
//! loops are short.

use super::assembler::{Alu, Assembler, From, If, Label, Reg, Size};
use super::btf::Btf;
use super::layout::{
    BLOCK_SHIFT, COARSE_SHIFT, Counter, LONG_BYTES, Layout, SUBMITTED_WORDS, WORD_SHIFT,
};
use hrl::Result;

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

/// Descriptors of the maps that a program uses.
#[derive(Clone, Copy)]
pub(crate) struct Maps {
    pub control: i32,
    pub changed: i32,
    pub coarse: i32,
    pub submitted: i32,
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

/// Assembles the program for a disk with these numbers.
pub(crate) fn assemble(
    btf: &Btf,
    when: When,
    (major, minor): (u32, u32),
    layout: Layout,
    maps: Maps,
) -> Result<Vec<u64>> {
    let mut code = Assembler::default();
    let out = code.label();
    filter(&mut code, btf, when, (major, minor), out)?;
    code.map_value(CONTROL, maps.control);
    count(&mut code, btf, when, out)?;
    mark(&mut code, when, layout, maps, out);
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
    (major, minor): (u32, u32),
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
    for (field, number) in [("major", major), ("first_minor", minor)] {
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

/// Counts the request. Leaves for `out` if it has no blocks. Then FIRST is its first block, R4 its
/// last one, and R5 its bytes.
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
    code.alu(Alu::ShiftRight, Reg(4), From::Number(BLOCK_SHIFT));
    code.alu(Alu::ShiftRight, FIRST, From::Number(BLOCK_SHIFT));
    Ok(())
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
    code.load(Size::Double, Reg(0), CONTROL, Counter::Epoch.offset());
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

/// Sets the bits FIRST to R4 in each map, word by word, and goes to `out`; to `outside` for a number
/// beyond the end.
///
/// R5 is the word, R3 its bits.
fn each_word(code: &mut Assembler, sets: &[Bits], outside: Label, out: Label) {
    let (next, last, ready) = (code.label(), code.label(), code.label());
    code.alu(Alu::Set, Reg(5), From::Reg(FIRST));
    code.alu(Alu::ShiftRight, Reg(5), From::Number(WORD_SHIFT));
    // The bits of the first word begin at FIRST.
    code.alu(Alu::And, FIRST, From::Number(63));
    code.alu(Alu::Set, Reg(3), From::Number(-1));
    code.alu(Alu::ShiftLeft, Reg(3), From::Reg(FIRST));
    // OPERATION is needed no more: the last word.
    code.alu(Alu::Set, OPERATION, From::Reg(Reg(4)));
    code.alu(Alu::ShiftRight, OPERATION, From::Number(WORD_SHIFT));

    code.here(next);
    code.jump_if(If::Greater, Reg(5), From::Reg(OPERATION), out);
    code.jump_if(If::Other, Reg(5), From::Reg(OPERATION), ready);
    code.here(last);
    // The bits of the last word end at R4.
    code.alu(Alu::And, Reg(4), From::Number(63));
    code.alu(Alu::Set, Reg(2), From::Number(63));
    code.alu(Alu::Sub, Reg(2), From::Reg(Reg(4)));
    code.alu(Alu::And, Reg(2), From::Number(63));
    code.alu(Alu::ShiftLeft, Reg(3), From::Reg(Reg(2)));
    code.alu(Alu::ShiftRight, Reg(3), From::Reg(Reg(2)));
    code.here(ready);
    for bits in sets {
        set_word(code, *bits, outside);
    }
    code.alu(Alu::Set, Reg(3), From::Number(-1));
    code.alu(Alu::Add, Reg(5), From::Number(1));
    code.jump(next);
}

/// Sets the bits R3 in the word R5 of a map.
fn set_word(code: &mut Assembler, bits: Bits, outside: Label) {
    let there = code.label();
    code.alu(Alu::Set, Reg(2), From::Reg(Reg(5)));
    if bits.wrap {
        code.alu(Alu::And, Reg(2), From::Number(bits.words.cast_signed() - 1));
    }
    code.jump_if(If::AtLeast, Reg(2), From::Number(bits.words.cast_signed()), outside);
    let first_epoch = code.label();
    code.jump_if(If::Equal, Reg(0), From::Number(0), first_epoch);
    code.alu(Alu::Add, Reg(2), From::Number(bits.words.cast_signed()));
    code.here(first_epoch);
    code.alu(Alu::ShiftLeft, Reg(2), From::Number(3));
    code.map_value(CONTEXT, bits.map);
    code.alu(Alu::Add, CONTEXT, From::Reg(Reg(2)));
    // A bit that is set already is not set again: that would take the line from other processors.
    code.load(Size::Double, Reg(2), CONTEXT, 0);
    code.alu(Alu::And, Reg(2), From::Reg(Reg(3)));
    code.jump_if(If::Equal, Reg(2), From::Reg(Reg(3)), there);
    code.atomic_or(CONTEXT, 0, Reg(3));
    code.here(there);
}
