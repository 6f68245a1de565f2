//! Command-line words: `--name value`, `--name=value`, `--switch` and positional ones.

use std::str::FromStr;
use std::time::Duration;

/// The words of one command, checked against the names it knows.
#[derive(Debug, Default)]
pub struct Args {
    values: Vec<(String, String)>,
    switches: Vec<String>,
    positional: Vec<String>,
}

impl Args {
    /// Sorts `words`; `options` take a value, `switches` do not, names are given without dashes.
    ///
    /// # Errors
    /// A message for the user when a name is unknown or its value is missing.
    pub fn parse(words: &[String], options: &[&str], switches: &[&str]) -> Result<Self, String> {
        let mut args = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                args.positional.push(word.clone());
                continue;
            };
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            if switches.contains(&name) && inline.is_none() {
                args.switches.push(name.to_owned());
            } else if options.contains(&name) {
                let value = inline
                    .or_else(|| words.next().cloned())
                    .ok_or_else(|| format!("--{name} needs a value"))?;
                args.values.push((name.to_owned(), value));
            } else {
                return Err(format!("unknown option \"{word}\""));
            }
        }
        Ok(args)
    }

    /// Whether the switch was given.
    pub fn has(&self, switch: &str) -> bool {
        self.switches.iter().any(|given| given == switch)
    }

    /// Every value given for `option`, in order.
    pub fn all(&self, option: &str) -> Vec<&str> {
        self.values
            .iter()
            .filter(|(name, _)| name == option)
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// The last value given for `option`, parsed.
    ///
    /// # Errors
    /// A message for the user when it does not parse.
    pub fn get<T: FromStr>(&self, option: &str) -> Result<Option<T>, String> {
        let Some(value) = self.all(option).last().copied() else {
            return Ok(None);
        };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(_) => Err(format!("invalid value \"{value}\" of --{option}")),
        }
    }

    /// The value of `option` as a length of time in seconds, fractions allowed.
    ///
    /// # Errors
    /// A message for the user when it is not a number from 0 to 86,400.
    pub fn seconds(&self, option: &str, default: f64) -> Result<Duration, String> {
        let seconds = self.get(option)?.unwrap_or(default);
        if !(0.0..=86_400.0).contains(&seconds) {
            return Err(format!("--{option} must be from 0 to 86400 seconds"));
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    /// The only positional word, called `what` in the message when it is missing.
    ///
    /// # Errors
    /// A message for the user when there is none or more than one.
    pub fn one(&self, what: &str) -> Result<&str, String> {
        match self.positional.as_slice() {
            [word] => Ok(word),
            [] => Err(format!("{what} is missing")),
            [_, extra, ..] => Err(format!("unexpected word \"{extra}\"")),
        }
    }

    /// Refuses positional words, for commands that take none.
    ///
    /// # Errors
    /// A message for the user that names the first of them.
    pub fn none(&self) -> Result<(), String> {
        match self.positional.first() {
            None => Ok(()),
            Some(word) => Err(format!("unexpected word \"{word}\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Args::parse(&words, &["rate", "listen"], &["check"])
    }

    #[test]
    fn sorts_options_switches_and_words() {
        let args = parse("http://a --rate 10 --check --listen=x --listen y").unwrap();
        assert_eq!(args.one("URL"), Ok("http://a"));
        assert_eq!(args.get("rate"), Ok(Some(10)));
        assert!(args.has("check"));
        assert_eq!(args.all("listen"), ["x", "y"]);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(parse("--raet 1").unwrap_err(), "unknown option \"--raet\"");
        assert_eq!(parse("--rate").unwrap_err(), "--rate needs a value");
        assert_eq!(
            parse("--check=1").unwrap_err(),
            "unknown option \"--check=1\""
        );
        assert!(parse("--rate many").unwrap().get::<u32>("rate").is_err());
        assert!(parse("--rate -1").unwrap().seconds("rate", 1.0).is_err());
        assert!(parse("a b").unwrap().one("URL").is_err());
        assert!(parse("a").unwrap().none().is_err());
    }
}
