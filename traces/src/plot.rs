//! Line plots: as SVG for reports, as PNG for everything else. The font is built in, so that a bare machine draws labels too.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

/// In units of which SVG has one, and PNG several, for a pixel.
const WIDTH: u32 = 1000;
/// Of that, what the plot itself takes; the rest names the lines.
const CHART_WIDTH: u32 = 740;
/// Characters of a name that are shown.
const NAME_LEN_MAX: usize = 36;
/// Lines that are named.
const NAMES_MAX: usize = 20;
const HEIGHT: u32 = 420;
/// Dots that are drawn for each unit of a PNG, and dots, each way, whose mean is one of its pixels: what is drawn has hard edges.
const PNG_DOTS: u32 = 3;
const PNG_BLEND: usize = 2;
const RGB: usize = 3;
/// Colours that stay apart for the colour blind (Okabe and Ito), black last.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(160, 150, 20),
    RGBColor(0, 0, 0),
];

/// The font that is built in, by the name under which all is written.
static FONT: LazyLock<()> = LazyLock::new(|| {
    let font = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    assert!(font.is_ok(), "the font is one of its crate's");
});

/// What an axis shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scale {
    /// Numbers, evenly.
    Linear,
    /// Shares from 0 to 1, as percent, always whole.
    Share,
    /// Bytes by their logarithm.
    LogBytes,
    /// Bytes, evenly.
    Bytes,
    /// Numbers by their logarithm.
    LogNumber,
    /// One in so many, as the share of the others: 10 is 90 %, 1000 is 99.9 %.
    Nines,
}

/// A named line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What the legend says.
    pub(crate) name: String,
    /// Its points.
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether points are marked and not joined.
    pub(crate) dots: bool,
}

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    /// What stands above it.
    pub(crate) title: String,
    /// What the horizontal axis is, and how it is drawn.
    pub(crate) x: (String, Scale),
    /// The same of the vertical one.
    pub(crate) y: (String, Scale),
    /// What is drawn.
    pub(crate) lines: Vec<Line>,
}

fn place(scale: Scale, number: f64) -> f64 {
    match scale {
        Scale::LogBytes | Scale::LogNumber | Scale::Nines => number.max(1e-9).log10(),
        Scale::Share => number * 100.0,
        Scale::Linear | Scale::Bytes => number,
    }
}

/// Bytes as people read them: `1.5 MB`.
pub(crate) fn bytes_text(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let step = if bytes < 1.0 { 0 } else { ((bytes.log10() + 1e-9) / 3.0).floor().min(5.0) as usize };
    let number = bytes / 1000f64.powi(step as i32);
    let text = if number < 9.95 && step > 0 { format!("{number:.1}") } else { format!("{number:.0}") };
    format!("{} {}", text.trim_end_matches(".0"), units[step])
}

fn number_text(number: f64) -> String {
    match number.abs() {
        size if size >= 1e6 => {
            format!("{:.3}", number / 1e6).trim_end_matches('0').trim_end_matches('.').to_owned() + "M"
        }
        size if size >= 1e4 => format!("{:.1}", number / 1e3).trim_end_matches(".0").to_owned() + "k",
        size if size >= 10.0 || size == 0.0 => format!("{number:.0}"),
        _ => format!("{number:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

fn label(scale: Scale, place: f64) -> String {
    match scale {
        Scale::Linear => number_text(place),
        Scale::Share => format!("{} %", number_text(place)),
        Scale::LogBytes => bytes_text(10f64.powf(place)),
        Scale::Bytes => bytes_text(place),
        Scale::LogNumber => number_text(10f64.powf(place)),
        Scale::Nines => {
            let share = 100.0 - 100.0 / 10f64.powf(place);
            format!("{} %", format!("{share:.4}").trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(NAME_LEN_MAX) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

impl Plot {
    fn range(&self, of: impl Fn(&(f64, f64)) -> f64, scale: Scale) -> std::ops::Range<f64> {
        let all = self.lines.iter().flat_map(|line| &line.points).map(|point| place(scale, of(point)));
        let (low, high) = all
            .filter(|place| place.is_finite())
            .fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
        match scale {
            _ if low > high => 0.0..1.0,
            Scale::Share => 0.0..100.0,
            Scale::Linear | Scale::Bytes => low.min(0.0)..if high > 0.0 { high * 1.05 } else { 1.0 },
            Scale::LogBytes | Scale::LogNumber | Scale::Nines => low..high.max(low + 0.3),
        }
    }

    /// The plot as SVG.
    ///
    /// # Errors
    /// The plot could not be drawn.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area(), 1)?;
        Ok(text)
    }

    /// Draws it on an area that has so many dots for a unit.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, dots: u32) -> Result<()> {
        LazyLock::force(&FONT);
        self.draw_scaled(area, dots).map_err(|error| anyhow!("drawing '{}': {error}", self.title))
    }

    fn draw_scaled<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        dots: u32,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let px = |units: i32| units * dots as i32;
        let font = |units: i32| ("sans-serif", px(units)).into_font();
        area.fill(&WHITE)?;
        let is_named = self.lines.len() > 1;
        let (area, names) =
            if is_named { area.split_horizontally(CHART_WIDTH * dots) } else { (area.clone(), area.clone()) };
        let (x, y) = (self.range(|point| point.0, self.x.1), self.range(|point| point.1, self.y.1));
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, font(20))
            .margin(px(12))
            .x_label_area_size(px(44))
            .y_label_area_size(px(76))
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.0)
            .y_desc(&self.y.0)
            .x_label_formatter(&|at| label(self.x.1, *at))
            .y_label_formatter(&|at| label(self.y.1, *at))
            .x_labels(8)
            .y_labels(8)
            .set_all_tick_mark_size(px(5))
            .axis_style(BLACK.stroke_width(dots))
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225).stroke_width(dots))
            .axis_desc_style(font(15))
            .label_style(font(13))
            .draw()?;
        for (number, line) in self.lines.iter().enumerate() {
            // where colours come round again, what was filled is hollow, and what was thick is thin
            let (round, colour) = (number / COLOURS.len(), COLOURS[number % COLOURS.len()]);
            let style = if round == 0 { colour.filled() } else { colour.stroke_width(2 * dots) };
            let points = line.points.iter().map(|(x, y)| (place(self.x.1, *x), place(self.y.1, *y)));
            if line.dots {
                chart.draw_series(points.map(|point| Circle::new(point, px(5), style)))?;
            } else {
                let width = if round == 0 { 2 * dots } else { dots };
                chart.draw_series(LineSeries::new(points, colour.stroke_width(width)))?;
            }
            if is_named && number < NAMES_MAX {
                let top = 52 + 17 * number as i32;
                names.draw(&Rectangle::new([(px(2), px(top)), (px(14), px(top + 9))], style))?;
                names.draw(&Text::new(shortened(&line.name), (px(20), px(top - 2)), font(13)))?;
            }
        }
        if self.lines.len() > NAMES_MAX {
            let more = format!("and {} more", self.lines.len() - NAMES_MAX);
            names.draw(&Text::new(more, (px(20), px(50 + 17 * NAMES_MAX as i32)), font(13)))?;
        }
        area.present()
    }

    /// The plot as pixels: how many in a row, and red, green and blue of each.
    fn pixels(&self) -> Result<(usize, Vec<u8>)> {
        let (width, height) = (WIDTH * PNG_DOTS, HEIGHT * PNG_DOTS);
        let mut dots = vec![0; width as usize * height as usize * RGB];
        self.draw(&BitMapBackend::with_buffer(&mut dots, (width, height)).into_drawing_area(), PNG_DOTS)?;
        let row = width as usize * RGB;
        let mut blended = Vec::with_capacity(dots.len() / (PNG_BLEND * PNG_BLEND));
        for rows in dots.chunks_exact(row * PNG_BLEND) {
            for first in (0..row).step_by(PNG_BLEND * RGB) {
                for colour in first..first + RGB {
                    let square = (0..PNG_BLEND * PNG_BLEND).map(|n| n / PNG_BLEND * row + n % PNG_BLEND * RGB);
                    let sum: usize = square.map(|at| usize::from(rows[colour + at])).sum();
                    blended.push((sum / (PNG_BLEND * PNG_BLEND)) as u8);
                }
            }
        }
        Ok((width as usize / PNG_BLEND, blended))
    }

    /// Writes the plot into a folder, as NAME.svg and NAME.png.
    ///
    /// # Errors
    /// It could not be drawn or written.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let place = |ending: &str| folder.join(format!("{name}.{ending}"));
        fs::write(place("svg"), self.svg()?).with_context(|| format!("writing {}", place("svg").display()))?;
        let (width, pixels) = self.pixels()?;
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width as u32, (pixels.len() / RGB / width) as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&pixels)?;
        fs::write(place("png"), file).with_context(|| format!("writing {}", place("png").display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_drawn_with_its_labels() {
        let points = (1..100).map(|n| (f64::from(n) * 1e6, 1.0 / f64::from(n))).collect();
        let line = |name: &str, points| Line { name: name.to_owned(), points, dots: false };
        let plot = Plot {
            title: "misses & <hits>".to_owned(),
            x: ("size".to_owned(), Scale::LogBytes),
            y: ("miss ratio".to_owned(), Scale::Share),
            lines: vec![line("one", points), line("none", Vec::new())],
        };
        let svg = plot.svg().unwrap();
        assert!(
            svg.contains("misses &amp; &lt;hits&gt;") && svg.contains("miss ratio") && svg.contains("10 MB"),
            "{svg}"
        );
        let folder = tempfile::tempdir().unwrap();
        plot.write(folder.path(), "plot").unwrap();
        let png = std::fs::read(folder.path().join("plot.png")).unwrap();
        // signature, then the header with width and height
        assert_eq!(&png[1..4], b"PNG");
        assert_eq!(u32::from_be_bytes(png[16..20].try_into().unwrap()), 1500);
        assert!(png.len() > 8_000, "labels and lines take more than {} bytes", png.len());
    }

    #[test]
    fn numbers_are_told_as_people_read_them() {
        let all = [0.0, 999.0, 1_500.0, 10e6, 2.5e9].map(bytes_text);
        assert_eq!(all, ["0 B", "999 B", "1.5 kB", "10 MB", "2.5 GB"]);
        assert_eq!([0.0, 0.25, 12.0, 12_500.0, 3e6].map(number_text), ["0", "0.25", "12", "12.5k", "3M"]);
    }
}
