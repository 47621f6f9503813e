//! Macros for names and codes of enums, setters, and `Debug`.

/// Defines an enum, with the name of each variant after it.
macro_rules! named {
    ($(#[$of_enum:meta])* pub enum $type:ident {
        $($(#[$of_variant:meta])* $variant:ident = $name:literal,)*
    }) => {
        $(#[$of_enum])*
        pub enum $type {
            $($(#[$of_variant])* $variant,)*
        }

        impl $type {
            /// Every variant, in the order of its code where it has one.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Returns the stable name, which bindings, logs, files and exit codes use.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

/// Gives the variants in `ALL` of an enum their codes in stored bytes, counted from 1.
macro_rules! coded {
    ($visibility:vis $type:ident) => {
        impl $type {
            /// Returns the code in stored bytes: 1 and up.
            $visibility const fn code(self) -> u8 {
                self as u8 + 1
            }

            /// Returns the variant with this code.
            $visibility fn from_code(code: u8) -> Option<Self> {
                Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
            }
        }
    };
}

/// Defines chained setters of options, each for the field of its name.
macro_rules! setters {
    ($($(#[$of_setter:meta])* $field:ident: $type:ty $(=> $wrap:path)?;)*) => {
        $(
            $(#[$of_setter])*
            pub fn $field(mut self, $field: $type) -> Self {
                self.$field = $($wrap)?($field);
                self
            }
        )*
    };
}

/// Shows a value as its type and what identifies it, such as `Segment(e00000001.hrl)`.
macro_rules! shown {
    ($type:ident, $value:ident => $shown:expr) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let $value = self;
                write!(f, concat!(stringify!($type), "({})"), $shown)
            }
        }
    };
}

pub(crate) use {coded, named, setters, shown};
