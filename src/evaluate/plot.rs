//! Curves as SVG for the report: ROC, precision-recall, calibration, remaining life. Scores over time are drawn by
//! `feed/chart`.
//!
//! Colours are CSS variables with a fallback, so that the report's light and dark themes reach into them.

use plotters::element::{Circle, PathElement};
use plotters::prelude::{ChartBuilder, IntoFont, LineSeries};

use crate::feed::chart::{self, Area, Drawn, FINE, GRID, LINE, TEXT, THRESHOLD};

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
    let drawn = chart::svg((WIDTH, HEIGHT), &curve.title, |root| paint(root, curve));
    drawn.unwrap_or_else(|error| {
        tracing::warn!(curve = curve.title, %error, "cannot be drawn");
        String::new()
    })
}

fn paint(root: &Area<'_>, curve: &Curve) -> Drawn {
    let ((left, right), (low, high)) = curve.span;
    let mut plot = ChartBuilder::on(root)
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
    let dashed = plotters::style::ShapeStyle::from(THRESHOLD).stroke_width(FINE);
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
                assert!(!svg.contains("#A1005") && !svg.contains("<script"));
            }
        }
        assert_eq!(thinned(&[(0.0, 0.0), (1.0, 1.0)]).len(), 2);
    }
}
