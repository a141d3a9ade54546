//! This module draws the figures as bars, in SVG.

use std::fmt::Write;

use crate::{Figures, OPERATIONS};

const LEFT: f64 = 190.0;
const WIDTH: f64 = 520.0;
const ROW: f64 = 14.0;
const MOST: f64 = 9.0;
const COLORS: [&str; 4] = ["#4269d0", "#efb118", "#3ca951", "#9c6b4e"];

pub(crate) fn draw(figures: &[Figures]) -> String {
    // One very long bar would leave no room for the others. Such a bar is cut, and
    // its label shows the full ratio.
    let most = figures
        .iter()
        .flat_map(|one| one.ratios)
        .fold(4.0, f64::max)
        .ceil()
        .min(MOST);
    let scale = WIDTH / most;
    let group = ROW * 4.0 + 18.0;
    let count = f64::from(u32::try_from(figures.len()).unwrap());
    let height = 70.0 + group * count + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Store operations as multiples of the engine's no-op round trip</title>\n\
         <rect width=\"760\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\">Store operations as multiples of the engine's \
         no-op round trip (1 = PING, SELECT 1)</text>\n"
    );
    for (at, operation) in OPERATIONS.iter().enumerate() {
        let x = LEFT + 100.0 * f64::from(u32::try_from(at).unwrap());
        let color = COLORS[at];
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"46\">{operation}</text>",
            x + 16.0
        )
        .unwrap();
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
        .unwrap();
        line += 1.0;
    }
    let mut y = 66.0;
    for one in figures {
        let label = format!("{}, {} at a time", one.engine, one.at_once);
        let middle = y + ROW * 2.0 + 4.0;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0
        )
        .unwrap();
        for (ratio, color) in one.ratios.iter().zip(COLORS) {
            let width = ratio.min(most) * scale;
            writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{ratio:.2}</text>",
                ROW - 2.0,
                LEFT + width + 4.0,
                y + ROW - 4.0
            )
            .unwrap();
            y += ROW;
        }
        y += 18.0;
    }
    svg.push_str("</svg>\n");
    svg
}
