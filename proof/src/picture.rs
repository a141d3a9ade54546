//! Ratios as bars, in SVG: the pictures of `docs/benchmarks.md`.

use std::fmt::Write;

const LEFT: f64 = 190.0;
const WIDTH: f64 = 520.0;
const ROW: f64 = 14.0;
const MOST: f64 = 9.0;
const COLORS: [&str; 6] = [
    "#4269d0", "#efb118", "#3ca951", "#9c6b4e", "#97bbf5", "#ff725c",
];

/// Draws a bar for each ratio of each group. The ratios of a group are in the order of
/// `series`, which has at most six names.
pub fn bars(title: &str, series: &[&str], groups: &[(String, Vec<f64>)]) -> String {
    // One very long bar would leave no room for the others. Such a bar is cut, and
    // its label shows the full ratio.
    let ratios = groups.iter().flat_map(|(_, ratios)| ratios);
    let most = ratios.copied().fold(2.0, f64::max).ceil().min(MOST);
    let scale = WIDTH / most;
    let number = |count: usize| f64::from(u32::try_from(count).expect("a small number"));
    let group = ROW * number(series.len()) + 18.0;
    let count = number(groups.len());
    let height = 70.0 + group * count + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>{title}</title>\n\
         <rect width=\"760\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\">{title}</text>\n"
    );
    for (at, name) in series.iter().enumerate() {
        let x = LEFT + 100.0 * number(at);
        let color = COLORS[at];
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"46\">{name}</text>",
            x + 16.0
        )
        .expect("a string takes everything");
    }
    let bottom = 62.0 + group * count;
    let mut line = 0.0;
    while line <= most {
        let x = LEFT + line * scale;
        writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"58\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{line}</text>",
            bottom + 16.0
        )
        .expect("a string takes everything");
        line += 1.0;
    }
    let mut y = 66.0;
    for (label, ratios) in groups {
        let middle = y + ROW * number(series.len()) / 2.0 + 4.0;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0
        )
        .expect("a string takes everything");
        for (ratio, color) in ratios.iter().zip(COLORS) {
            let width = ratio.min(most) * scale;
            writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{ratio:.2}</text>",
                ROW - 2.0,
                LEFT + width + 4.0,
                y + ROW - 4.0
            )
            .expect("a string takes everything");
            y += ROW;
        }
        y += 18.0;
    }
    svg.push_str("</svg>\n");
    svg
}
