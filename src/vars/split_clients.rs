//! nginx's `split_clients`: shares of clients for A/B tests, chosen by a hash of a string.

use super::{Compute, Subject, Template, Variables, variable_name};
use crate::base::hash::murmur2;
use crate::config::{ConfigError, Node, Result, Word};

/// A compiled `split_clients` block.
struct Shares<S: 'static> {
    source: Template<S>,
    /// The first hash beyond the share, and the share's value.
    shares: Vec<(u32, Box<[u8]>)>,
    /// The value of `*`.
    rest: Option<Box<[u8]>>,
}

/// Shares are counted in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// Defines the variable of one `split_clients string $variable { … }`.
pub(super) fn define<S: Subject>(node: &Node, variables: &mut Variables<S>) -> Result<()> {
    let [source, name] = node.args() else {
        let message = "invalid number of arguments in \"split_clients\" directive";
        return Err(ConfigError::at(node.span(), message));
    };
    let shares = compile(Template::compile(source, variables)?, node)?;
    variables.define_computed(&variable_name(name)?, name.span, shares)
}

fn compile<S: Subject>(source: Template<S>, node: &Node) -> Result<Shares<S>> {
    let mut shares = Shares {
        source,
        shares: Vec::new(),
        rest: None,
    };
    let (mut total, mut end) = (0, 0);
    for entry in node.children() {
        let [share, value] = &entry.words[..] else {
            let message = "invalid number of the split_clients parameters";
            return Err(ConfigError::at(entry.span(), message)
                .help("an entry is a share and a value: 25% value;"));
        };
        // What stands after `*` would never be chosen.
        if total > WHOLE || shares.rest.is_some() {
            return Err(too_much(share));
        }
        if share.is("*") {
            shares.rest = Some(value.bytes.clone());
            continue;
        }
        let percent = percent(share)?;
        total += percent;
        if total > WHOLE {
            return Err(too_much(share));
        }
        // Each share is rounded down by itself, as in nginx: clients stay where nginx put them.
        end += percent * u64::from(u32::MAX) / WHOLE;
        let end = u32::try_from(end).expect("shares of one whole add up to at most u32::MAX");
        shares.shares.push((end, value.bytes.clone()));
    }
    Ok(shares)
}

fn too_much(share: &Word) -> ConfigError {
    ConfigError::at(share.span, "percent total is greater than 100%")
}

/// `N%` or `N.NN%`, in hundredths of a percent; never zero.
fn percent(word: &Word) -> Result<u64> {
    let parsed = word
        .bytes
        .strip_suffix(b"%")
        .and_then(hundredths)
        .filter(|value| *value > 0);
    parsed.ok_or_else(|| {
        let message = format!("invalid percent value \"{}\"", word.text());
        ConfigError::at(word.span, message).help("shares are written 0.01% to 100%, or *")
    })
}

fn hundredths(digits: &[u8]) -> Option<u64> {
    let dot = digits
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..dot], digits.get(dot + 1..).unwrap_or_default());
    if whole.len() + fraction.len() == 0 || whole.len() > 6 || fraction.len() > 2 {
        return None;
    }
    let padded = fraction.iter().chain(b"00").take(2);
    whole.iter().chain(padded).try_fold(0, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + u64::from(digit - b'0'))
    })
}

impl<S: Subject> Compute<S> for Shares<S> {
    fn compute(&self, subject: &mut S, out: &mut Vec<u8>) -> bool {
        let hash = self.source.with(subject, |_, text| murmur2(text));
        let share = self
            .shares
            .iter()
            .find(|(end, _)| hash < *end)
            .map(|(_, value)| value);
        if let Some(value) = share.or(self.rest.as_ref()) {
            out.extend_from_slice(value);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::{definitions, values};

    #[test]
    fn the_choice_is_that_of_nginx() {
        // Recorded from nginx.
        let text = r#"split_clients $uri $s { 10% a; 0.5% b; 33.33% c; * d; }
            split_clients "x$uri" $u { 50.00% a; 50% b; }"#;
        let keys = [
            "", "a", "ab", "abc", "abcd", "test", "10.0.0.1", "k2", "k9", "k28",
        ];
        let expected = [
            "a|a", "d|a", "b|b", "a|b", "c|b", "a|b", "d|a", "c|a", "a|a", "c|b",
        ];
        assert_eq!(values(text, "$s|$u", &keys), expected);
    }

    #[test]
    fn values_are_plain_text_and_a_missing_share_is_empty() {
        let text = "split_clients $uri $s { 100% $uri; } split_clients $uri $e { }";
        assert_eq!(values(text, "$s|$e", &["x"]), ["$uri|"]);
    }

    #[test]
    fn mistakes_have_the_messages_of_nginx() {
        let invalid = ["50", "0%", "0.001%", "x%", "%", "-1%", "1.2.3%", "5 %"];
        for share in invalid {
            let text = format!("split_clients $uri $s {{ \"{share}\" a; }}");
            let error = definitions(&text).map(drop).expect_err(share);
            assert_eq!(error.message, format!("invalid percent value \"{share}\""));
        }
        for body in ["100.01% a;", "60% a; 60% b;", "* a; 50% b;"] {
            let text = format!("split_clients $uri $s {{ {body} }}");
            let error = definitions(&text).map(drop).expect_err(body);
            assert_eq!(error.message, "percent total is greater than 100%");
        }
        assert!(definitions("split_clients $uri $s { 1.% a; .5% b; 00.50% c; * d; }").is_ok());
    }
}
