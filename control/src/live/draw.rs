//! Draws the view into a buffer of any width and height: what has no room is left out, the least needed first.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use unicode_width::UnicodeWidthStr;

use super::tables::{Cell, Column, Table};
use super::view::{Order, View};

/// Columns between two columns of a table.
const GAP: usize = 2;
/// Lines of a table beside its rows: the headings, and an empty line after it.
const AROUND: usize = 2;
/// Most lines of the log that are shown.
pub const LOG_LINES: usize = 6;
const KEYS: &str = "q quit  p pause  Tab table  s sort  r reverse  \u{2191}\u{2193} scroll";

/// What is emphasised how. Without colours it is by weight alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    colours: bool,
}

impl Palette {
    /// With colours or without.
    pub fn new(colours: bool) -> Self {
        Self { colours }
    }

    /// As the environment wants it: without, if `NO_COLOR` is there and not empty (no-color.org).
    pub fn from_environment() -> Self {
        Self::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn style(self, colour: Color, modifier: Modifier) -> Style {
        let style = Style::new().add_modifier(modifier);
        if self.colours { style.fg(colour) } else { style }
    }

    fn title(self) -> Style {
        self.style(Color::Cyan, Modifier::BOLD)
    }

    fn alarm(self) -> Style {
        self.style(Color::Red, Modifier::BOLD)
    }

    fn heading(self, chosen: bool) -> Style {
        self.style(Color::Green, if chosen { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::BOLD })
    }

    fn quiet(self) -> Style {
        self.style(Color::DarkGray, Modifier::empty())
    }
}

/// Draws all of it.
pub fn draw(view: &View, palette: Palette, area: Rect, buffer: &mut Buffer) {
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let mut canvas = Canvas { area, buffer };
    if height < 3 || width < 10 {
        canvas.text(0, 0, &view.title, width, palette.title());
        return;
    }
    let mut x = canvas.text(0, 0, &view.title, width, palette.title());
    if view.paused {
        x = canvas.text(x + 2, 0, "paused", width, palette.alarm());
    }
    let waiting = view.tables.is_empty().then(|| "waiting for figures".to_owned());
    if let Some(why) = view.problem.as_ref().map(|why| format!("no answer: {why}")).or(waiting) {
        canvas.text(x + 2, 0, &why, width, palette.alarm());
    }
    canvas.text(0, height - 1, KEYS, width, palette.quiet());
    let room = height - 3;
    let log = view.log.len().min(LOG_LINES).min(room / 4);
    let heights = share(&view.tables, view.chosen, room - log);
    let mut y = 2;
    for (at, (table, rows)) in view.tables.iter().zip(&heights).enumerate() {
        let (Some(rows), order) = (rows, view.orders.get(at).copied().unwrap_or_default()) else { continue };
        draw_table(&mut canvas, palette, table, order, at == view.chosen, (y, *rows));
        y += rows + AROUND;
    }
    for (line, y) in view.log.iter().skip(view.log.len() - log).zip(height - 1 - log..) {
        canvas.text(0, y, line, width, palette.quiet());
    }
}

struct Canvas<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
}

impl Canvas<'_> {
    /// Puts a text that ends before column `end`, and says where it does.
    fn text(&mut self, x: usize, y: usize, text: &str, end: usize, style: Style) -> usize {
        let (width, height) = (usize::from(self.area.width), usize::from(self.area.height));
        if x >= width.min(end) || y >= height {
            return x;
        }
        let (left, top) = (self.area.x + x as u16, self.area.y + y as u16);
        let (end, _) = self.buffer.set_stringn(left, top, text, width.min(end) - x, style);
        usize::from(end - self.area.x)
    }
}

/// How many rows of each table are shown; none of those that have no place at all.
fn share(tables: &[Table], chosen: usize, room: usize) -> Vec<Option<usize>> {
    let mut rows: Vec<Option<usize>> = tables.iter().map(|table| Some(table.rows.len().max(1))).collect();
    loop {
        let taken: usize = rows.iter().flatten().map(|rows| rows + AROUND).sum();
        // The empty line after the last one may fall away.
        if taken <= room + 1 {
            return rows;
        }
        // The longest gives a row; where each has but one, the last goes, and the chosen one at the end.
        let longest = (0..rows.len()).rev().filter(|at| rows[*at] > Some(1)).max_by_key(|at| rows[*at]);
        let last = (0..rows.len()).rev().filter(|at| rows[*at].is_some()).min_by_key(|at| *at == chosen);
        match (longest, last) {
            (Some(at), _) => rows[at] = rows[at].map(|rows| rows - 1),
            (None, Some(at)) => rows[at] = None,
            (None, None) => return rows,
        }
    }
}

/// The columns that fit into `width`, with their widths.
fn fit(table: &Table, width: usize) -> Vec<(usize, Column, usize)> {
    let cells =
        |at: usize| table.rows.iter().filter_map(move |row| row.get(at)).map(|cell| cell.text.width());
    let wide = |at: usize, column: &Column| cells(at).chain([column.name.width() + 1]).max().unwrap_or(0);
    let columns = table.columns.iter().enumerate();
    let mut fitting: Vec<_> = columns.map(|(at, column)| (at, *column, wide(at, column))).collect();
    while fitting.len() > 1 && fitting.iter().map(|(_, _, width)| width + GAP).sum::<usize>() > width + GAP {
        // Of equals the last.
        let least =
            fitting.iter().enumerate().max_by_key(|(_, (_, column, _))| column.rank).map(|(at, _)| at);
        // A last column of words is cut rather than left out, if half of it has room.
        let rest: usize = fitting.iter().rev().skip(1).map(|(_, _, width)| width + GAP).sum();
        match fitting.last_mut() {
            Some((_, column, last)) if !column.numeric && rest + *last / 2 <= width => {
                *last = width - rest;
                break;
            }
            _ => drop(fitting.remove(least.unwrap_or(0))),
        }
    }
    fitting
}

fn draw_table(
    canvas: &mut Canvas<'_>,
    palette: Palette,
    table: &Table,
    order: Order,
    chosen: bool,
    (top, rows): (usize, usize),
) {
    let mut x = 0;
    for (at, column, width) in fit(table, usize::from(canvas.area.width)) {
        let sorted = order.column == Some(at);
        let mark = if !sorted {
            ""
        } else if order.reversed {
            "\u{25b4}"
        } else {
            "\u{25be}"
        };
        let place = |text: &str| if column.numeric { x + width.saturating_sub(text.width()) } else { x };
        let heading = format!("{}{mark}", column.name);
        canvas.text(place(&heading), top, &heading, x + width, palette.heading(chosen));
        for (row, y) in table.rows.iter().skip(order.skipped).take(rows).zip(top + 1..) {
            let Some(Cell { text, number }) = row.get(at) else { continue };
            let alarm = text == "down" || (number.is_some_and(|n| n > 0.0) && is_loss(column.name));
            let style = if alarm { palette.alarm() } else { Style::new() };
            canvas.text(place(text), y, text, x + width, style);
        }
        x += width + GAP;
    }
    if table.rows.is_empty() {
        canvas.text(0, top + 1, "none", usize::from(canvas.area.width), palette.quiet());
    }
}

/// Whether a column counts what was lost.
fn is_loss(column: &str) -> bool {
    matches!(column, "drops/s" | "missed/s" | "refused/s" | "per second")
}

/// The view as plain text of this width, as many lines as it needs.
pub fn text(view: &View, width: u16) -> String {
    let needed: usize = view.tables.iter().map(|table| table.rows.len().max(1) + AROUND).sum();
    let area = Rect::new(0, 0, width, u16::try_from(needed + 3).unwrap_or(u16::MAX).min(1_000));
    let mut buffer = Buffer::empty(area);
    draw(view, Palette::new(false), area, &mut buffer);
    let line = |y: u16| {
        let cells = (0..width).filter_map(|x| buffer.cell((x, y)));
        cells.map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
    };
    // The last line tells of keys.
    let lines: Vec<_> = (0..area.height.saturating_sub(1)).map(line).collect();
    lines.join("\n").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Listing;
    use crate::live::source::Sample;
    use crate::live::view::Action;
    use serde_json::{Value, json};
    use std::time::{Duration, Instant};

    fn listing(columns: &[&str], rows: &[&[Value]]) -> Listing {
        let mut listing = Listing::new(columns);
        rows.iter().for_each(|row| listing.push(row.iter().cloned()));
        listing
    }

    /// A second in which `n` thousand packets passed.
    fn sample(at: Instant, n: u64) -> Sample {
        let port = |name: &str, rx: u64, link: &str| {
            vec![
                name.into(),
                (rx * 1_000).into(),
                (rx * 64_000).into(),
                0.into(),
                (n * 900).into(),
                0.into(),
                (n * 3).into(),
                0.into(),
                link.into(),
                name.into(),
            ]
        };
        let ports = [port("lan", n, "up"), port("wan", 5 * n, "down"), port("dmz", 2 * n, "up")];
        let ports: Vec<&[Value]> = ports.iter().map(Vec::as_slice).collect();
        Sample {
            at: at + Duration::from_secs(n),
            ports: listing(
                &[
                    "port",
                    "rx_packets",
                    "rx_bytes",
                    "rx_drops",
                    "tx_packets",
                    "tx_bytes",
                    "tx_drops",
                    "missed",
                    "link",
                    "description",
                ],
                &ports,
            ),
            workers: listing(
                &["worker", "core", "shares", "busy_ms", "sessions", "flows", "buffered"],
                &[
                    &[json!(0), json!(1), json!("0 2"), json!(n * 250), json!(42), json!(84), json!(0)],
                    &[json!(1), json!(3), json!("1"), json!(n * 50), json!(2), json!(4), json!(0)],
                ],
            ),
            shares: listing(
                &["share", "hits", "misses", "alone"],
                &[
                    &[json!(0), json!(n * 900), json!(n * 4), json!(0)],
                    &[json!(1), json!(n * 7), json!(0), json!(n * 2)],
                    &[json!(2), json!(n * 90), json!(n * 6), json!(0)],
                ],
            ),
            chains: listing(
                &["chain", "functions", "walks", "sessions_opened", "sessions_refused"],
                &[&[json!("edge"), json!("firewall nat router"), json!(n * 10), json!(n * 5), json!(0)]],
            ),
            drops: listing(
                &["where", "reason", "packets", "meaning"],
                &[&[json!("chains"), json!("denied"), json!(n * 3), json!("a rule of the firewall says so")]],
            ),
            latency: listing(
                &["time", "of", "up_to_us", "bursts"],
                &[
                    &[json!("burst"), json!("share 0"), json!(4.096), json!(n * 30)],
                    &[json!("burst"), json!("share 1"), json!(2.048), json!(n * 30)],
                    &[json!("burst"), json!("share 2"), json!(1.024), json!(n * 30)],
                    &[json!("latency"), json!("chain edge"), json!(8.192), json!(n * 98)],
                    &[json!("latency"), json!("chain edge"), json!(65.536), json!(n * 2)],
                ],
            ),
        }
    }

    fn view() -> View {
        let start = Instant::now();
        let mut view = View::new("millrace");
        view.take(Ok(sample(start, 1)));
        view.take(Ok(sample(start, 2)));
        view
    }

    #[test]
    fn rates_shares_and_percentiles_are_shown() {
        let expected = "\
millrace

port   link  rx pps  rx Mbit/s  tx pps  tx Mbit/s  drops/s  missed/s
lan    up     1.00k        0.5     900        0.0        3         0
wan    down   5.00k        2.6     900        0.0        3         0
dmz    up     2.00k        1.0     900        0.0        3         0

worker   core  shares  busy  hits/s  misses/s  alone/s  sessions  flows   held   burst p99
0           1  0 2     25 %     990        10        0        42     84      0     <4.1 µs
1           3  1        5 %       7         0        2         2      4      0     <2.0 µs

chain   functions            bursts/s  latency p50     p99  walks/s  new/s  refused/s
edge    firewall nat router       100      <8.2 µs  <66 µs       10      5          0

drops   reason  per second  packets  meaning
chains  denied           3        6  a rule of the firewall says so
";
        let squeeze = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&text(&view(), 110)), squeeze(expected));
    }

    #[test]
    fn tables_are_sorted_reversed_and_scrolled() {
        let mut view = view();
        let names =
            |view: &View| view.tables[0].rows.iter().map(|row| row[0].text.clone()).collect::<Vec<_>>();
        assert_eq!(names(&view), ["lan", "wan", "dmz"]);
        view.act(Action::Sort);
        assert_eq!(names(&view), ["dmz", "lan", "wan"]);
        (0..2).for_each(|_| view.act(Action::Sort));
        assert_eq!(
            (view.orders[0].column, names(&view)),
            (Some(2), vec!["wan".into(), "dmz".into(), "lan".into()])
        );
        assert!(text(&view, 110).contains("rx pps\u{25be}"));
        view.act(Action::Reverse);
        assert_eq!(names(&view), ["lan", "dmz", "wan"]);
        view.act(Action::Scroll(1));
        assert!(!text(&view, 110).contains("\nlan "));
        view.act(Action::Scroll(-9));
        assert!(text(&view, 110).contains("\nlan "));
        view.act(Action::NextTable);
        view.act(Action::Sort);
        assert_eq!((view.chosen, view.orders[1].column, view.orders[0].column), (1, Some(0), Some(2)));
    }

    #[test]
    fn a_view_that_is_paused_stands_still_and_one_without_answers_says_so() {
        let (start, mut view) = (Instant::now(), view());
        let before = view.tables.clone();
        view.act(Action::Pause);
        view.take(Ok(sample(start, 9)));
        assert_eq!(view.tables, before);
        assert!(text(&view, 110).starts_with("millrace  paused\n"));
        view.act(Action::Pause);
        view.take(Err("it is gone".to_owned()));
        assert!(text(&view, 110).starts_with("millrace  no answer: it is gone\n"));
        view.take(Ok(sample(start, 10)));
        assert_eq!((&view.tables, &view.problem), (&before, &None), "rates need two samples");
    }

    #[test]
    fn narrow_and_low_terminals_show_what_matters_most() {
        let mut view = view();
        view.log = vec!["a line of the log".to_owned(); 3];
        let narrow = text(&view, 40);
        assert!(narrow.contains("port") && narrow.contains("rx pps") && narrow.contains("busy"), "{narrow}");
        assert!(
            !narrow.contains("missed/s") && narrow.lines().all(|line| line.chars().count() <= 40),
            "{narrow}"
        );
        // Any size: nothing panics, nothing is drawn outside, and the chosen table stays longest.
        for chosen in 0..4 {
            view.chosen = chosen;
            for (width, height) in (0..130).step_by(7).flat_map(|w| (0..40).map(move |h| (w, h))) {
                let area = Rect::new(3, 2, width, height);
                let mut buffer = Buffer::empty(Rect::new(0, 0, width + 6, height + 4));
                draw(&view, Palette::new(true), area, &mut buffer);
                for (x, y) in (0..width + 6).flat_map(|x| (0..height + 4).map(move |y| (x, y))) {
                    let inside = area.contains((x, y).into());
                    assert!(
                        inside || buffer.cell((x, y)).unwrap().symbol() == " ",
                        "{width}x{height} at {x},{y}"
                    );
                }
            }
            assert!(share(&view.tables, chosen, 3)[chosen].is_some());
        }
    }

    #[test]
    fn without_colours_nothing_is_coloured() {
        let view = view();
        let area = Rect::new(0, 0, 120, 30);
        for colours in [false, true] {
            let mut buffer = Buffer::empty(area);
            draw(&view, Palette::new(colours), area, &mut buffer);
            assert_eq!(buffer.content().iter().any(|cell| cell.fg != Color::Reset), colours);
            assert!(buffer.content().iter().any(|cell| cell.modifier.contains(Modifier::BOLD)));
        }
    }
}
