//! Curves as SVG for the report: ROC, precision-recall, calibration, remaining life. Scores over time are drawn by
//! `feed/chart`.
//!
//! Colours are CSS variables with a fallback, so that the report's light and dark themes reach into them.

use plotters::element::{Circle, PathElement};
use plotters::prelude::{
    ChartBuilder, IntoDrawingArea, IntoFont, LineSeries, RGBColor, SVGBackend,
};

use crate::feed::chart;

/// Stand-ins that plotters draws with, each replaced by a CSS variable.
const LINE: RGBColor = RGBColor(0xA2, 0, 0x51);
const FLOOR: RGBColor = RGBColor(0xA2, 0, 0x52);
const GRID: RGBColor = RGBColor(0xA2, 0, 0x54);
const TEXT: RGBColor = RGBColor(0xA2, 0, 0x55);
const PAINT: [(&str, &str); 4] = [
    ("\"#A20051\"", "\"var(--chart-line, #1668b8)\""),
    ("\"#A20052\"", "\"var(--chart-threshold, #b45309)\" stroke-dasharray=\"10 8\""),
    ("\"#A20054\"", "\"var(--chart-grid, #d5dbe1)\""),
    ("\"#A20055\"", "\"var(--chart-text, #5b6670)\""),
];
/// Whole pixels only, so drawn larger and shown smaller.
const FINE: u32 = 2;
const WIDTH: u32 = 380;
const HEIGHT: u32 = 300;
/// Most points that can be told apart.
const POINTS: usize = 600;

/// A curve and what is drawn with it.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// What screen readers say.
    pub title: String,
    /// What the axes show.
    pub axes: (String, String),
    /// The points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// What knowing nothing comes to, or perfection, drawn dashed.
    pub beside: Vec<(f64, f64)>,
    /// A point that is in force: the threshold's.
    pub mark: Option<(f64, f64)>,
    /// Whether the points are dots of their own.
    pub dots: bool,
    /// What the axes span.
    pub span: ((f64, f64), (f64, f64)),
}

/// The whole SVG; empty where the drawing library refuses.
pub fn draw(curve: &Curve) -> String {
    let mut svg = String::with_capacity(16 * 1024);
    {
        let backend = SVGBackend::with_string(&mut svg, (WIDTH * FINE, HEIGHT * FINE));
        if let Err(error) = paint(backend, curve) {
            tracing::warn!(curve = curve.title, %error, "cannot be drawn");
            return String::new();
        }
    }
    for (from, to) in PAINT {
        svg = svg.replace(from, to);
    }
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let title = chart::escape(&curve.title);
    let (wide, high) = (WIDTH * FINE, HEIGHT * FINE);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {wide} {high}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{body}"
    )
}

fn paint(backend: SVGBackend<'_>, curve: &Curve) -> Result<(), Box<dyn std::error::Error>> {
    let root = backend.into_drawing_area();
    let ((left, right), (low, high)) = curve.span;
    let mut plot = ChartBuilder::on(&root)
        .margin(8 * FINE)
        .margin_right(20 * FINE)
        .x_label_area_size(38 * FINE)
        .y_label_area_size(52 * FINE)
        .build_cartesian_2d(left..right, low..high)?;
    let label = ("sans-serif", 13 * FINE).into_font().color(&TEXT);
    plot.configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(plotters::style::TRANSPARENT)
        .axis_style(GRID)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| chart::number(*value))
        .y_label_formatter(&|value| chart::number(*value))
        .x_desc(&curve.axes.0)
        .y_desc(&curve.axes.1)
        .axis_desc_style(label.clone())
        .label_style(label)
        .draw()?;
    let beside = thinned(&curve.beside);
    let dashed = plotters::style::ShapeStyle::from(FLOOR).stroke_width(FINE);
    plot.draw_series([PathElement::new(beside, dashed)])?;
    let points = thinned(&curve.points);
    if curve.dots {
        let filled = plotters::style::ShapeStyle::from(LINE).filled();
        plot.draw_series(points.iter().map(|at| Circle::new(*at, 3 * FINE as i32, filled)))?;
    } else {
        let style = plotters::style::ShapeStyle::from(LINE).stroke_width(3 * FINE / 2);
        plot.draw_series(LineSeries::new(points, style))?;
    }
    let mark = curve.mark.map(|at| {
        Circle::new(at, 4 * FINE as i32, plotters::style::ShapeStyle::from(LINE).filled())
    });
    plot.draw_series(mark)?;
    root.present()?;
    Ok(())
}

/// No more points than can be seen, the first and the last among them.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let mut kept: Vec<(f64, f64)> = points.iter().copied().step_by(every).collect();
    if let (Some(last), true) = (points.last(), every > 1) {
        kept.push(*last);
    }
    kept.retain(|(x, y)| x.is_finite() && y.is_finite());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_input_draws_and_no_stand_in_colour_is_left() {
        let whole = ((0.0, 1.0), (0.0, 1.0));
        let many = (0..5000).map(|n| (f64::from(n) / 5000.0, 0.5)).collect();
        for points in [vec![], vec![(0.5, 0.5)], vec![(f64::NAN, 0.0), (0.0, 0.0)], many] {
            for dots in [true, false] {
                let points = points.clone();
                let (title, mark) = ("</title><script>".to_owned(), Some((0.2, 0.2)));
                let beside = vec![(0.0, 0.0), (1.0, 1.0)];
                let curve =
                    Curve { title, points, beside, mark, dots, span: whole, ..Curve::default() };
                let svg = draw(&curve);
                assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
                assert!(!svg.contains("#A2005") && !svg.contains("<script"));
            }
        }
        assert_eq!(thinned(&[(0.0, 0.0), (1.0, 1.0)]).len(), 2);
    }
}
