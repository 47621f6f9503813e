//! Assembles BPF programs: instructions by name, jumps by label.

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(pub u8);

/// Size of a load or store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    Word,
    Double,
}

impl Size {
    fn code(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Double => 0x18,
        }
    }
}

/// An operation of two operands, on 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Alu {
    Add = 0x00,
    Sub = 0x10,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Set = 0xb0,
}

/// A comparison, without sign.
#[derive(Clone, Copy, Debug)]
pub(crate) enum If {
    Equal = 0x10,
    Greater = 0x20,
    AtLeast = 0x30,
    Other = 0x50,
}

/// What an instruction takes its second operand from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Reg(Reg),
    Number(i32),
}

/// A place to jump to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label(usize);

/// A program under construction.
#[derive(Default)]
pub(crate) struct Assembler {
    code: Vec<u64>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label before the next instruction.
    pub(crate) fn here(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    /// Loads from memory at `base + offset`.
    pub(crate) fn load(&mut self, size: Size, to: Reg, base: Reg, offset: i16) {
        self.put(0x61 | size.code(), to, base, offset, 0);
    }

    /// Stores 8 bytes to memory at `base`.
    pub(crate) fn store(&mut self, base: Reg, from: Reg) {
        self.put(0x7b, base, from, 0, 0);
    }

    pub(crate) fn alu(&mut self, operation: Alu, to: Reg, from: From) {
        match from {
            From::Reg(from) => self.put(0x0f | operation as u8, to, from, 0, 0),
            From::Number(number) => self.put(0x07 | operation as u8, to, Reg(0), 0, number),
        }
    }

    /// Loads a number of 64 bits.
    pub(crate) fn wide(&mut self, to: Reg, number: u64) {
        let halves = [number as u32, (number >> 32) as u32].map(u32::cast_signed);
        self.put(0x18, to, Reg(0), 0, halves[0]);
        self.put(0, Reg(0), Reg(0), 0, halves[1]);
    }

    /// Loads the address of the value of an array map with one element.
    pub(crate) fn map_value(&mut self, to: Reg, map: i32) {
        const VALUE: Reg = Reg(2);
        self.put(0x18, to, VALUE, 0, map);
        self.put(0, Reg(0), Reg(0), 0, 0);
    }

    /// Adds atomically to 8 bytes in memory.
    pub(crate) fn atomic_add(&mut self, base: Reg, offset: i16, from: Reg) {
        self.put(0xdb, base, from, offset, 0x00);
    }

    /// Sets bits atomically in 8 bytes of memory.
    pub(crate) fn atomic_or(&mut self, base: Reg, offset: i16, from: Reg) {
        self.put(0xdb, base, from, offset, 0x40);
    }

    pub(crate) fn jump_if(&mut self, condition: If, left: Reg, right: From, to: Label) {
        self.jumps.push((self.code.len(), to));
        match right {
            From::Reg(right) => self.put(0x0d | condition as u8, left, right, 0, 0),
            From::Number(number) => self.put(0x05 | condition as u8, left, Reg(0), 0, number),
        }
    }

    pub(crate) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.put(0x05, Reg(0), Reg(0), 0, 0);
    }

    pub(crate) fn exit(&mut self) {
        self.put(0x95, Reg(0), Reg(0), 0, 0);
    }

    /// Returns the instructions.
    pub(crate) fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].expect("every label has a place");
            let distance = target as i64 - at as i64 - 1;
            let distance = i16::try_from(distance).expect("programs are short");
            self.code[at] |= u64::from(distance.cast_unsigned()) << 16;
        }
        self.code
    }

    fn put(&mut self, code: u8, to: Reg, from: Reg, offset: i16, number: i32) {
        self.code.push(
            u64::from(code)
                | u64::from(to.0) << 8
                | u64::from(from.0) << 12
                | u64::from(offset.cast_unsigned()) << 16
                | u64::from(number.cast_unsigned()) << 32,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_instructions_from_the_next_one() {
        let mut code = Assembler::default();
        let (back, out) = (code.label(), code.label());
        code.here(back);
        code.alu(Alu::Set, Reg(0), From::Number(7));
        code.jump_if(If::Equal, Reg(0), From::Number(7), out);
        code.jump(back);
        code.here(out);
        code.exit();
        let code = code.finish();
        assert_eq!(code[0], 0x0000_0007_0000_00b7);
        assert_eq!(code[1] >> 16 & 0xffff, 1);
        assert_eq!(code[2] >> 16 & 0xffff, 0xfffd);
        assert_eq!(code[3], 0x95);
    }

    #[test]
    fn a_wide_number_takes_two_instructions() {
        let mut code = Assembler::default();
        code.wide(Reg(3), 0x1234_5678_9abc_def0);
        assert_eq!(code.finish(), [0x9abc_def0_0000_0318, 0x1234_5678_0000_0000]);
    }
}
