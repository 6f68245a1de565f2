//! What a directive declares about itself: name, contexts, arguments, default, and where its value
//! goes. Rows live in the module that implements the directive.

use std::ops::BitOr;
use std::time::Duration;

use super::error::Result;
use super::reader::Reader;
use super::tree::{Node, Word};

/// A set of places in which a directive may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contexts(u32);

impl Contexts {
    /// Nowhere.
    pub const NONE: Self = Self(0);
    /// Outside of every block.
    pub const MAIN: Self = Self(1);
    /// `events { }`
    pub const EVENTS: Self = Self(1 << 1);
    /// `http { }`
    pub const HTTP: Self = Self(1 << 2);
    /// `server { }` in `http`
    pub const SERVER: Self = Self(1 << 3);
    /// `location { }`
    pub const LOCATION: Self = Self(1 << 4);
    /// `if ( ) { }` in a server
    pub const SERVER_IF: Self = Self(1 << 5);
    /// `if ( ) { }` in a location
    pub const LOCATION_IF: Self = Self(1 << 6);
    /// `limit_except { }`
    pub const LIMIT_EXCEPT: Self = Self(1 << 7);
    /// `upstream { }` in `http`
    pub const UPSTREAM: Self = Self(1 << 8);
    /// `stream { }`
    pub const STREAM: Self = Self(1 << 9);
    /// `server { }` in `stream`
    pub const STREAM_SERVER: Self = Self(1 << 10);
    /// `upstream { }` in `stream`
    pub const STREAM_UPSTREAM: Self = Self(1 << 11);
    /// `mail { }`
    pub const MAIL: Self = Self(1 << 12);
    /// `server { }` in `mail`
    pub const MAIL_SERVER: Self = Self(1 << 13);
    /// Blocks with a small language of their own (`match`, `mgmt`, `oidc_provider` …).
    pub const OTHER: Self = Self(1 << 14);
    /// Everywhere.
    pub const ANY: Self = Self((1 << 15) - 1);

    /// Both sets together, for constants.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in `self` and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the sets have a place in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is no place in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the places, as nginx's documentation calls them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = if self == Self::ANY { Some("any") } else { None };
        let each = NAMES
            .iter()
            .filter(move |(bit, _)| all.is_none() && self.overlaps(*bit));
        all.into_iter().chain(each.map(|(_, name)| *name))
    }
}

impl BitOr for Contexts {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

const NAMES: [(Contexts, &str); 15] = [
    (Contexts::MAIN, "main"),
    (Contexts::EVENTS, "events"),
    (Contexts::HTTP, "http"),
    (Contexts::SERVER, "server"),
    (Contexts::LOCATION, "location"),
    (Contexts::SERVER_IF, "if in server"),
    (Contexts::LOCATION_IF, "if in location"),
    (Contexts::LIMIT_EXCEPT, "limit_except"),
    (Contexts::UPSTREAM, "upstream"),
    (Contexts::STREAM, "stream"),
    (Contexts::STREAM_SERVER, "stream server"),
    (Contexts::STREAM_UPSTREAM, "stream upstream"),
    (Contexts::MAIL, "mail"),
    (Contexts::MAIL_SERVER, "mail server"),
    (Contexts::OTHER, "a block of its own"),
];

/// How many arguments a directive takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// No argument.
    None,
    /// One argument.
    One,
    /// Two arguments.
    Two,
    /// One argument, `on` or `off`.
    Flag,
    /// Just so many.
    Exactly(u8),
    /// From the first to the second, both included.
    Between(u8, u8),
    /// So many or more.
    AtLeast(u8),
}

impl Arity {
    /// Whether `count` arguments are right.
    pub const fn accepts(self, count: usize) -> bool {
        match self {
            Arity::None => count == 0,
            Arity::One | Arity::Flag => count == 1,
            Arity::Two => count == 2,
            Arity::Exactly(n) => count == n as usize,
            Arity::Between(low, high) => low as usize <= count && count <= high as usize,
            Arity::AtLeast(n) => count >= n as usize,
        }
    }

    /// `one argument`, for help lines.
    pub fn describe(self) -> String {
        match self {
            Arity::None | Arity::Exactly(0) => "no argument".into(),
            Arity::One | Arity::Exactly(1) => "one argument".into(),
            Arity::Flag => "\"on\" or \"off\"".into(),
            Arity::Two => "two arguments".into(),
            Arity::Exactly(n) => format!("{n} arguments"),
            Arity::Between(low, high) => format!("{low} to {high} arguments"),
            Arity::AtLeast(1) => "one argument or more".into(),
            Arity::AtLeast(n) => format!("{n} arguments or more"),
        }
    }
}

/// One directive, declared where it is implemented. `S` is the raw scope it writes into. The same
/// name may have several rows with different contexts.
#[derive(Debug)]
pub struct Row<S: 'static> {
    /// The directive's name.
    pub name: &'static str,
    /// Where it may stand.
    pub contexts: Contexts,
    /// How many arguments it takes.
    pub arity: Arity,
    /// The default as nginx's documentation gives it; `—` if there is none.
    pub default: &'static str,
    /// One line for the documentation.
    pub doc: &'static str,
    /// What to do with it.
    pub set: Set<S>,
    /// Why the value is checked and kept, and yet changes nothing; `-t` says so.
    pub without_effect: Option<&'static str>,
}

/// Gives the place in a scope for a directive's value.
pub type Slot<S, T> = fn(&mut S) -> &mut Option<T>;

/// A directive's own reading function.
pub type Read<S> = fn(&mut Reader<'_>, &mut S, &Node) -> Result<()>;

/// What a directive does to its scope. With a slot, a value already there is the error
/// `"x" directive is duplicate`.
#[derive(Debug)]
pub enum Set<S: 'static> {
    /// `on` or `off`.
    Flag(Slot<S, bool>),
    /// A number without unit.
    Number(Slot<S, u64>),
    /// Bytes; suffixes k, m, g.
    Size(Slot<S, u64>),
    /// Time with nginx's units down to ms; a bare number is seconds.
    Time(Slot<S, Duration>),
    /// Time in whole seconds; `ms` is refused.
    Seconds(Slot<S, Duration>),
    /// The only argument.
    Word(Slot<S, Word>),
    /// All arguments.
    Words(Slot<S, Vec<Word>>),
    /// The index of the only argument among these, case ignored.
    Choice(&'static [&'static str], Slot<S, usize>),
    /// Anything else that ends in `;`; decides itself what is a duplicate.
    Custom(Read<S>),
    /// A directive with a block.
    Block(Read<S>),
    /// Accepted without effect; `-t` says why.
    Notice(&'static str),
}

/// The default of a row that gives none.
pub const NO_DEFAULT: &str = "—";

impl<S: 'static> Row<S> {
    /// A directive of `on` or `off`.
    pub const fn flag(name: &'static str, contexts: Contexts, slot: Slot<S, bool>) -> Self {
        Self::new(name, contexts, Arity::Flag, Set::Flag(slot))
    }

    /// A directive of one number.
    pub const fn number(name: &'static str, contexts: Contexts, slot: Slot<S, u64>) -> Self {
        Self::new(name, contexts, Arity::One, Set::Number(slot))
    }

    /// A directive of one size in bytes.
    pub const fn size(name: &'static str, contexts: Contexts, slot: Slot<S, u64>) -> Self {
        Self::new(name, contexts, Arity::One, Set::Size(slot))
    }

    /// A directive of one time.
    pub const fn time(name: &'static str, contexts: Contexts, slot: Slot<S, Duration>) -> Self {
        Self::new(name, contexts, Arity::One, Set::Time(slot))
    }

    /// A directive of one time in whole seconds.
    pub const fn seconds(name: &'static str, contexts: Contexts, slot: Slot<S, Duration>) -> Self {
        Self::new(name, contexts, Arity::One, Set::Seconds(slot))
    }

    /// A directive of one word.
    pub const fn word(name: &'static str, contexts: Contexts, slot: Slot<S, Word>) -> Self {
        Self::new(name, contexts, Arity::One, Set::Word(slot))
    }

    /// A directive whose words are kept as they are.
    pub const fn words(
        name: &'static str,
        contexts: Contexts,
        arity: Arity,
        slot: Slot<S, Vec<Word>>,
    ) -> Self {
        Self::new(name, contexts, arity, Set::Words(slot))
    }

    /// A directive of one word out of `choices`.
    pub const fn choice(
        name: &'static str,
        contexts: Contexts,
        choices: &'static [&'static str],
        slot: Slot<S, usize>,
    ) -> Self {
        Self::new(name, contexts, Arity::One, Set::Choice(choices, slot))
    }

    /// A directive without a block that reads itself.
    pub const fn custom(
        name: &'static str,
        contexts: Contexts,
        arity: Arity,
        read: Read<S>,
    ) -> Self {
        Self::new(name, contexts, arity, Set::Custom(read))
    }

    /// A directive with a block.
    pub const fn block(
        name: &'static str,
        contexts: Contexts,
        arity: Arity,
        read: Read<S>,
    ) -> Self {
        Self::new(name, contexts, arity, Set::Block(read))
    }

    /// A directive that is accepted and has no effect here, and why.
    pub const fn notice(
        name: &'static str,
        contexts: Contexts,
        arity: Arity,
        why: &'static str,
    ) -> Self {
        Self::new(name, contexts, arity, Set::Notice(why))
    }

    /// Sets the default for the documentation.
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Sets the line for the documentation.
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// Says that the value is checked and kept, and yet changes nothing so far, and why.
    pub const fn without_effect(mut self, why: &'static str) -> Self {
        self.without_effect = Some(why);
        self
    }

    /// Whether the directive has a block.
    pub const fn is_block(&self) -> bool {
        matches!(self.set, Set::Block(_))
    }

    const fn new(name: &'static str, contexts: Contexts, arity: Arity, set: Set<S>) -> Self {
        Self {
            name,
            contexts,
            arity,
            default: NO_DEFAULT,
            doc: "",
            set,
            without_effect: None,
        }
    }
}

/// Takes options that are not set here from the enclosing scope, as nginx merges its levels:
/// `inherit!(self, parent; buffering, read_timeout);`
#[macro_export]
macro_rules! inherit {
    ($scope:expr, $parent:expr; $($option:ident),+ $(,)?) => {
        $(
            if $scope.$option.is_none() {
                $scope.$option.clone_from(&$parent.$option);
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arity_counts_arguments() {
        assert!(Arity::Between(1, 3).accepts(3) && !Arity::Between(1, 3).accepts(4));
        assert!(Arity::AtLeast(2).accepts(9) && !Arity::AtLeast(2).accepts(1));
        assert!(Arity::None.accepts(0) && Arity::Flag.accepts(1) && !Arity::Two.accepts(1));
    }

    #[test]
    fn contexts_have_names() {
        let set = Contexts::HTTP | Contexts::LOCATION_IF;
        assert_eq!(set.names().collect::<Vec<_>>(), ["http", "if in location"]);
        assert_eq!(Contexts::ANY.names().collect::<Vec<_>>(), ["any"]);
        assert!(set.without(set).is_empty());
    }

    #[test]
    fn inheriting_keeps_what_is_set() {
        struct Scope {
            a: Option<u8>,
            b: Option<String>,
        }
        let parent = Scope {
            a: Some(1),
            b: Some("p".into()),
        };
        let mut scope = Scope {
            a: Some(2),
            b: None,
        };
        crate::inherit!(scope, parent; a, b);
        assert_eq!((scope.a, scope.b.as_deref()), (Some(2), Some("p")));
    }
}
