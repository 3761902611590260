//! Draws a text as a picture that people read and programs stumble over, as a PNG (ISO/IEC 15948) of 16
//! greys.
//!
//! What makes it hard is not the noise but that the characters are no fixed shapes and have no
//! borders: each is drawn from strokes whose points are moved, then slanted, turned and stretched; the
//! neighbours run into each other; the whole is bent by waves; lines of the same ink and width join
//! them, and lines of paper cut them.

use super::{
    dice::Dice,
    glyphs::{Stroke, strokes},
};
use flate2::{Compression, Crc, write::ZlibEncoder};
use std::io::Write;

/// Pixels. A phone of 320 has 248 left beside the page's edges.
pub const WIDTH: usize = 240;
pub const HEIGHT: usize = 80;

/// Steps between two points of a stroke, so that waves bend straight ones as well.
const STEPS: u8 = 7;

#[derive(Clone, Copy, Debug)]
struct Point {
    x: f32,
    y: f32,
}

impl Point {
    fn toward(self, other: Self, share: f32) -> Self {
        Self {
            x: self.x + (other.x - self.x) * share,
            y: self.y + (other.y - self.y) * share,
        }
    }
}

/// Draws the text.
#[must_use]
pub fn draw(text: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut canvas = Canvas::new();
    let waves = Waves::new(dice);
    let width = dice.between(3.3, 4.1);
    #[allow(clippy::cast_precision_loss)] // six or so
    let advance = (wide(WIDTH) - 34.0) / text.len().max(1) as f32;
    let mut left = dice.between(13.0, 19.0);
    for character in text {
        let place = Placement::new(dice, left, advance);
        for stroke in strokes(*character) {
            let points = place.points(stroke, dice);
            canvas.line(&waves.bend(&points), width * dice.between(0.85, 1.2), 1.0);
        }
        left += advance;
    }
    for _ in 0..2 {
        canvas.line(&waves.bend(&scratch(dice)), dice.between(0.9, 1.4), -1.0);
    }
    for _ in 0..2 {
        canvas.line(
            &waves.bend(&scratch(dice)),
            width * dice.between(0.5, 0.7),
            1.0,
        );
    }
    for _ in 0..18 {
        canvas.line(&crumb(dice), dice.between(0.7, 1.9), 1.0);
    }
    canvas.png()
}

/// Where one character stands, and how it is put there.
#[derive(Clone, Copy, Debug)]
struct Placement {
    left: f32,
    top: f32,
    width: f32,
    height: f32,
    slant: f32,
    turn: (f32, f32),
}

impl Placement {
    fn new(dice: &mut Dice, left: f32, advance: f32) -> Self {
        let height = dice.between(40.0, 52.0);
        let room = wide(HEIGHT) - height;
        Self {
            left: left + dice.between(-2.5, 2.5),
            top: room / 2.0 + dice.between(-0.4, 0.4) * (room - 12.0),
            // Slanted, turned and bent, it runs into the next all the same.
            width: advance * dice.between(0.72, 0.96),
            height,
            slant: dice.between(-0.2, 0.2),
            turn: dice.between(-0.22, 0.22).sin_cos(),
        }
    }

    /// A stroke of the character, on the canvas.
    fn points(&self, (curved, points): &Stroke, dice: &mut Dice) -> Vec<Point> {
        let moved: Vec<Point> = points
            .iter()
            .map(|(x, y)| {
                let x = f32::from(*x) / 100.0 - 0.5 + dice.between(-0.055, 0.055);
                let y = f32::from(*y) / 100.0 - 0.5 + dice.between(-0.055, 0.055);
                let x = (x - y * self.slant) * self.width;
                let y = y * self.height;
                let (sin, cos) = self.turn;
                Point {
                    x: self.left + self.width / 2.0 + x * cos - y * sin,
                    y: self.top + self.height / 2.0 + x * sin + y * cos,
                }
            })
            .collect();
        if *curved {
            curve(&moved)
        } else {
            straight(&moved)
        }
    }
}

/// Points along the lines from each to the next.
fn straight(points: &[Point]) -> Vec<Point> {
    let pairs = points.iter().zip(points.iter().skip(1));
    let along = pairs.flat_map(|(from, to)| shares().map(|share| from.toward(*to, share)));
    along.chain(points.last().copied()).collect()
}

/// Points along a Catmull-Rom curve through them all.
fn curve(points: &[Point]) -> Vec<Point> {
    let at = |index: usize| points.get(index).or(points.last()).copied();
    let mut along = Vec::with_capacity(points.len().saturating_mul(usize::from(STEPS)));
    for index in 0..points.len().saturating_sub(1) {
        let before = at(index.saturating_sub(1));
        let (Some(a), Some(b), Some(c), Some(d)) =
            (before, at(index), at(index + 1), at(index + 2))
        else {
            break;
        };
        let spline = |a: f32, b: f32, c: f32, d: f32, t: f32| {
            let cubic = 3.0f32.mul_add(b - c, d - a) * t;
            let square = 2.0f32.mul_add(a, 4.0 * c) - 5.0 * b - d;
            (((cubic + square) * t + c - a) * t).mul_add(0.5, b)
        };
        along.extend(shares().map(|t| Point {
            x: spline(a.x, b.x, c.x, d.x, t),
            y: spline(a.y, b.y, c.y, d.y, t),
        }));
    }
    along.extend(points.last().copied());
    along
}

fn shares() -> impl Iterator<Item = f32> {
    (0..STEPS).map(|step| f32::from(step) / f32::from(STEPS))
}

/// A line from side to side.
fn scratch(dice: &mut Dice) -> Vec<Point> {
    let height = wide(HEIGHT);
    let points = [-0.02, 0.33, 0.67, 1.02].map(|share| Point {
        x: wide(WIDTH) * (share + dice.between(-0.06, 0.06)),
        y: height * dice.between(0.12, 0.88),
    });
    curve(&points)
}

/// A speck or a short dash.
fn crumb(dice: &mut Dice) -> [Point; 2] {
    let from = Point {
        x: dice.between(0.0, wide(WIDTH)),
        y: dice.between(0.0, wide(HEIGHT)),
    };
    let to = Point {
        x: from.x + dice.between(-7.0, 7.0),
        y: from.y + dice.between(-7.0, 7.0),
    };
    [from, to]
}

/// What bends the whole picture: two waves in each direction.
#[derive(Debug)]
struct Waves {
    across: [Wave; 2],
    down: [Wave; 2],
}

#[derive(Clone, Copy, Debug)]
struct Wave {
    height: f32,
    /// Radians a pixel.
    rate: f32,
    phase: f32,
}

impl Wave {
    fn new(dice: &mut Dice, height: f32, length: f32) -> Self {
        Self {
            height: height * dice.between(0.6, 1.0),
            rate: std::f32::consts::TAU / (length * dice.between(0.75, 1.3)),
            phase: dice.between(0.0, std::f32::consts::TAU),
        }
    }

    fn at(self, place: f32) -> f32 {
        self.height * self.rate.mul_add(place, self.phase).sin()
    }
}

impl Waves {
    fn new(dice: &mut Dice) -> Self {
        Self {
            across: [Wave::new(dice, 6.0, 170.0), Wave::new(dice, 2.2, 48.0)],
            down: [Wave::new(dice, 4.0, 75.0), Wave::new(dice, 1.3, 26.0)],
        }
    }

    fn bend(&self, points: &[Point]) -> Vec<Point> {
        let sum =
            |waves: [Wave; 2], place: f32| waves.iter().map(|wave| wave.at(place)).sum::<f32>();
        let bend = |point: &Point| Point {
            x: point.x + sum(self.down, point.y),
            y: point.y + sum(self.across, point.x),
        };
        points.iter().map(bend).collect()
    }
}

/// How much ink lies on each pixel, from 0 to 1.
struct Canvas(Vec<f32>);

impl Canvas {
    fn new() -> Self {
        Self(vec![0.0; WIDTH * HEIGHT])
    }

    /// Draws (`ink` 1) or wipes (`ink` -1) along these points.
    fn line(&mut self, points: &[Point], width: f32, ink: f32) {
        for (from, to) in points.iter().zip(points.iter().skip(1)) {
            self.segment(*from, *to, width / 2.0, ink);
        }
    }

    fn segment(&mut self, from: Point, to: Point, radius: f32, ink: f32) {
        let reach = radius + 1.0;
        let rows = pixels(from.y.min(to.y) - reach, from.y.max(to.y) + reach, HEIGHT);
        let columns = pixels(from.x.min(to.x) - reach, from.x.max(to.x) + reach, WIDTH);
        let (dx, dy) = (to.x - from.x, to.y - from.y);
        let square = dx.mul_add(dx, dy * dy).max(1e-6);
        for row in rows {
            for column in columns.clone() {
                let (x, y) = (wide(column) - from.x, wide(row) - from.y);
                let along = (x.mul_add(dx, y * dy) / square).clamp(0.0, 1.0);
                let (x, y) = (x - along * dx, y - along * dy);
                let distance = x.mul_add(x, y * y).sqrt();
                let cover = (radius + 0.5 - distance).clamp(0.0, 1.0);
                if let Some(pixel) = self.0.get_mut(row * WIDTH + column) {
                    *pixel = if ink > 0.0 {
                        pixel.max(cover)
                    } else {
                        pixel.min(1.0 - cover)
                    };
                }
            }
        }
    }

    /// 4 bits a pixel, through a palette from paper to ink.
    fn png(&self) -> Vec<u8> {
        let mut rows = Vec::with_capacity((WIDTH / 2 + 1) * HEIGHT);
        for row in self.0.chunks(WIDTH) {
            rows.push(0); // no filter: there are few colours
            rows.extend(row.chunks(2).map(|pair| {
                let half = |index| pair.get(index).copied().map_or(0, shade);
                half(0) << 4 | half(1)
            }));
        }
        let mut packed = ZlibEncoder::new(Vec::with_capacity(4096), Compression::new(6));
        // Into memory: neither can fail.
        let packed = match packed.write_all(&rows) {
            Ok(()) => packed.finish().unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut head = Vec::with_capacity(13);
        for side in [WIDTH, HEIGHT] {
            head.extend(u32::try_from(side).unwrap_or(0).to_be_bytes());
        }
        head.extend([4, 3, 0, 0, 0]); // 4 bits, palette, deflate, usual filters, not interlaced
        chunk(&mut png, *b"IHDR", &head);
        chunk(&mut png, *b"PLTE", &palette());
        chunk(&mut png, *b"IDAT", &packed);
        chunk(&mut png, *b"IEND", &[]);
        png
    }
}

/// From paper (#f3f1ea) to ink (#20304c), in five steps: more only cost bytes.
fn palette() -> Vec<u8> {
    const STEPS: u16 = SHADES as u16 - 1;
    let mix = |paper: u16, ink: u16, step: u16| {
        u8::try_from((paper * (STEPS - step) + ink * step) / STEPS).unwrap_or(0)
    };
    (0..=STEPS)
        .flat_map(|step| {
            [
                mix(0xf3, 0x20, step),
                mix(0xf1, 0x30, step),
                mix(0xea, 0x4c, step),
            ]
        })
        .collect()
}

/// Colours in the palette.
const SHADES: u8 = 5;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 4
fn shade(ink: f32) -> u8 {
    (ink.clamp(0.0, 1.0) * f32::from(SHADES - 1)).round() as u8
}

fn chunk(png: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    png.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    let mut crc = Crc::new();
    for part in [name.as_slice(), data] {
        crc.update(part);
        png.extend(part);
    }
    png.extend(crc.sum().to_be_bytes());
}

#[allow(clippy::cast_precision_loss)] // some hundreds
fn wide(pixels: usize) -> f32 {
    pixels as f32
}

/// The pixels from `low` to `high` that there are.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // cut to what is there first
fn pixels(low: f32, high: f32, count: usize) -> std::ops::Range<usize> {
    let cut = |place: f32| place.clamp(0.0, wide(count)) as usize;
    cut(low.floor())..cut(high.ceil() + 1.0)
}
