//! The nearest known name to a mistyped one.

/// The candidate closest to `name`, if one is close enough to be meant: up to a third of the name's
/// length in edits (insert, delete, replace, swap of neighbours), at least one. Of equally
/// close ones the first by alphabet.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.len() / 3).clamp(1, 4);
    let near = candidates.filter(|candidate| candidate.len().abs_diff(name.len()) <= limit);
    let rated = near.map(|candidate| (distance(name, candidate), candidate));
    rated
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance, by bytes, case ignored.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let width = b.len() + 1;
    let mut table = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let here = if i == 0 || j == 0 {
                i.max(j)
            } else {
                let replace = usize::from(a[i - 1] != b[j - 1]);
                let edits = (table[(i - 1) * width + j] + 1)
                    .min(table[i * width + j - 1] + 1)
                    .min(table[(i - 1) * width + j - 1] + replace);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped {
                    edits.min(table[(i - 2) * width + j - 2] + 1)
                } else {
                    edits
                }
            };
            table[i * width + j] = here;
        }
    }
    table[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["listen", "location", "proxy_pass", "server_name", "root"];
        let nearest = |name| nearest(name, names.into_iter());
        assert_eq!(nearest("proxy_apss"), Some("proxy_pass"));
        assert_eq!(nearest("servername"), Some("server_name"));
        assert_eq!(nearest("Listen"), Some("listen"));
        assert_eq!(nearest("lcation"), Some("location"));
        assert_eq!(nearest("pagespeed"), None);
        assert_eq!(nearest("x"), None);
        assert_eq!(nearest(""), None);
    }
}
