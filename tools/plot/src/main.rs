//! Draws what the benches measured: `plot FIGURES.tsv DIRECTORY`.
//!
//! The first row of the file is the word `machine`, a tab, and where and when the figures were measured.
//! Each other row has the plot, its line, the tick on the horizontal axis, and nanoseconds, with tabs between.
//! The lines and the ticks of a plot are in the order of their first rows.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The width and the height of a picture, in pixels.
const SIZE: (u32, u32) = (760, 440);
const FONT: &str = "sans-serif";
/// The colours of lines. People who do not see all colours can distinguish them, too.
const COLOURS: [RGBColor; 3] = [
    RGBColor(119, 119, 119),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
];

/// A line of a plot.
struct Line {
    name: String,
    /// The index of the tick, and microseconds.
    points: Vec<(usize, f64)>,
}

/// The contents of one plot.
struct Figures {
    /// Where and when the figures were measured.
    machine: String,
    /// The names of the ticks on the horizontal axis.
    ticks: Vec<String>,
    lines: Vec<Line>,
}

impl Figures {
    /// Reads the figures of a plot from the text of the file.
    fn of(plot: &str, text: &str) -> Result<Figures> {
        let mut rows = text.lines();
        let machine = rows.next().and_then(|row| row.strip_prefix("machine\t"));
        let mut figures = Figures {
            machine: machine
                .context("the first line names no machine")?
                .to_owned(),
            ticks: Vec::new(),
            lines: Vec::new(),
        };
        for row in rows {
            let columns: Vec<&str> = row.split('\t').collect();
            let [plot_of_row, line, tick, nanoseconds] = columns[..] else {
                anyhow::bail!("not four columns: {row:?}");
            };
            if plot_of_row != plot {
                continue;
            }
            let nanoseconds: f64 = nanoseconds.parse().with_context(|| row.to_owned())?;
            let tick = figures.tick_index(tick);
            figures.line(line).points.push((tick, nanoseconds / 1e3));
        }
        ensure!(
            !figures.lines.is_empty(),
            "there are no figures for {plot:?}"
        );
        Ok(figures)
    }

    /// Returns the index of a tick, and adds the tick if it is new.
    fn tick_index(&mut self, name: &str) -> usize {
        let known = self.ticks.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.ticks.push(name.to_owned());
            self.ticks.len() - 1
        })
    }

    /// Returns the line of that name, and adds it if it is new.
    fn line(&mut self, name: &str) -> &mut Line {
        let known = self.lines.iter().position(|known| known.name == name);
        let index = known.unwrap_or_else(|| {
            self.lines.push(Line {
                name: name.to_owned(),
                points: Vec::new(),
            });
            self.lines.len() - 1
        });
        &mut self.lines[index]
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        let points = self.lines.iter().flat_map(|line| &line.points);
        points.map(|(_, value)| *value)
    }

    fn greatest(&self) -> f64 {
        self.values().fold(0.0, f64::max)
    }

    fn least(&self) -> f64 {
        self.values().fold(f64::INFINITY, f64::min)
    }

    /// Returns the places of the ticks on the horizontal axis.
    fn tick_places(&self) -> Vec<i32> {
        (0..self.ticks.len()).map(tick_place).collect()
    }
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
    draw_bars(
        "A request and its answer, beside the least that two processes can do",
        &Figures::of("round trip", &text)?,
        &directory.join("round_trip.svg"),
    )?;
    draw_lines(
        "Set and clear a record lock at the leader",
        "locks that others hold on the same file",
        &Figures::of("locks", &text)?,
        &directory.join("locks.svg"),
    )?;
    draw_lines(
        "What other members cost, all on one core",
        "members that are connected",
        &Figures::of("members", &text)?,
        &directory.join("members.svg"),
    )
}

/// Draws bars: at each tick those of all lines, side by side, with their ratio to the first.
fn draw_bars(title: &str, figures: &Figures, path: &Path) -> Result<()> {
    let root = picture(path, &figures.machine)?;
    let greatest = figures.greatest();
    let end = tick_place(figures.ticks.len()) - 500;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 19))
        .margin(14)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (tick_place(0) - 500..end).with_key_points(figures.tick_places()),
            0.0..greatest * 1.45,
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|place| tick_name(&figures.ticks, *place))
        .y_label_formatter(&|value| short(*value))
        .y_desc("microseconds")
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 14))
        .draw()?;
    let width = 800 / figures.lines.len() as i32;
    let style = (FONT, 13)
        .into_text_style(&root)
        .pos(Pos::new(HPos::Center, VPos::Bottom));
    let first = &figures.lines[0].points;
    for (number, Line { name, points }) in figures.lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let left = |tick: usize| tick_place(tick) - 400 + width * number as i32;
        chart
            .draw_series(points.iter().map(|(tick, value)| {
                let left = left(*tick);
                let corners = [(left, 0.0), (left + width * 9 / 10, *value)];
                Rectangle::new(corners, colour.filled())
            }))?
            .label(name)
            .legend(move |at| legend_mark(at, colour));
        chart.draw_series(points.iter().map(|(tick, value)| {
            let beside = first.iter().find(|(first_tick, _)| first_tick == tick);
            let text = match beside.filter(|_| number > 0) {
                Some((_, beside)) => format!("{} µs: {:.1} ×", short(*value), value / beside),
                None => format!("{} µs", short(*value)),
            };
            let place = (left(*tick) + width * 9 / 20, value + greatest * 0.015);
            Text::new(text, place, style.clone())
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

/// Draws lines over evenly spaced ticks. The time is on a logarithmic axis.
fn draw_lines(title: &str, axis_name: &str, figures: &Figures, path: &Path) -> Result<()> {
    let root = picture(path, &figures.machine)?;
    let end = tick_place(figures.ticks.len()) - 500;
    let least_power = figures.least().log10().floor();
    let greatest_power = figures.greatest().log10().ceil();
    let powers: Vec<f64> = (least_power as i32..=greatest_power as i32)
        .map(|power| 10_f64.powi(power))
        .collect();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 19))
        .margin(14)
        .x_label_area_size(50)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (tick_place(0) - 300..end).with_key_points(figures.tick_places()),
            // The legend is above the lines.
            (10_f64.powf(least_power)..10_f64.powf(greatest_power + 0.6))
                .log_scale()
                .with_key_points(powers),
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|place| tick_name(&figures.ticks, *place))
        .y_label_formatter(&|value| short(*value))
        .x_desc(axis_name)
        .y_desc("microseconds, logarithmic")
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 14))
        .draw()?;
    // The value of a point is above the point if its line is the uppermost at that tick, and else below.
    let style = |side| {
        (FONT, 13)
            .into_text_style(&root)
            .pos(Pos::new(HPos::Center, side))
    };
    let is_uppermost = |tick, value| {
        let mut points = figures.lines.iter().flat_map(|line| &line.points);
        points.all(|(other_tick, other)| *other_tick != tick || *other <= value)
    };
    for (number, Line { name, points }) in figures.lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let places = points
            .iter()
            .map(|(tick, value)| (tick_place(*tick), *value));
        chart
            .draw_series(LineSeries::new(places.clone(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |at| legend_mark(at, colour));
        chart.draw_series(places.map(|place| Circle::new(place, 4, colour.filled())))?;
        chart.draw_series(points.iter().map(|(tick, value)| {
            let (side, factor) = if is_uppermost(*tick, *value) {
                (VPos::Bottom, 1.13)
            } else {
                (VPos::Top, 1.0 / 1.13)
            };
            let place = (tick_place(*tick), value * factor);
            Text::new(short(*value), place, style(side))
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

/// Begins a picture, with `machine` at its bottom, and returns the area above that.
fn picture<'p>(path: &'p Path, machine: &str) -> Result<DrawingArea<SVGBackend<'p>, Shift>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
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

/// Returns the mark of a line in the legend.
fn legend_mark((x, y): (i32, i32), colour: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled())
}

/// Returns the place of a tick on the horizontal axis, in thousandths of the distance between two ticks.
fn tick_place(index: usize) -> i32 {
    index as i32 * 1000
}

/// Returns the name of the tick at a place on the horizontal axis; an empty one if there is none.
fn tick_name(ticks: &[String], place: i32) -> String {
    let index = usize::try_from(place / 1000).ok();
    let name = index.and_then(|index| ticks.get(index));
    name.map(|name| thousands(name)).unwrap_or_default()
}

/// Returns a value as text, with its significant digits only.
fn short(value: f64) -> String {
    let text = match value {
        ..0.995 => format!("{value:.2}"),
        ..9.95 => format!("{value:.1}"),
        _ => return thousands(&format!("{value:.0}")),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns a whole number with a comma before every three digits, and any other text as it is.
fn thousands(digits: &str) -> String {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits.to_owned();
    }
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
