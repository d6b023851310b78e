//! The one way in which registers, command dwords and flag bytes are declared.

/// Declares a newtype over an unsigned integer with bit fields.
///
/// `get / with = [high:low] type;` follows the standards' notation of bit ranges.
/// `@ offset` gives a register's place, as `OFFSET`. A setter drops what does not
/// fit in its field, so fields never run into each other.
macro_rules! bits {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident($raw:ident) $(@ $offset:literal)?;
        $(
            $(#[$field_meta:meta])*
            $get:ident / $with:ident = [$hi:literal : $lo:literal] $ty:ident;
        )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[repr(transparent)]
        pub struct $Name($raw);

        #[allow(clippy::unnecessary_cast, clippy::double_must_use, clippy::identity_op)]
        impl $Name {
            $(
                /// Offset in bytes.
                pub const OFFSET: usize = $offset;
            )?

            /// Takes the raw value, whatever it holds.
            #[inline]
            pub const fn from_bits(bits: $raw) -> Self {
                Self(bits)
            }

            /// The raw value.
            #[inline]
            pub const fn bits(self) -> $raw {
                self.0
            }

            $(
                $(#[$field_meta])*
                #[inline]
                pub const fn $get(self) -> $ty {
                    bits!(@get $ty, (self.0 >> $lo) & ($raw::MAX >> ($raw::BITS - ($hi - $lo + 1))))
                }

                #[doc = concat!("Sets [`", stringify!($get), "`](Self::", stringify!($get), ").")]
                #[inline]
                #[must_use]
                pub const fn $with(self, value: $ty) -> Self {
                    const MASK: $raw = ($raw::MAX >> ($raw::BITS - ($hi - $lo + 1))) << $lo;
                    Self((self.0 & !MASK) | (((value as $raw) << $lo) & MASK))
                }
            )*

            /// Sets and clears each field alone: only its own bits may move, and no
            /// two fields may share one.
            #[cfg(test)]
            #[allow(unused)]
            pub(crate) fn check_fields() {
                let mut seen: $raw = 0;
                $(
                    let mask = ($raw::MAX >> ($raw::BITS - ($hi - $lo + 1))) << $lo;
                    let name = concat!(stringify!($Name), ".", stringify!($get));
                    assert_eq!(seen & mask, 0, "{name} overlaps");
                    seen |= mask;
                    let alone = Self(0).$with(bits!(@ones $ty));
                    assert_eq!(alone.0, mask, "{name} set alone");
                    assert_eq!(Self(0).$with(alone.$get()), alone, "{name} read back");
                    assert_eq!(Self(!mask).$get(), bits!(@zero $ty), "{name} with the others set");
                    assert_eq!(Self($raw::MAX).$with(bits!(@zero $ty)).0, !mask, "{name} cleared");
                )*
            }
        }

        impl core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($Name))
                    $(.field(stringify!($get), &self.$get()))*
                    .finish()
            }
        }

        impl From<$raw> for $Name {
            fn from(bits: $raw) -> Self {
                Self(bits)
            }
        }

        impl From<$Name> for $raw {
            fn from(value: $Name) -> $raw {
                value.0
            }
        }
    };
    (@get bool, $value:expr) => { $value != 0 };
    (@get $ty:ident, $value:expr) => { ($value) as $ty };
    (@ones bool) => { true };
    (@ones $ty:ident) => { $ty::MAX };
    (@zero bool) => { false };
    (@zero $ty:ident) => { 0 };
}

/// Declares a newtype over an integer whose values have names in the standard.
/// Values that have none stay numbers; `Display` gives the name, or the number.
macro_rules! codes {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident($raw:ident);
        $(
            $(#[$value_meta:meta])*
            $VALUE:ident = $value:literal, $text:literal;
        )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        #[repr(transparent)]
        pub struct $Name(pub $raw);

        impl $Name {
            $(
                #[doc = concat!($text, ".")]
                $(#[$value_meta])*
                pub const $VALUE: Self = Self($value);
            )*

            /// The standard's name; `None` for a value that has none here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, "{:#x}", self.0),
                }
            }
        }

        impl core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{}({:#x}: {name})", stringify!($Name), self.0),
                    None => write!(f, "{}({:#x})", stringify!($Name), self.0),
                }
            }
        }
    };
}

/// Runs `check_fields` of each type.
#[cfg(test)]
macro_rules! check_fields {
    ($($Name:ident),* $(,)?) => { $($Name::check_fields();)* };
}
