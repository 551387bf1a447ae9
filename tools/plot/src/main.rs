//! Draws what the benches measured: `plot FIGURES.tsv DIRECTORY`.
//!
//! The first line of the file is the word `machine`, a tab, and where and when the figures were measured.
//! Each other line is plot, line, place on the horizontal axis, and nanoseconds, with tabs between.
//! Lines keep the order in which they come, and so do places.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const SIZE: (u32, u32) = (760, 440);
const FONT: &str = "sans-serif";
/// Told apart by people who do not see all colours, too.
const COLOURS: [RGBColor; 3] = [
    RGBColor(119, 119, 119),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
];

/// The contents of one plot: for each line its name, and microseconds by place.
struct Figures {
    machine: String,
    places: Vec<String>,
    lines: Vec<(String, Vec<(usize, f64)>)>,
}

impl Figures {
    fn of(plot: &str, text: &str) -> Result<Figures> {
        let mut rows = text.lines();
        let machine = rows.next().and_then(|row| row.strip_prefix("machine\t"));
        let mut figures = Figures {
            machine: machine
                .context("the first line names no machine")?
                .to_owned(),
            places: Vec::new(),
            lines: Vec::new(),
        };
        for row in rows {
            let columns: Vec<&str> = row.split('\t').collect();
            let [of, line, place, nanoseconds] = columns[..] else {
                anyhow::bail!("not four columns: {row:?}");
            };
            if of != plot {
                continue;
            }
            let nanoseconds: f64 = nanoseconds.parse().with_context(|| row.to_owned())?;
            let place = index_of(&mut figures.places, place);
            let known = figures.lines.iter().position(|(name, _)| name == line);
            let at = known.unwrap_or(figures.lines.len());
            if known.is_none() {
                figures.lines.push((line.to_owned(), Vec::new()));
            }
            figures.lines[at].1.push((place, nanoseconds / 1e3));
        }
        ensure!(
            !figures.lines.is_empty(),
            "there are no figures for {plot:?}"
        );
        Ok(figures)
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        let points = self.lines.iter().flat_map(|(_, points)| points);
        points.map(|(_, value)| *value)
    }
}

fn index_of(names: &mut Vec<String>, name: &str) -> usize {
    names
        .iter()
        .position(|known| known == name)
        .unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        })
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [figures, directory] = &arguments[..] else {
        anyhow::bail!("usage: plot FIGURES.tsv DIRECTORY");
    };
    let text = fs::read_to_string(figures).with_context(|| format!("cannot read {figures}"))?;
    let directory = Path::new(directory);
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    bars(
        "A request and its answer, beside the least that two processes can do",
        &Figures::of("round trip", &text)?,
        &directory.join("round_trip.svg"),
    )?;
    lines(
        "Set and clear a record lock at the leader",
        "locks that others hold on the same file",
        &Figures::of("locks", &text)?,
        &directory.join("locks.svg"),
    )?;
    lines(
        "What other members cost, all on one core",
        "members that are connected",
        &Figures::of("members", &text)?,
        &directory.join("members.svg"),
    )
}

/// For each place the lines side by side, with their ratio to the first.
fn bars(title: &str, figures: &Figures, path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = above_the_machine(root, &figures.machine)?;
    let places = figures.places.len();
    let most = figures.values().fold(0.0, f64::max);
    let middles: Vec<i32> = (0..places).map(middle).collect();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 19))
        .margin(14)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (middle(0) - 500..middle(places) - 500).with_key_points(middles),
            0.0..most * 1.45,
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|place| name(&figures.places, *place))
        .y_label_formatter(&|value| short(*value))
        .y_desc("microseconds")
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 14))
        .draw()?;
    let width = 800 / figures.lines.len() as i32;
    let style = (FONT, 13)
        .into_text_style(&root)
        .pos(Pos::new(HPos::Center, VPos::Bottom));
    let first = &figures.lines[0].1;
    for (number, (what, points)) in figures.lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let left = |place: usize| middle(place) - 400 + width * number as i32;
        chart
            .draw_series(points.iter().map(|(place, value)| {
                let from = left(*place);
                Rectangle::new(
                    [(from, 0.0), (from + width * 9 / 10, *value)],
                    colour.filled(),
                )
            }))?
            .label(what)
            .legend(move |at| key(at, colour));
        chart.draw_series(points.iter().map(|(place, value)| {
            let beside = first.iter().find(|(of, _)| of == place);
            let text = match beside.filter(|_| number > 0) {
                Some((_, least)) => format!("{} µs: {:.1} ×", short(*value), value / least),
                None => format!("{} µs", short(*value)),
            };
            let at = (left(*place) + width * 9 / 20, value + most * 0.015);
            Text::new(text, at, style.clone())
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Lines over evenly spaced places; time on a logarithmic axis.
fn lines(title: &str, below: &str, figures: &Figures, path: &Path) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = above_the_machine(root, &figures.machine)?;
    let places = figures.places.len();
    let middles: Vec<i32> = (0..places).map(middle).collect();
    let least = figures
        .values()
        .fold(f64::INFINITY, f64::min)
        .log10()
        .floor();
    let most = figures.values().fold(0.0, f64::max).log10().ceil();
    let powers: Vec<f64> = (least as i32..=most as i32)
        .map(|power| 10_f64.powi(power))
        .collect();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 19))
        .margin(14)
        .x_label_area_size(50)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (middle(0) - 300..middle(places) - 500).with_key_points(middles),
            // Room for the key above the lines.
            (10_f64.powf(least)..10_f64.powf(most + 0.6))
                .log_scale()
                .with_key_points(powers),
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|place| name(&figures.places, *place))
        .y_label_formatter(&|value| short(*value))
        .x_desc(below)
        .y_desc("microseconds, logarithmic")
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 14))
        .draw()?;
    // Figures stand above the line that is on top there, and below others.
    let style = |side| {
        (FONT, 13)
            .into_text_style(&root)
            .pos(Pos::new(HPos::Center, side))
    };
    let is_on_top = |place, value| {
        let mut points = figures.lines.iter().flat_map(|(_, points)| points);
        points.all(|(of, other)| *of != place || *other <= value)
    };
    for (number, (what, points)) in figures.lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let at = points.iter().map(|(place, value)| (middle(*place), *value));
        chart
            .draw_series(LineSeries::new(at.clone(), colour.stroke_width(2)))?
            .label(what)
            .legend(move |at| key(at, colour));
        chart.draw_series(at.map(|at| Circle::new(at, 4, colour.filled())))?;
        chart.draw_series(points.iter().map(|(place, value)| {
            let (side, away) = if is_on_top(*place, *value) {
                (VPos::Bottom, 1.13)
            } else {
                (VPos::Top, 1.0 / 1.13)
            };
            let at = (middle(*place), value * away);
            Text::new(short(*value), at, style(side))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Writes where and when the figures were measured at the bottom, and returns the rest.
fn above_the_machine<'a>(
    root: DrawingArea<SVGBackend<'a>, Shift>,
    machine: &str,
) -> Result<DrawingArea<SVGBackend<'a>, Shift>> {
    let (rest, bottom) = root.split_vertically(SIZE.1 - 20);
    let grey = BLACK.mix(0.6);
    let style = (FONT, 12)
        .into_text_style(&bottom)
        .color(&grey)
        .pos(Pos::new(HPos::Right, VPos::Top));
    let right = i32::try_from(SIZE.0)? - 14;
    bottom.draw(&Text::new(machine.to_owned(), (right, 0), style))?;
    Ok(rest)
}

fn key((x, y): (i32, i32), colour: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled())
}

/// Where a place is on the horizontal axis, which counts in thousandths of their distance.
fn middle(place: usize) -> i32 {
    place as i32 * 1000
}

fn name(places: &[String], at: i32) -> String {
    let place = usize::try_from(at / 1000).ok();
    let name = place.and_then(|place| places.get(place));
    name.map(|name| thousands(name)).unwrap_or_default()
}

/// With as many digits as tell something.
fn short(value: f64) -> String {
    let text = match value {
        ..0.995 => format!("{value:.2}"),
        ..9.95 => format!("{value:.1}"),
        _ => return thousands(&format!("{value:.0}")),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number with its commas; anything else as it is.
fn thousands(digits: &str) -> String {
    if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return digits.to_owned();
    }
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
