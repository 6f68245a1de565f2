//! `set`, `if`, `rewrite`, `return`, `break`: small programs that servers and locations run before
//! anything else looks at the request.
//!
//! A block's directives are kept in the order of the file and compiled into one [`Script`]. The
//! directives of an `if` belong to the program around it and run where the `if` stands; the block
//! is also a location of its own, which comes into force when the condition holds.

mod condition;
mod run;

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word};
use crate::http::conf::LocationKind;
use crate::http::exchange::Exchange;
use crate::http::respond::Reply;
use crate::http::scope::{self, Compiler, Scope};
use crate::inherit;
use crate::vars::{Pattern, Target, Template};

use condition::{Condition, RawCondition};

const PLACES: Contexts = Contexts::SERVER
    .or(Contexts::SERVER_IF)
    .or(Contexts::LOCATION)
    .or(Contexts::LOCATION_IF);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("set", PLACES, Arity::Two, set).doc("Gives a variable a value."),
    R::block(
        "if",
        Contexts::SERVER.or(Contexts::LOCATION),
        Arity::AtLeast(1),
        read_if,
    )
    .doc("Directives and settings for requests that meet a condition."),
    R::custom("rewrite", PLACES, Arity::Between(2, 3), rewrite)
        .doc("Changes the URI, or redirects, where it matches a regular expression."),
    R::custom("return", PLACES, Arity::Between(1, 2), read_return)
        .doc("Answers with a status, a text or a redirect."),
    R::custom("break", PLACES, Arity::None, read_break)
        .doc("Ends the directives of this module; the request stays in its location."),
    R::flag("rewrite_log", PLACES.or(Contexts::HTTP), |s| {
        &mut s.rewrite.log
    })
    .default("off")
    .doc("Tell in the error log, at level notice, what rewrites and regex conditions do."),
    R::flag(
        "uninitialized_variable_warn",
        PLACES.or(Contexts::HTTP),
        |s| &mut s.rewrite.warn_uninitialized,
    )
    .default("on")
    .doc("Warn in the error log when a variable is read before `set` gave it a value."),
];

/// What is written in one block. Only the switches are inherited.
#[derive(Default)]
pub struct Raw {
    steps: Vec<RawStep>,
    log: Option<bool>,
    warn_uninitialized: Option<bool>,
}

/// A directive as it was read; what can be checked without knowing names has been checked.
enum RawStep {
    Set {
        name: Word,
        value: Word,
    },
    If {
        condition: RawCondition,
        /// Index of the block among the children of the location around it; `None` in a server.
        child: Option<usize>,
        steps: Vec<RawStep>,
    },
    Rewrite {
        pattern: Word,
        replacement: Word,
        flag: Flag,
    },
    Return {
        status: u16,
        text: Option<Word>,
    },
    Break,
}

/// What follows a `rewrite` that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    /// The next directive.
    None,
    /// The location for the new URI.
    Last,
    /// The content of this location.
    Break,
    /// An answer with this status.
    Redirect(u16),
}

/// The program of a server or location.
#[derive(Debug)]
pub struct Script {
    steps: Box<[Step]>,
    log: bool,
    /// `uninitialized_variable_warn`.
    pub warn_uninitialized: bool,
}

#[derive(Debug)]
enum Step {
    Set {
        target: Target<Exchange>,
        value: Template<Exchange>,
    },
    If {
        condition: Condition,
        /// The block as a location; `None` in a server, whose settings an `if` cannot change.
        location: Option<u32>,
        steps: Box<[Step]>,
    },
    Rewrite(Box<Rewrite>),
    Return {
        status: u16,
        /// `None` answers with the page of the status.
        text: Option<Template<Exchange>>,
    },
    Break,
}

#[derive(Debug)]
struct Rewrite {
    pattern: Pattern,
    /// The pattern as written, for the log.
    source: Box<[u8]>,
    /// The whole replacement of a redirect; otherwise the part before the question mark.
    target: Template<Exchange>,
    /// What follows the question mark, where the URI is changed.
    args: Option<Template<Exchange>>,
    /// The replacement has a question mark.
    has_args: bool,
    /// The request's own arguments are added.
    keep_args: bool,
    flag: Flag,
}

/// How a program ends.
pub enum Flow {
    /// The request goes on in the location in force, which an `if` may have changed.
    Next,
    /// The URI was changed: the location has to be found again.
    Relocate,
    /// This is the answer.
    Reply(Reply),
}

impl Raw {
    /// Takes the switches from the block around, where they are not set here.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; log, warn_uninitialized);
    }

    /// Compiles the program of a block. `children` are the ids of the locations compiled from
    /// `Scope::children`, in the same order.
    ///
    /// # Errors
    /// A regular expression that does not compile, a variable that cannot be set.
    pub fn compile(&self, c: &mut Compiler<'_, '_>, children: &[u32]) -> Result<Script> {
        Ok(Script {
            steps: compile_steps(&self.steps, c, children)?,
            log: self.log.unwrap_or(false),
            warn_uninitialized: self.warn_uninitialized.unwrap_or(true),
        })
    }
}

impl Script {
    /// Whether there is nothing to run, as in most locations.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Runs the program on an exchange.
    #[inline]
    pub fn run(&self, ex: &mut Exchange) -> Flow {
        if self.is_empty() {
            return Flow::Next;
        }
        run::run(self, ex)
    }
}

fn set(_: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    let [name, value] = node.args() else {
        unreachable!("the row takes two arguments");
    };
    // Only the dollar is asked for, not that the rest could be written in a template.
    crate::vars::variable_name(name)?;
    scope.rewrite.steps.push(RawStep::Set {
        name: name.clone(),
        value: value.clone(),
    });
    Ok(())
}

fn read_if(reader: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    let condition = RawCondition::read(node.args())?;
    let mut inner = Scope::new(LocationKind::If);
    // An `if` of a location is that location with other settings: it goes by the same name.
    inner.place.name.clone_from(&scope.place.name);
    let in_server = scope.place.kind == Some(LocationKind::ServerRoot);
    let context = if in_server {
        Contexts::SERVER_IF
    } else {
        Contexts::LOCATION_IF
    };
    scope::read_block(reader, node, context, &mut inner)?;
    let steps = std::mem::take(&mut inner.rewrite.steps);
    let child = (!in_server).then(|| {
        scope.children.push(inner);
        scope.children.len() - 1
    });
    scope.rewrite.steps.push(RawStep::If {
        condition,
        child,
        steps,
    });
    Ok(())
}

fn rewrite(_: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    let args = node.args();
    let (pattern, replacement) = (&args[0], &args[1]);
    if replacement.bytes.is_empty() {
        return Err(ConfigError::at(replacement.span, "empty replacement"));
    }
    let mut flag = if is_url(replacement) {
        Flag::Redirect(302)
    } else {
        Flag::None
    };
    if let Some(word) = args.get(2) {
        flag = match (&*word.bytes, flag) {
            // A replacement that is a URL redirects, whatever the flag says.
            (b"last" | b"break", Flag::Redirect(status)) => Flag::Redirect(status),
            (b"last", _) => Flag::Last,
            (b"break", _) => Flag::Break,
            (b"redirect", _) => Flag::Redirect(302),
            (b"permanent", _) => Flag::Redirect(301),
            _ => {
                let message = format!("invalid parameter \"{}\"", word.text());
                return Err(ConfigError::at(word.span, message)
                    .help("the flags are last, break, redirect and permanent"));
            }
        };
    }
    scope.rewrite.steps.push(RawStep::Rewrite {
        pattern: pattern.clone(),
        replacement: replacement.clone(),
        flag,
    });
    Ok(())
}

fn read_return(_: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    let code = &node.args()[0];
    let text = node.args().get(1);
    let invalid = || {
        let message = format!("invalid return code \"{}\"", code.text());
        ConfigError::at(code.span, message)
            .help("return takes a status of up to 999 with an optional text or URL, or a URL")
    };
    let digits = !code.bytes.is_empty() && code.bytes.iter().all(u8::is_ascii_digit);
    let (status, text) = if digits {
        let status = code.text().parse().ok().filter(|status| *status <= 999);
        (status.ok_or_else(invalid)?, text)
    } else if text.is_none() && is_url(code) {
        (302, Some(code))
    } else {
        return Err(invalid());
    };
    scope.rewrite.steps.push(RawStep::Return {
        status,
        text: text.cloned(),
    });
    Ok(())
}

fn read_break(_: &mut Reader<'_>, scope: &mut Scope, _: &Node) -> Result<()> {
    scope.rewrite.steps.push(RawStep::Break);
    Ok(())
}

/// Whether a replacement means another place altogether.
fn is_url(word: &Word) -> bool {
    [&b"http://"[..], b"https://", b"$scheme"]
        .iter()
        .any(|prefix| word.bytes.starts_with(prefix))
}

fn compile_steps(
    steps: &[RawStep],
    c: &mut Compiler<'_, '_>,
    children: &[u32],
) -> Result<Box<[Step]>> {
    steps
        .iter()
        .map(|step| compile_step(step, c, children))
        .collect()
}

fn compile_step(step: &RawStep, c: &mut Compiler<'_, '_>, children: &[u32]) -> Result<Step> {
    Ok(match step {
        RawStep::Set { name, value } => Step::Set {
            target: c
                .vars
                .define_set(&crate::vars::variable_name(name)?, name.span)?,
            value: c.template(value)?,
        },
        RawStep::If {
            condition,
            child,
            steps,
        } => Step::If {
            condition: condition.compile(&mut c.vars)?,
            location: child.map(|index| children[index]),
            steps: compile_steps(steps, c, children)?,
        },
        RawStep::Rewrite {
            pattern,
            replacement,
            flag,
        } => Step::Rewrite(Box::new(compile_rewrite(pattern, replacement, *flag, c)?)),
        RawStep::Return { status, text } => Step::Return {
            status: *status,
            text: match text.as_ref().filter(|text| !text.bytes.is_empty()) {
                Some(text) => Some(c.template(text)?),
                // An error has its page; anything below is answered with nothing.
                None => (*status < 400).then(|| Template::constant(b"")),
            },
        },
        RawStep::Break => Step::Break,
    })
}

fn compile_rewrite(
    pattern: &Word,
    replacement: &Word,
    flag: Flag,
    c: &mut Compiler<'_, '_>,
) -> Result<Rewrite> {
    let stripped = replacement.bytes.strip_suffix(b"?");
    let text = stripped.unwrap_or(&replacement.bytes);
    let question = memchr::memchr(b'?', text);
    let redirects = matches!(flag, Flag::Redirect(_));
    let (target, args) = match question {
        Some(at) if !redirects => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    };
    let args = args.map(|args| Template::compile_bytes(args, replacement, &mut c.vars));
    Ok(Rewrite {
        pattern: Pattern::compile(&pattern.bytes, false, pattern.span, &mut c.vars)?,
        source: pattern.bytes.clone(),
        target: Template::compile_bytes(target, replacement, &mut c.vars)?,
        args: args.transpose()?,
        has_args: question.is_some(),
        keep_args: stripped.is_none(),
        flag,
    })
}
