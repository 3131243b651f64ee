//! Charts as SVG: axes, lines, bands and bars, and nothing that a report does not need.
//!
//! ```text
//!   title                                y label
//!      ── p50  ▒ to p99                  legend
//!      warm-up │ steady │ burst          phases: a lane of their own, so that no curve crosses a word
//!   ┼───────────────┐
//!   │  marks        • 12 ms              values are placed by scales: linear or logarithmic;
//!   └──┼─────┼──────┘                    a dot's words stand beside the plot
//!      x ticks   x label
//!   caption                              of a file alone: what was measured, where and when
//! ```
//!
//! Words never cover each other: a phase's name gives way to its number where it does not fit, and to
//! nothing where not even that does; words of dots move apart.
//!
//! Colours are CSS variables, so one drawing serves light and dark pages; a drawing that stands
//! alone carries [`STYLE`] within itself.

use std::fmt::Write as _;

/// Of every chart; scaled to the page's width by the browser.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 346.0;
const LEFT: f64 = 66.0;
/// Beside the plot, and where words of dots stand there.
const RIGHT: f64 = 18.0;
const RIGHT_OF_DOTS: f64 = 70.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 48.0;
/// Width of a letter, and of one in the lane of phases: a little more than they have on average.
const LETTER: f64 = 6.6;
const LANE_LETTER: f64 = 6.0;
/// Between the words of two dots.
const WORDS_APART: f64 = 13.0;
/// Between the lines of a caption.
const CAPTION_LINE: f64 = 16.0;
/// A bar that can be seen, however high its neighbours are.
const BAR_MIN: f64 = 2.0;

/// Colours and type, for light and dark. `c0` to `c5` tell series apart also for readers who tell
/// red from green badly (Okabe and Ito's palette).
pub(crate) const STYLE: &str = "\
:root{--page:#ffffff;--card:#f5f7f9;--ink:#1b2430;--soft:#5b6876;--line:#d9dfe5;--warn:#8a3b00;\
--warn-page:#fff3e6;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#a07a00;--c5:#56708c;\
--gap:#d55e0026}\
@media(prefers-color-scheme:dark){:root{--page:#12171d;--card:#1b222b;--ink:#e6ebf0;--soft:#98a5b3;\
--line:#2f3944;--warn:#ffc38a;--warn-page:#3a2614;--c0:#5db4f0;--c1:#ff9a4d;--c2:#3fd6a6;\
--c3:#eba3cb;--c4:#e6c04a;--c5:#9fb6cc;--gap:#ff9a4d33}}\
.chart text{font:12px system-ui,sans-serif;fill:var(--soft)}.chart .title{font-size:14px;\
font-weight:600;fill:var(--ink)}.chart .lane{font-size:11px}.chart .over{paint-order:stroke;\
stroke:var(--card);stroke-width:4px;stroke-linejoin:round}.chart .grid{stroke:var(--line);stroke-width:1}.chart .axis{\
stroke:var(--soft);stroke-width:1}.chart .s{fill:none;stroke-width:1.8;stroke-linejoin:round}\
.chart .dash{stroke-dasharray:5 4}.chart .shade{fill:var(--line);opacity:.45}.chart .gap{\
fill:var(--gap)}.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}\
.c4{--c:var(--c4)}.c5{--c:var(--c5)}.chart .s,.chart .dot{stroke:var(--c)}.chart .b,.chart .dot{\
fill:var(--c)}.chart .b{opacity:.22}.chart .full{opacity:.8}";

/// From values to the length of an axis.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scale {
    /// From, to.
    Linear(f64, f64),
    /// From, to; both above zero.
    Log(f64, f64),
}

impl Scale {
    /// Logarithmic over all of `values`, widened to steps of 1, 2 or 5.
    pub(crate) fn log_over(values: impl Iterator<Item = f64>) -> Scale {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let below = steps(low / 10.0, low).last().unwrap_or(low);
        let above = steps(high, high * 10.0).next().unwrap_or(high);
        Scale::Log(below, above.max(below * 2.0))
    }

    /// 0 at the axis's beginning, 1 at its end; values outside are at the nearer end.
    fn place(self, value: f64) -> f64 {
        let share = match self {
            Scale::Linear(from, to) => (value - from) / (to - from),
            Scale::Log(from, to) => (value / from).ln() / (to / from).ln(),
        };
        if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
    }

    /// Values worth a line, about `count` of them.
    pub(crate) fn ticks(self, count: usize) -> Vec<f64> {
        match self {
            Scale::Log(from, to) => {
                let all: Vec<f64> = steps(from, to).collect();
                if all.len() <= count + 2 {
                    return all;
                }
                // Too many: decades alone.
                let is_decade = |value: &f64| (value.log10() - value.log10().round()).abs() < 1e-9;
                all.into_iter().filter(is_decade).collect()
            }
            Scale::Linear(from, to) => {
                let rough = (to - from) / count as f64;
                let step = steps(rough, rough * 10.0).next().unwrap_or(rough);
                let first = (from / step).ceil() as i64;
                let last = (to / step + 1e-9).floor() as i64;
                (first..=last).map(|n| n as f64 * step).collect()
            }
        }
    }
}

/// 1, 2 and 5 times the powers of ten within `from..=to`.
fn steps(from: f64, to: f64) -> impl Iterator<Item = f64> {
    let (first, last) = (from.log10().floor() as i32, to.log10().ceil() as i32);
    (first..=last)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
        .filter(move |value| *value >= from * (1.0 - 1e-9) && *value <= to * (1.0 + 1e-9))
}

/// One axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) scale: Scale,
    /// Value and words.
    pub(crate) ticks: Vec<(f64, String)>,
}

/// Something drawn.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// A line through points; its colour, and its name in the legend.
    Line { points: Vec<(f64, f64)>, colour: usize, name: String, is_dashed: bool },
    /// An area between two lines over the same places: x, lower, upper.
    Band { points: Vec<(f64, f64, f64)>, colour: usize, name: String },
    /// A bar from x to x, of a height.
    Bars { bars: Vec<(f64, f64, f64)>, colour: usize, name: String },
    /// A stretch of the x axis with a name above the plot, or a number where the name does not fit.
    Phase { from: f64, to: f64, name: String, number: usize, is_shaded: bool },
    /// A stretch of the x axis in which something was missing, with a word.
    Gap { from: f64, to: f64, word: String },
    /// A dot with a word.
    Dot { at: (f64, f64), colour: usize, word: String },
}

/// A chart.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) marks: Vec<Mark>,
}

impl Chart {
    /// As an element of a page that has [`STYLE`].
    pub(crate) fn element(&self) -> String {
        self.render("", &[])
    }

    /// As a file of its own, which says with `caption` what its page would have said.
    pub(crate) fn file(&self, caption: &[String]) -> String {
        let page = "<rect width=\"100%\" height=\"100%\" style=\"fill:var(--page)\"/>";
        let inner = format!("<style>{STYLE}</style>{page}");
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", self.render(&inner, caption))
    }

    /// Where the plot ends.
    fn right(&self) -> f64 {
        let has_dots = self.marks.iter().any(|mark| matches!(mark, Mark::Dot { .. }));
        WIDTH - if has_dots { RIGHT_OF_DOTS } else { RIGHT }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let across = LEFT + self.x.scale.place(x) * (self.right() - LEFT);
        let down = HEIGHT - BOTTOM - self.y.scale.place(y) * (HEIGHT - TOP - BOTTOM);
        (across, down)
    }

    fn render(&self, inner: &str, caption: &[String]) -> String {
        let height = match caption.len() {
            0 => HEIGHT,
            lines => HEIGHT + CAPTION_LINE * lines as f64 + 8.0,
        };
        let mut out = format!(
            "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             role=\"img\" aria-label=\"{}\">{inner}",
            escape(&self.title)
        );
        let is_behind = |mark: &&Mark| matches!(mark, Mark::Phase { .. } | Mark::Gap { .. });
        self.marks.iter().filter(is_behind).for_each(|mark| self.draw(mark, &mut out));
        self.draw_axes(&mut out);
        self.marks
            .iter()
            .filter(|mark| !is_behind(mark))
            .for_each(|mark| self.draw(mark, &mut out));
        self.draw_gap_words(&mut out);
        self.draw_dot_words(&mut out);
        self.draw_legend(&mut out);
        for (line, words) in caption.iter().enumerate() {
            let y = HEIGHT + 8.0 + CAPTION_LINE * line as f64;
            put(
                &mut out,
                format_args!("<text class=\"lane\" x=\"8\" y=\"{y:.1}\">{}</text>", escape(words)),
            );
        }
        out.push_str("</svg>");
        out
    }

    fn draw_axes(&self, out: &mut String) {
        let (left, right) = (LEFT, self.right());
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        for (value, words) in &self.y.ticks {
            let (_, y) = self.at(0.0, *value);
            put(
                out,
                format_args!(
                    "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    left - 7.0,
                    y + 4.0,
                    escape(words)
                ),
            );
        }
        for (value, words) in &self.x.ticks {
            let (x, _) = self.at(*value, 0.0);
            put(
                out,
                format_args!(
                    "<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    bottom + 17.0,
                    escape(words)
                ),
            );
        }
        put(
            out,
            format_args!(
                "<path class=\"axis\" d=\"M{left} {bottom}H{right}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"title\" x=\"8\" y=\"18\">{}</text>\
             <text x=\"{:.1}\" y=\"18\" text-anchor=\"end\">{}</text>",
                (left + right) / 2.0,
                HEIGHT - 10.0,
                escape(&self.x.label),
                escape(&self.title),
                WIDTH - RIGHT,
                escape(&self.y.label)
            ),
        );
    }

    fn draw(&self, mark: &Mark, out: &mut String) {
        match mark {
            Mark::Line { points, colour, is_dashed, .. } => {
                let dash = if *is_dashed { " dash" } else { "" };
                let path = self.path(points.iter().copied());
                put(out, format_args!("<path class=\"s c{colour}{dash}\" d=\"{path}\"/>"));
            }
            Mark::Band { points, colour, .. } => {
                let upper = points.iter().map(|(x, _, upper)| (*x, *upper));
                let lower = points.iter().rev().map(|(x, lower, _)| (*x, *lower));
                let path = self.path(upper.chain(lower));
                put(out, format_args!("<path class=\"b c{colour}\" d=\"{path}Z\"/>"));
            }
            Mark::Bars { bars, colour, .. } => {
                let mut path = String::new();
                for (from, to, height) in bars {
                    let ((x0, y1), (x1, y0)) = (self.at(*from, *height), self.at(*to, 0.0));
                    // A bar one can see, also among hundreds, and beside thousands.
                    let (wide, y1) = ((x1 - x0 - 0.5).max(1.0), y1.min(y0 - BAR_MIN));
                    put(&mut path, format_args!("M{x0:.1} {y0:.1}V{y1:.1}h{wide:.1}V{y0:.1}Z"));
                }
                put(out, format_args!("<path class=\"b full c{colour}\" d=\"{path}\"/>"));
            }
            Mark::Phase { from, to, name, number, is_shaded } => {
                let ((x0, _), (x1, _)) = (self.at(*from, 0.0), self.at(*to, 0.0));
                if *is_shaded {
                    put(out, format_args!("{}", stretch("shade", x0, x1)));
                }
                put(out, format_args!("<path class=\"grid\" d=\"M{x0:.1} {TOP}v-16\"/>"));
                let number = number.to_string();
                let fits =
                    |words: &&str| words.chars().count() as f64 * LANE_LETTER + 5.0 <= x1 - x0;
                if let Some(words) = [name.as_str(), &number].into_iter().find(fits) {
                    let (x, y) = (x0 + 4.0, TOP - 5.0);
                    let words = escape(words);
                    put(
                        out,
                        format_args!(
                            "<text class=\"lane\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
                        ),
                    );
                }
            }
            Mark::Gap { from, to, .. } => {
                let ((x0, _), (x1, _)) = (self.at(*from, 0.0), self.at(*to, 0.0));
                put(out, format_args!("{}", stretch("gap", x0, x1)));
            }
            Mark::Dot { at, colour, .. } => {
                let (x, y) = self.at(at.0, at.1);
                put(
                    out,
                    format_args!(
                        "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
                    ),
                );
            }
        }
    }

    /// The word of each gap, unless it would cover another one's: gaps that are near each other are
    /// one story.
    fn draw_gap_words(&self, out: &mut String) {
        let mut free_from = LEFT;
        for mark in &self.marks {
            let Mark::Gap { from, word, .. } = mark else { continue };
            let wide = word.chars().count() as f64 * LETTER;
            // Not beyond the plot's end.
            let x = (self.at(*from, 0.0).0 + 3.0).min(self.right() - wide).max(LEFT);
            if x < free_from {
                continue;
            }
            free_from = x + wide + 8.0;
            let (y, word) = (TOP + 14.0, escape(word));
            put(out, format_args!("<text class=\"over\" x=\"{x:.1}\" y=\"{y:.1}\">{word}</text>"));
        }
    }

    /// The words of dots beside the plot, apart from each other.
    fn draw_dot_words(&self, out: &mut String) {
        let dots = self.marks.iter().filter_map(|mark| match mark {
            Mark::Dot { at, colour, word } => Some((self.at(at.0, at.1).1 + 4.0, *colour, word)),
            _ => None,
        });
        let mut dots: Vec<(f64, usize, &String)> = dots.collect();
        dots.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ys = apart(dots.iter().map(|dot| dot.0), HEIGHT - BOTTOM);
        for ((_, colour, word), y) in dots.into_iter().zip(ys) {
            put(
                out,
                format_args!(
                    "<text class=\"c{colour}\" style=\"fill:var(--c)\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                    self.right() + 8.0,
                    escape(word)
                ),
            );
        }
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        let mut last = None;
        for (x, y) in points {
            let (x, y) = self.at(x, y);
            let here = (format!("{x:.1}"), format!("{y:.1}"));
            if last.as_ref() != Some(&here) {
                let step = if last.is_none() { 'M' } else { 'L' };
                put(&mut path, format_args!("{step}{} {}", here.0, here.1));
                last = Some(here);
            }
        }
        path
    }

    fn draw_legend(&self, out: &mut String) {
        let mut x = LEFT;
        let mut shown: Vec<&str> = Vec::new();
        for mark in &self.marks {
            let (name, colour, sign) = match mark {
                Mark::Line { name, colour, is_dashed, .. } => {
                    let dash = if *is_dashed { " dash" } else { "" };
                    let line = format!("<path class=\"s c{colour}{dash}\" d=\"M{x:.1} 38h18\"/>");
                    (name, colour, line)
                }
                Mark::Band { name, colour, .. } => {
                    let class = format!("b c{colour}");
                    (name, colour, swatch(x, &class))
                }
                Mark::Bars { name, colour, .. } => {
                    let class = format!("b full c{colour}");
                    (name, colour, swatch(x, &class))
                }
                Mark::Phase { .. } | Mark::Gap { .. } | Mark::Dot { .. } => continue,
            };
            let _ = colour;
            if name.is_empty() || shown.contains(&name.as_str()) {
                continue;
            }
            shown.push(name);
            put(
                out,
                format_args!("{sign}<text x=\"{:.1}\" y=\"42\">{}</text>", x + 23.0, escape(name)),
            );
            x += 23.0 + name.chars().count() as f64 * LETTER + 16.0;
        }
    }
}

/// A stretch of the whole plot's height.
fn stretch(class: &str, x0: f64, x1: f64) -> String {
    let (wide, high) = ((x1 - x0).max(1.0), HEIGHT - TOP - BOTTOM);
    format!(
        "<rect class=\"{class}\" x=\"{x0:.1}\" y=\"{TOP}\" width=\"{wide:.1}\" height=\"{high:.1}\"/>"
    )
}

/// Heights that are wished for, in order, moved so far apart that words do not touch; none is below
/// `lowest`, as long as there is room.
fn apart(wished: impl Iterator<Item = f64>, lowest: f64) -> Vec<f64> {
    let mut ys: Vec<f64> = Vec::new();
    for y in wished {
        ys.push(ys.last().map_or(y, |last| y.max(last + WORDS_APART)));
    }
    let mut limit = lowest;
    for y in ys.iter_mut().rev() {
        *y = y.min(limit);
        limit = *y - WORDS_APART;
    }
    ys
}

fn swatch(x: f64, class: &str) -> String {
    format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"32\" width=\"18\" height=\"11\"/>")
}

fn put(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("writing to a string does not fail");
}

/// As text within HTML or XML.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Control characters are no XML, whatever a store's error message holds.
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_place_and_tick() {
        let log = Scale::Log(10.0, 1000.0);
        assert!((log.place(100.0) - 0.5).abs() < 1e-9);
        assert_eq!((log.place(1.0), log.place(1e9), log.place(f64::NAN)), (0.0, 1.0, 0.0));
        assert_eq!(log.ticks(8), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        let rounded: Vec<_> =
            Scale::Log(1.0, 1e6).ticks(6).iter().map(|tick| tick.round()).collect();
        assert_eq!(rounded, [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
        assert_eq!(Scale::Linear(-1.0, 9.0).ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0]);
        let Scale::Log(from, to) = Scale::log_over([130.0, 0.0, 7200.0].into_iter()) else {
            panic!("logarithmic")
        };
        assert_eq!((from.round(), to.round()), (100.0, 10_000.0));
    }

    #[test]
    fn words_of_neighbours_do_not_touch() {
        assert_eq!(apart([50.0, 52.0, 90.0].into_iter(), 200.0), [50.0, 63.0, 90.0]);
        assert_eq!(apart([198.0, 199.0, 200.0].into_iter(), 200.0), [174.0, 187.0, 200.0]);
    }

    #[test]
    fn a_phase_too_narrow_for_its_name_has_its_number_or_nothing() {
        let phase = |from: f64, to: f64, number| Mark::Phase {
            from,
            to,
            name: "a burst".to_owned(),
            number,
            is_shaded: false,
        };
        let axis =
            Axis { label: String::new(), scale: Scale::Linear(0.0, 100.0), ticks: Vec::new() };
        let chart = Chart {
            title: String::new(),
            x: axis.clone(),
            y: axis,
            marks: vec![phase(0.0, 50.0, 1), phase(50.0, 53.0, 2), phase(53.0, 53.5, 3)],
        };
        let drawn = chart.element();
        assert_eq!(drawn.matches("a burst").count(), 1);
        assert!(drawn.contains(">2</text>") && !drawn.contains(">3</text>"), "{drawn}");
    }

    #[test]
    fn a_chart_is_well_formed_and_escapes_words() {
        let axis = |label: &str| Axis {
            label: label.to_owned(),
            scale: Scale::Linear(0.0, 1.0),
            ticks: vec![(0.5, "½".to_owned())],
        };
        let name = "a<b & \"c\"\u{7}".to_owned();
        let chart = Chart {
            title: name.clone(),
            x: axis("x"),
            y: axis("y"),
            marks: vec![
                Mark::Line {
                    points: vec![(0.0, 0.0), (1.0, 1.0)],
                    colour: 0,
                    name: name.clone(),
                    is_dashed: true,
                },
                Mark::Band {
                    points: vec![(0.0, 0.2, 0.4), (1.0, 0.3, 0.5)],
                    colour: 1,
                    name: name.clone(),
                },
                Mark::Bars { bars: vec![(0.0, 0.1, 0.5)], colour: 2, name: "bars".to_owned() },
                Mark::Phase { from: 0.0, to: 0.5, name: name.clone(), number: 1, is_shaded: true },
                Mark::Gap { from: 0.6, to: 0.7, word: name.clone() },
                Mark::Dot { at: (1.0, 1.0), colour: 3, word: name },
            ],
        };
        let file = chart.file(&["what & where".to_owned()]);
        assert!(file.starts_with("<?xml") && file.trim_end().ends_with("</svg>"));
        assert!(!file.contains("a<b") && file.contains("a&lt;b &amp; &quot;c&quot; "));
        let opened = file.matches('<').count() - file.matches("<?").count();
        let closed = file.matches("</").count() + file.matches("/>").count();
        assert_eq!(opened, 2 * file.matches("</").count() + file.matches("/>").count(), "{closed}");
        assert!(
            !file.contains("http://") || file.matches("http").count() == 1,
            "the namespace alone"
        );
    }
}
