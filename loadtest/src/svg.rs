//! The picture of a comparison: one panel per scenario, one bar per proxy, shorter is better.

use std::fmt::Write;

use crate::report::{Results, Row};
use crate::scenario::Kind;

const WIDTH: usize = 760;
const MARGIN: usize = 20;
const LABEL_WIDTH: usize = 150;
const BAR_HEIGHT: usize = 18;
const BAR_GAP: usize = 4;
const PANEL_GAP: usize = 34;
/// Room for the figure to the right of the longest bar.
const VALUE_WIDTH: usize = 90;
const COLOURS: [&str; 6] = [
    "#0b6e4f", "#5b7db1", "#c98b2b", "#8d6a9f", "#a34f4f", "#6b6b6b",
];

/// Draws the medians. Panels have scales of their own: bars compare within a panel only.
pub fn chart(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 64;
    for row in &results.rows {
        y = add_panel(&mut body, results, row, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" \
         viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"28\" font-size=\"17\" font-weight=\"bold\">\
         CPU time of the proxy per unit of work</text>\n\
         <text x=\"{MARGIN}\" y=\"46\" fill=\"#555\">medians; shorter is better; each panel has \
         its own scale</text>\n{body}</svg>\n"
    )
}

/// Returns where the next panel begins.
fn add_panel(body: &mut String, results: &Results, row: &Row, mut y: usize) -> usize {
    let unit = match row.scenario.kind {
        Kind::Bulk => "µs/MB",
        kind if kind.is_memory() => "bytes",
        _ => "µs",
    };
    let costs: Vec<Option<f64>> = (0..results.labels.len())
        .map(|i| row.median_cost(i))
        .collect();
    let longest = costs
        .iter()
        .flatten()
        .copied()
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH) as f64 / longest;
    let heading = escape(&format!("{}: {}", row.scenario.name, row.scenario.title));
    let _ = writeln!(
        body,
        "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{heading}</text>",
        y + 14
    );
    y += 22;
    for (index, (label, cost)) in results.labels.iter().zip(&costs).enumerate() {
        let Some(cost) = cost else { continue };
        let colour = COLOURS[index % COLOURS.len()];
        let (x, width) = (MARGIN + LABEL_WIDTH, (cost * scale).max(1.0));
        let (text_y, digits) = (y + BAR_HEIGHT - 5, if *cost < 1000.0 { 2 } else { 0 });
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" \
             fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{text_y}\">{cost:.digits$} {unit}</text>",
            x - 8,
            escape(label),
            x as f64 + width + 6.0
        );
        y += BAR_HEIGHT + BAR_GAP;
    }
    y + PANEL_GAP - BAR_GAP
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Sample;
    use crate::scenario::SCENARIOS;

    #[test]
    fn a_bar_per_proxy_that_was_measured() {
        let mut rows: Vec<Row> = SCENARIOS
            .iter()
            .map(|&scenario| Row::new(scenario, 2))
            .collect();
        rows[0].samples[1].push(Sample::Memory {
            bytes_each: 10.0,
            lost: 0,
        });
        let labels = vec!["a<b".to_owned(), "c&d".to_owned()];
        let picture = chart(&Results { labels, rows });
        assert_eq!(picture.matches("fill=\"#5b7db1\"").count(), 1);
        assert_eq!(picture.matches("fill=\"#0b6e4f\"").count(), 0);
        assert!(picture.contains("c&amp;d") && picture.contains("10.00 µs"));
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    }
}
