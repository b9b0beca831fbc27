//! Charts as SVG, drawn on the node: a score over time, its threshold, and when alarms were on.
//!
//! `api` asks for one at a time. Colours are CSS variables with a fallback, so that the page's light and dark themes
//! reach into the chart; text is left to the reader's own fonts. All text from outside is escaped.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::prelude::{
    AreaSeries, Cartesian2d, ChartBuilder, ChartContext, Color, DrawingArea, IntoDrawingArea,
    IntoFont, LineSeries, RGBColor, SVGBackend,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::feed::history::Point;
use crate::time::{Span, Timestamp};

/// Stand-ins that plotters draws with, each replaced by a CSS variable.
pub(crate) const LINE: RGBColor = RGBColor(0xA1, 0, 0x51);
pub(crate) const THRESHOLD: RGBColor = RGBColor(0xA1, 0, 0x52);
const ALARM: RGBColor = RGBColor(0xA1, 0, 0x53);
pub(crate) const GRID: RGBColor = RGBColor(0xA1, 0, 0x54);
pub(crate) const TEXT: RGBColor = RGBColor(0xA1, 0, 0x55);
const PAINT: [(&str, &str); 5] = [
    ("\"#A10051\"", "\"var(--chart-line, #1668b8)\""),
    ("\"#A10052\"", "\"var(--chart-threshold, #b45309)\" stroke-dasharray=\"10 8\""),
    ("\"#A10053\"", "\"var(--chart-alarm, #c62828)\""),
    ("\"#A10054\"", "\"var(--chart-grid, #d5dbe1)\""),
    ("\"#A10055\"", "\"var(--chart-text, #5b6670)\""),
];
/// plotters knows whole pixels only; drawn this much larger, lines come out smooth.
pub(crate) const FINE: u32 = 2;
/// Steps of the time axis, in seconds.
const STEPS: [i64; 20] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
    604_800, 2_592_000,
];

/// How a chart is drawn.
#[derive(Clone, Copy, Debug)]
pub struct ChartSpec {
    /// Pixels.
    pub width: u32,
    /// Pixels; below 100 the axes are left out.
    pub height: u32,
    /// Added to UTC for the labels of the time axis: the reader's time zone.
    pub offset: Span,
}

/// A time during which an alarm was on; open at its end while it still is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlarmSpan {
    /// Raised.
    pub from: Timestamp,
    /// Cleared.
    pub to: Option<Timestamp>,
}

/// Why a chart could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// The drawing library refused.
    #[error("chart of {width} by {height} pixels cannot be drawn: {reason}; ask for another size")]
    Draw {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// What it said.
        reason: String,
    },
}

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
pub(crate) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The whole SVG. `title` is what screen readers say.
pub fn draw(
    points: &[Point],
    alarms: &[AlarmSpan],
    title: &str,
    spec: ChartSpec,
) -> Result<String, ChartError> {
    let points = thin(points, spec.width as usize);
    let frame = Frame::around(&points);
    let ChartSpec { width, height, .. } = spec;
    svg((width, height), title, |root| paint(root, &points, alarms, &frame, spec))
        .map_err(|e| ChartError::Draw { width, height, reason: e.to_string() })
}

/// An SVG of this size, with what `paint` draws on a surface that is [`FINE`] times as large.
pub(crate) fn svg(
    (width, height): (u32, u32),
    title: &str,
    paint: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, Box<dyn std::error::Error>> {
    let (wide, high) = (width * FINE, height * FINE);
    let mut svg = String::with_capacity(16 * 1024);
    paint(&SVGBackend::with_string(&mut svg, (wide, high)).into_drawing_area())?;
    for (from, to) in PAINT {
        svg = svg.replace(from, to);
    }
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let title = escape(title);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {wide} {high}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{body}"
    ))
}

/// What the axes span.
struct Frame {
    from: f64,
    to: f64,
    low: f64,
    high: f64,
}

impl Frame {
    fn around(points: &[Point]) -> Frame {
        let seconds = |p: &Point| p.at.0 as f64 / 1e6;
        let to = points.last().map_or(60.0, seconds);
        let from = points.first().map_or(0.0, seconds).min(to - 10.0);
        let values = points.iter().flat_map(|p| [p.value, p.threshold]).flatten().map(tame);
        let (mut low, mut high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // Scores start at nought, so that half as high means half as bad; features fill the space.
        if points.iter().any(|p| p.threshold.is_some()) {
            low = low.min(0.0);
        }
        let pad = ((high - low) * 0.08).max(low.abs().max(high.abs()) * 1e-6).max(1e-9);
        Frame { from, to, low: if low == 0.0 { 0.0 } else { low - pad }, high: high + pad }
    }
}

/// Beyond this the axis' arithmetic has no digits left.
fn tame(value: f64) -> f64 {
    value.clamp(-1e15, 1e15)
}

fn paint<'a>(
    root: &Area<'a>,
    points: &[Point],
    alarms: &[AlarmSpan],
    frame: &Frame,
    spec: ChartSpec,
) -> Drawn {
    let axes = spec.height >= 100;
    let mut plot: Plot<'a> = ChartBuilder::on(root)
        .margin_top(4 * FINE)
        .margin_right(if axes { 12 * FINE } else { 4 * FINE })
        .y_label_area_size(if axes { 46 * FINE } else { 0 })
        .x_label_area_size(if axes { 22 * FINE } else { 2 * FINE })
        .build_cartesian_2d(frame.from..frame.to, frame.low..frame.high)?;
    for span in alarms {
        let at = |t: Timestamp| (t.0 as f64 / 1e6).clamp(frame.from, frame.to);
        let (from, to) = (at(span.from), span.to.map_or(frame.to, at));
        if from < to {
            let corners = [(from, frame.low), (to, frame.high)];
            plot.draw_series([Rectangle::new(corners, ALARM.mix(0.16).filled())])?;
        }
    }
    if axes {
        value_axis(&mut plot)?;
        time_axis(root, &plot, frame, spec)?;
    }
    for piece in pieces(points, |p| p.threshold) {
        plot.draw_series([PathElement::new(piece, THRESHOLD.stroke_width(FINE))])?;
    }
    for piece in pieces(points, |p| p.value) {
        if let [lone] = piece[..] {
            plot.draw_series([Circle::new(lone, 2 * FINE, LINE.filled())])?;
            continue;
        }
        let area = piece.iter().copied();
        plot.draw_series(AreaSeries::new(area, frame.low, LINE.mix(0.12)))?;
        plot.draw_series(LineSeries::new(piece, LINE.stroke_width(3 * FINE / 2)))?;
    }
    let last = points.last().and_then(|p| Some((p.at.0 as f64 / 1e6, tame(p.value?))));
    plot.draw_series(last.map(|last| Circle::new(last, 2 * FINE + 1, LINE.filled())))?;
    root.present()?;
    Ok(())
}

fn value_axis(plot: &mut Plot<'_>) -> Drawn {
    plot.configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_labels(5)
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(GRID)
        .y_label_formatter(&|v| number(*v))
        .label_style(("sans-serif", 14 * FINE).into_font().color(&TEXT))
        .draw()?;
    Ok(())
}

fn time_axis(root: &Area<'_>, plot: &Plot<'_>, frame: &Frame, spec: ChartSpec) -> Drawn {
    let room = i64::from(spec.width.saturating_sub(58) / 84).max(1);
    let span = (frame.to - frame.from) as i64;
    let step = STEPS.iter().copied().find(|step| span / step < room).unwrap_or(span.max(1));
    let offset = spec.offset.0 / 1_000_000;
    let style = ("sans-serif", 14 * FINE).into_font().color(&TEXT);
    let style = style.pos(Pos::new(HPos::Center, VPos::Top));
    let first = ((frame.from as i64 + offset).div_euclid(step) + 1) * step;
    // As many as there is room for, and one: the step was chosen so.
    for n in 0..=room {
        let local = first + n * step;
        let at = (local - offset) as f64;
        if at > frame.to {
            break;
        }
        let (x, y) = plot.backend_coord(&(at, frame.low));
        let (_, top) = plot.backend_coord(&(at, frame.high));
        root.draw(&PathElement::new([(x, top), (x, y)], GRID))?;
        root.draw(&Text::new(clock(local, step), (x, y + 5 * FINE as i32), style.clone()))?;
    }
    Ok(())
}

/// Time of day, with seconds only where labels are less than a minute apart, or the date where they are a day apart.
fn clock(seconds: i64, step: i64) -> String {
    let Ok(at) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    let format = match step {
        ..60 => "%H:%M:%S",
        60..86_400 => "%H:%M",
        _ => "%b %d",
    };
    at.strftime(format).to_string()
}

/// A number short enough for an axis.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        "0".into()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{value:.1e}")
    } else {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 5) as usize;
        let text = format!("{value:.digits$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').into()
        } else {
            text
        }
    }
}

/// The line's pieces: it breaks where a value is missing, and across a gap in time.
fn pieces(points: &[Point], of: impl Fn(&Point) -> Option<f64>) -> Vec<Vec<(f64, f64)>> {
    let mut steps: Vec<i64> = points.windows(2).map(|w| w[1].at.0 - w[0].at.0).collect();
    steps.sort_unstable();
    let usual = steps.get(steps.len() / 2).copied().unwrap_or(0);
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut last: Option<Timestamp> = None;
    for point in points {
        let Some(value) = of(point) else {
            last = None;
            continue;
        };
        let here = (point.at.0 as f64 / 1e6, tame(value));
        match (last, pieces.last_mut()) {
            (Some(before), Some(piece)) if point.at.0 - before.0 <= 3 * usual => piece.push(here),
            _ => pieces.push(vec![here]),
        }
        last = Some(point.at);
    }
    pieces
}

/// In order of time, and no more points than can be seen: of each bunch the largest, because peaks are what matters.
fn thin(points: &[Point], width: usize) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by_key(|p| p.at);
    let bunch = sorted.len().div_ceil(2 * width.max(1)).max(1);
    let peak = |bunch: &[Point]| {
        bunch
            .iter()
            .copied()
            .max_by(|a, b| a.value.partial_cmp(&b.value).unwrap_or(std::cmp::Ordering::Equal))
    };
    sorted.chunks(bunch).filter_map(peak).collect()
}

/// Text that XML takes, whatever it was.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: i64, value: Option<f64>) -> Point {
        Point { at: Timestamp(second * 1_000_000), value, threshold: Some(0.9) }
    }

    const SPEC: ChartSpec = ChartSpec { width: 600, height: 240, offset: Span::ZERO };

    #[test]
    fn the_line_breaks_at_nulls_and_gaps() {
        let mut points: Vec<Point> = (0..10).map(|n| point(10 * n, Some(n as f64))).collect();
        points[4].value = None;
        points.push(point(500, Some(1.0)));
        let lengths: Vec<usize> = pieces(&points, |p| p.value).iter().map(Vec::len).collect();
        assert_eq!(lengths, [4, 5, 1]);
    }

    #[test]
    fn a_peak_survives_thinning() {
        let points: Vec<Point> =
            (0..5000).map(|n| point(n, Some(if n == 3333 { 9.0 } else { 0.1 }))).collect();
        let thinned = thin(&points, 100);
        assert!(thinned.len() <= 200);
        assert!(thinned.iter().any(|p| p.value == Some(9.0)));
    }

    #[test]
    fn every_shape_of_input_draws_and_no_stand_in_colour_is_left() {
        let far = |v: f64| vec![point(0, Some(v)), point(10, Some(v)), point(20, Some(-v))];
        let cases: [Vec<Point>; 7] = [
            vec![],
            vec![point(5, Some(0.5))],
            vec![point(5, None), point(6, None)],
            far(0.0),
            far(f64::MAX),
            far(1e-300),
            far(12_345.678),
        ];
        for (index, points) in cases.iter().enumerate() {
            for (width, height) in [(40, 20), (600, 240), (2000, 100)] {
                let spec = ChartSpec { width, height, offset: Span::seconds(7200) };
                let span = AlarmSpan { from: Timestamp(0), to: None };
                let svg = draw(points, &[span], "t", spec).unwrap();
                assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{index}");
                assert!(!svg.contains("#A1005"), "{index}");
                assert!(!svg.contains("NaN"), "{index}");
            }
        }
    }

    #[test]
    fn labels_are_in_the_readers_time() {
        let points: Vec<Point> = (0..7).map(|n| point(600 * n, Some(0.5))).collect();
        let spec = ChartSpec { offset: Span::seconds(5 * 3600 + 1800), ..SPEC };
        let svg = draw(&points, &[], "t", spec).unwrap();
        assert!(svg.contains("06:00"), "{svg}");
        assert_eq!(clock(3661, 30), "01:01:01");
        assert_eq!(clock(86_400, 86_400), "Jan 02");
    }

    #[test]
    fn titles_cannot_break_out() {
        let svg = draw(&[], &[], "</title><script>\u{1}'\"", SPEC).unwrap();
        assert!(!svg.contains("<script") && !svg.contains('\u{1}'));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.5, "0.5"), (1234.0, "1234"), (0.012, "0.012"), (2.5e7, "2.5e7")]
        {
            assert_eq!(number(value), text);
        }
    }
}
