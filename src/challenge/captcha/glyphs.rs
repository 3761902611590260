//! Letters and digits as strokes, drawn for this: no font is shipped, and no two drawings of a letter
//! have the same outline. Left out are those that are mistaken for one another once they are bent
//! (0 O Q, 1 I L, 2 Z, 5 S, 8 B 3, 6 G C, U V, E F, P R, 9 g).

/// What images are written in.
pub const ALPHABET: &[u8] = b"ACDEHJKMRTUWXY2457";

/// A stroke through these points, in a box of 100 by 100, downwards: `true` bends it into a curve.
pub type Stroke = (bool, &'static [(i8, i8)]);

/// The strokes of a character; none for one that is not in the alphabet.
#[must_use]
#[allow(clippy::too_many_lines)] // a list
pub fn strokes(character: u8) -> &'static [Stroke] {
    match character {
        b'A' => &[
            (false, &[(5, 100), (50, 0), (95, 100)]),
            (false, &[(22, 66), (78, 66)]),
        ],
        b'C' => &[(
            true,
            &[
                (90, 18),
                (68, 2),
                (34, 3),
                (9, 32),
                (9, 68),
                (34, 97),
                (68, 98),
                (92, 80),
            ],
        )],
        b'D' => &[
            (false, &[(14, 0), (14, 100)]),
            (
                true,
                &[
                    (2, 0),
                    (45, 1),
                    (80, 20),
                    (92, 50),
                    (80, 80),
                    (45, 99),
                    (2, 100),
                ],
            ),
        ],
        b'E' => &[
            (false, &[(85, 0), (14, 0), (14, 100), (87, 100)]),
            (false, &[(14, 48), (72, 48)]),
        ],
        b'H' => &[
            (false, &[(12, 0), (12, 100)]),
            (false, &[(88, 0), (88, 100)]),
            (false, &[(12, 50), (88, 50)]),
        ],
        b'J' => &[
            (
                true,
                &[(72, 0), (72, 35), (70, 75), (54, 97), (28, 97), (10, 76)],
            ),
            (false, &[(44, 0), (96, 0)]),
        ],
        b'K' => &[
            (false, &[(14, 0), (14, 100)]),
            (false, &[(84, 0), (16, 58)]),
            (false, &[(38, 40), (90, 100)]),
        ],
        b'M' => &[(false, &[(6, 100), (12, 0), (50, 66), (88, 0), (94, 100)])],
        b'R' => &[
            (false, &[(14, 0), (14, 100)]),
            (
                true,
                &[
                    (4, 2),
                    (50, 0),
                    (82, 10),
                    (86, 32),
                    (70, 50),
                    (42, 54),
                    (12, 54),
                ],
            ),
            (false, &[(46, 54), (90, 100)]),
        ],
        b'T' => &[(false, &[(4, 0), (96, 0)]), (false, &[(50, 0), (50, 100)])],
        b'U' => &[(
            true,
            &[
                (12, 0),
                (12, 40),
                (16, 78),
                (38, 98),
                (62, 98),
                (84, 78),
                (88, 40),
                (88, 0),
            ],
        )],
        b'W' => &[(false, &[(2, 0), (24, 100), (50, 30), (76, 100), (98, 0)])],
        b'X' => &[(false, &[(8, 0), (92, 100)]), (false, &[(92, 0), (8, 100)])],
        b'Y' => &[
            (false, &[(6, 0), (50, 50), (94, 0)]),
            (false, &[(50, 50), (50, 100)]),
        ],
        b'2' => &[
            (
                true,
                &[
                    (12, 26),
                    (24, 5),
                    (52, 0),
                    (82, 12),
                    (84, 36),
                    (60, 62),
                    (30, 84),
                    (10, 100),
                ],
            ),
            (false, &[(10, 100), (90, 100)]),
        ],
        b'4' => &[
            (false, &[(62, 0), (8, 68), (94, 68)]),
            (false, &[(66, 30), (66, 100)]),
        ],
        b'5' => &[
            (false, &[(84, 0), (24, 0), (18, 44)]),
            (
                true,
                &[
                    (18, 44),
                    (48, 36),
                    (80, 48),
                    (88, 70),
                    (74, 92),
                    (42, 100),
                    (10, 88),
                ],
            ),
        ],
        b'7' => &[
            (false, &[(6, 0), (92, 0), (38, 100)]),
            (false, &[(40, 52), (82, 52)]),
        ],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_of_the_alphabet_can_be_drawn() {
        for character in ALPHABET {
            let strokes = strokes(*character);
            assert!(!strokes.is_empty(), "{}", char::from(*character));
            for (_, points) in strokes {
                assert!(points.len() >= 2);
            }
        }
        assert!(strokes(b'O').is_empty());
        for (position, character) in ALPHABET.iter().enumerate() {
            assert!(!ALPHABET[..position].contains(character));
        }
    }
}
