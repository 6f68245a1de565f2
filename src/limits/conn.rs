//! `limit_conn_zone`, `limit_conn` and what belongs to them: from the directives to the verdict.

use std::fmt;
use std::sync::Arc;

use super::zone::{Held, Refused, Zone};
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word, value};
use crate::inherit;
use crate::observe::Level;
use crate::vars::common::found;
use crate::vars::{Subject, Template, Variables};

/// A block that has limits.
pub trait Limited {
    /// What is written in it.
    fn limit_conn(&mut self) -> &mut Raw;
}

/// The directives that `http` and `stream` have both; `top` is where zones are, `places` where
/// limits may be.
pub const fn rows<S: Limited + 'static>(top: Contexts, places: Contexts) -> [Row<S>; 4] {
    [
        Row::custom("limit_conn_zone", top, Arity::Two, read_zone)
            .doc("A zone in which connections are counted by a key."),
        Row::custom("limit_conn", places, Arity::Two, read_limit)
            .doc("Most connections of one key in a zone at a time."),
        Row::choice("limit_conn_log_level", places, &LEVEL_NAMES, |s: &mut S| {
            &mut s.limit_conn().log_level
        })
        .default("error")
        .doc("Severity of the message about a connection above the limit."),
        Row::flag("limit_conn_dry_run", places, |s: &mut S| {
            &mut s.limit_conn().dry_run
        })
        .default("off")
        .doc("Only says what would be above the limit."),
    ]
}

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    zones: Vec<RawZone>,
    limits: Option<Vec<RawLimit>>,
    log_level: Option<usize>,
    dry_run: Option<bool>,
}

/// A `limit_conn_zone` as it was read.
#[derive(Clone)]
struct RawZone {
    key: Word,
    name: Box<str>,
    bytes: u64,
}

#[derive(Clone)]
struct RawLimit {
    zone: Word,
    max: u16,
}

/// The zones of a configuration.
pub struct Zones<S: 'static>(Vec<Known<S>>);

struct Known<S: 'static> {
    zone: Arc<Zone>,
    key: Template<S>,
    key_text: Box<str>,
}

/// The limits of a block.
pub struct Conf<S: 'static> {
    limits: Vec<Limit<S>>,
    log_level: Level,
    dry_run: bool,
}

struct Limit<S: 'static> {
    zone: Arc<Zone>,
    key: Template<S>,
    /// The key as it is written.
    key_text: Box<str>,
    max: u16,
}

/// What one request or session is counted for, until it is dropped or cleared.
#[derive(Default)]
pub struct Counted {
    verdict: Verdict,
    held: Vec<Held>,
}

/// `$limit_conn_status`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// No limit was asked about.
    #[default]
    None,
    /// Below all limits.
    Passed,
    /// Above a limit.
    Rejected,
    /// Above a limit that does not count yet.
    RejectedDryRun,
}

const LEVEL_NAMES: [&str; 4] = ["info", "notice", "warn", "error"];
const LEVELS: [Level; 4] = [Level::Info, Level::Notice, Level::Warn, Level::Error];

/// Keys above this are not counted, as in nginx.
const KEY_MAX: usize = 255;
/// The smallest zone: nginx's eight pages.
const ZONE_MIN: u64 = 8 * 4096;

impl Raw {
    /// Fills what is not written here from the enclosing block; limits only where there are none.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; limits, log_level, dry_run);
    }

    /// The zones of the top block. `kind` tells those of `http` from those of `stream`.
    ///
    /// # Errors
    /// Names that occur twice, keys that are no values.
    pub fn compile_zones<S: Subject>(
        &self,
        kind: &'static str,
        vars: &mut Variables<S>,
    ) -> Result<Zones<S>> {
        let mut zones = Vec::new();
        for (at, raw) in self.zones.iter().enumerate() {
            if let Some(first) = self.zones[..at].iter().find(|z| z.name == raw.name) {
                let message = format!(
                    "limit_conn_zone \"{}\" is already bound to key \"{}\"",
                    raw.name,
                    first.key.text()
                );
                return Err(ConfigError::at(raw.key.span, message));
            }
            let key = Template::compile(&raw.key, vars)?;
            let zone = Zone::named(kind, &raw.name, &raw.key.text(), raw.bytes);
            zones.push(Known {
                zone,
                key,
                key_text: raw.key.text().into(),
            });
        }
        Ok(Zones(zones))
    }

    /// The limits in force in this block, whose inheritance is settled.
    ///
    /// # Errors
    /// Zones that are not there.
    pub fn compile<S: Subject>(&self, zones: &Zones<S>) -> Result<Conf<S>> {
        let raw = self.limits.as_deref().unwrap_or_default();
        let limits = raw.iter().map(|limit| {
            let name = limit.zone.text();
            let known = zones.0.iter().find(|known| *known.zone.name == *name);
            let known = known.ok_or_else(|| {
                let message = format!("zero size shared memory zone \"{name}\"");
                ConfigError::at(limit.zone.span, message)
                    .help("a limit_conn_zone with this name makes it")
            })?;
            Ok(Limit {
                zone: Arc::clone(&known.zone),
                key: known.key.clone(),
                key_text: known.key_text.clone(),
                max: limit.max,
            })
        });
        Ok(Conf {
            limits: limits.collect::<Result<_>>()?,
            log_level: LEVELS[self.log_level.unwrap_or(3)],
            dry_run: self.dry_run.unwrap_or(false),
        })
    }
}

impl<S> Default for Zones<S> {
    fn default() -> Self {
        Zones(Vec::new())
    }
}

impl<S: Subject> Conf<S> {
    /// Whether there is nothing to count.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Counts the subject for every limit, or for none if it is above one. `log` writes about the
    /// latter to the error log.
    pub fn count(
        &self,
        subject: &mut S,
        counted: &mut Counted,
        log: impl Fn(&mut S, Level, fmt::Arguments<'_>),
    ) -> Verdict {
        counted.clear();
        for limit in &self.limits {
            let result = limit.key.with(subject, |subject, key| match key.len() {
                0 => None,
                1..=KEY_MAX => Some(limit.zone.count(key, limit.max)),
                _ => {
                    let (name, value) = (&limit.key_text, key.escape_ascii());
                    let message = format_args!(
                        "the value of the \"{name}\" key is more than 255 bytes: \"{value}\""
                    );
                    log(subject, Level::Error, message);
                    None
                }
            });
            match result {
                None => continue,
                Some(Ok(held)) => counted.held.push(held),
                Some(Err(reason)) => {
                    counted.clear();
                    self.say(subject, &limit.zone.name, reason, &log);
                    counted.verdict = match self.dry_run {
                        true => Verdict::RejectedDryRun,
                        false => Verdict::Rejected,
                    };
                    return counted.verdict;
                }
            }
            counted.verdict = Verdict::Passed;
        }
        counted.verdict
    }

    fn say(
        &self,
        subject: &mut S,
        zone: &str,
        reason: Refused,
        log: &impl Fn(&mut S, Level, fmt::Arguments<'_>),
    ) {
        let dry = if self.dry_run { ", dry run," } else { "" };
        match reason {
            Refused::Limit => log(
                subject,
                self.log_level,
                format_args!("limiting connections{dry} by zone \"{zone}\""),
            ),
            Refused::Full => log(
                subject,
                Level::Crit,
                format_args!("no memory in limit_conn_zone \"{zone}\""),
            ),
        }
    }
}

impl Counted {
    /// Counts out, keeping the memory.
    pub fn clear(&mut self) {
        self.verdict = Verdict::None;
        self.held.clear();
    }

    /// What the limits said.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

impl Verdict {
    /// Appends it as `$limit_conn_status` shows it; false if there is nothing to show.
    pub fn write(self, out: &mut Vec<u8>) -> bool {
        let name: &[u8] = match self {
            Verdict::None => return false,
            Verdict::Passed => b"PASSED",
            Verdict::Rejected => b"REJECTED",
            Verdict::RejectedDryRun => b"REJECTED_DRY_RUN",
        };
        found(out, name)
    }
}

fn read_zone<S: Limited>(_: &mut Reader, scope: &mut S, node: &Node) -> Result<()> {
    let [key, zone] = node.args() else {
        return Err(value::invalid_value(node));
    };
    let Some(text) = zone.strip("zone=") else {
        return Err(value::invalid_parameter(zone));
    };
    let invalid = || {
        let message = format!("invalid zone size \"{}\"", zone.text());
        ConfigError::at(zone.span, message)
    };
    let colon = memchr::memchr(b':', text).ok_or_else(invalid)?;
    let bytes = value::parse_size(&text[colon + 1..]).ok_or_else(invalid)?;
    let name = String::from_utf8_lossy(&text[..colon]);
    if name.is_empty() {
        let message = "\"limit_conn_zone\" must have \"zone\" parameter";
        return Err(ConfigError::at(node.span(), message));
    }
    if bytes < ZONE_MIN {
        let message = format!("zone \"{}\" is too small", zone.text());
        return Err(ConfigError::at(zone.span, message));
    }
    scope.limit_conn().zones.push(RawZone {
        key: key.clone(),
        name: name.into(),
        bytes,
    });
    Ok(())
}

fn read_limit<S: Limited>(_: &mut Reader, scope: &mut S, node: &Node) -> Result<()> {
    let [zone, max] = node.args() else {
        return Err(value::invalid_value(node));
    };
    let number = value::parse_number(&max.bytes).filter(|n| *n > 0);
    let number = number.ok_or_else(|| {
        let message = format!("invalid number of connections \"{}\"", max.text());
        ConfigError::at(max.span, message)
    })?;
    let max = u16::try_from(number)
        .map_err(|_| ConfigError::at(max.span, "connection limit must be less 65536"))?;
    let limits = scope.limit_conn().limits.get_or_insert_default();
    if limits.iter().any(|limit| limit.zone.bytes == zone.bytes) {
        return Err(value::duplicate(node));
    }
    limits.push(RawLimit {
        zone: zone.clone(),
        max,
    });
    Ok(())
}
